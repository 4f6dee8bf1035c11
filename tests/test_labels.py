"""Which labels count: classes, pixels, several labels; and what is refused before a change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

import ecqx
from ecqx.data import Preparation
from ecqx.relevance import LRP, output_relevance, weight_relevance
from ecqx.relevance import output as start
from ecqx.training.objectives import CLASSIFICATION, SEGMENTATION


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(classes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))


# -- what counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [256, 300, 1000])
def test_class_255_is_a_class_like_any_other(classes: int) -> None:
    """Renumbering the classes renumbers the relevances of the last layer, and changes no other."""
    model, x, y = network(classes), random(8, 6), torch.tensor([255, 3, 255, 0, 254, 7, 3, 255])
    order = torch.arange(classes)
    order[[255, 3]] = order[[3, 255]]
    expected = weight_relevance(model, x, y)
    assert expected["2.weight"][255].any()
    model[2].weight.data, model[2].bias.data = model[2].weight[order], model[2].bias[order]
    found = weight_relevance(model, x, order[y])
    assert torch.equal(found["2.weight"][order], expected["2.weight"])
    assert torch.equal(found["0.weight"], expected["0.weight"])


def test_class_255_survives_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256, bias=False))
    x, y = torch.eye(256), torch.arange(256)
    model[0].weight.data = torch.eye(256) + 0.01 * random(256, 256)
    q = ecqx.ECQx(model, lam=0.3, relevance=LRP(of="full_precision"))
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        q.transfer_gradients()
        optimizer.step()
        q.update(x, y)
    assert q.relevance.values["0.weight"][255].any()
    assert (model(x).argmax(1) == y).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_what_torch_ignores_has_no_relevance(dtype: torch.dtype) -> None:
    """The labelled samples alone, which are half of the batch that divides."""
    model, x, y = network(5), random(8, 6), torch.arange(8) % 5
    some = y.clone()
    some[::2] = -100
    found = weight_relevance(model, x, some.to(dtype))
    for name, expected in weight_relevance(model, x[1::2], y[1::2]).items():
        torch.testing.assert_close(found[name], expected / 2)
    nothing = weight_relevance(model, x, torch.full((8,), -100))
    assert not any(relevance.any() for relevance in nothing.values())


@pytest.mark.parametrize(
    ("classes", "ignored"), [(21, {-100, 255}), (255, {-100, 255}), (256, {-100}), (300, {-100})]
)
def test_pixels_without_a_label(classes: int, ignored: set[int]) -> None:
    """255 is a mark only where it is no class; the loss and the metrics agree."""
    logits = random(2, classes, 4, 4)
    y = torch.randint(0, min(classes, 255), (2, 4, 4), generator=torch.Generator().manual_seed(1))
    y[0, 0], y[1, 1] = 255, -100
    counted = [p for p in torch.nonzero(y > -1000).tolist() if int(y[tuple(p)]) not in ignored]
    expected = torch.zeros_like(logits)
    for n, i, j in counted:
        expected[n, y[n, i, j], i, j] = logits[n, y[n, i, j], i, j] / 2
    assert torch.equal(output_relevance(logits, y, "output"), expected)
    losses = [F.cross_entropy(logits[n, :, i, j], y[n, i, j]) for n, i, j in counted]
    torch.testing.assert_close(SEGMENTATION.loss(logits, y), torch.stack(losses).mean())
    hits = [logits[n, :, i, j].argmax() == y[n, i, j] for n, i, j in counted]
    accuracy = SEGMENTATION.score([(logits, y)])["pixel accuracy"]
    assert accuracy == pytest.approx(sum(map(int, hits)) / len(counted))


def test_a_byte_is_no_negative_number() -> None:
    """-100 in eight bits is 156, a class."""
    logits, y = random(1, 200, 2, 2), torch.full((1, 2, 2), 156, dtype=torch.uint8)
    assert torch.equal(output_relevance(logits, y, "ones")[0, 156], torch.ones(2, 2))


def test_the_accuracy_is_that_of_the_labelled_samples() -> None:
    logits, y = torch.eye(4), torch.tensor([0, 1, -100, 2])
    assert CLASSIFICATION.score([(logits, y)]) == {"top-1 accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="needs a sample with a label"):
        CLASSIFICATION.score([(logits, torch.full((4,), -100))])


@pytest.mark.parametrize(("dtype", "mark"), [(torch.uint8, 255), (torch.int64, -100)])
def test_the_rim_of_a_crop_has_no_label(dtype: torch.dtype, mark: int) -> None:
    """In bytes it is 255; in integers, which may number more than 255 classes, -100."""
    images, y = torch.zeros(8, 3, 4, 4), torch.full((8, 4, 4), 7, dtype=dtype)
    _, cropped = Preparation(padding=4)(images, y, torch.Generator().manual_seed(0))
    assert set(cropped.unique().tolist()) == {7, mark}


@pytest.mark.parametrize("shape", [(), (3, 5)])
def test_a_single_logit_is_a_label_of_its_own(shape: tuple[int, ...]) -> None:
    """Of shape (B, 1): integers of shape (B,) say whether it is present, as for (B, 1)."""
    logits, y = random(6, 1, *shape), torch.arange(6 * math.prod(shape)).reshape(6, *shape) % 2
    expected = torch.where(y.unsqueeze(1) == 1, logits.sigmoid(), 0) / 6
    for targets in (y, y.float(), y.unsqueeze(1), y.unsqueeze(1).bool()):
        torch.testing.assert_close(output_relevance(logits, targets, "probability"), expected)
    y[1] = -100
    assert not output_relevance(logits, y, "ones")[1].any()


# -- what is refused -------------------------------------------------------------------------------

WRONG: dict[str, tuple[Tensor, str]] = {
    "too high": (torch.tensor([0, 1, 5, 2]), "labels from 0 to 5, but the model has .* 0 to 4; "),
    "counted from one": (torch.tensor([1, 2, 5, 3]), "labels from 1 to 5, .* -100 marks what to"),
    "negative": (torch.tensor([0, -1, 2, 3]), "labels from -1 to 3"),
    "the mark of pixels": (torch.tensor([0, 255, 2, 3]), "labels from 0 to 255"),
    "floats": (torch.tensor([0.0, 1.0, 2.0, 3.0]), "are classes, integers from 0 to 4, not"),
    "a regression": (
        random(4, 5) * 10,
        "labels of single logits are 0 or 1, and a regression has none",
    ),
    "NaN": (
        torch.full((4, 5), math.nan),
        "values from nan to nan; labels of single logits are 0 or 1",
    ),
    "-100 among several labels": (torch.full((4, 5), -100), "values from -100 to -100"),
}


@pytest.mark.parametrize("of", ["stepped", "quantized", "full_precision"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_label_out_of_range_is_one_line_and_changes_nothing(kind: str, of: Any) -> None:
    y, message = WRONG[kind]
    model, x = network(5), random(4, 6)
    q = ecqx.ECQx(model, relevance=LRP(of=of))
    q.update(x, torch.arange(4))
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        q.update(x, y)
    assert "\n" not in str(caught.value)
    after = q.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(ValueError, match=message):
        weight_relevance(model, x, y)


class Late:
    """An event of a GPU that has not happened until it is waited for."""

    def __init__(self) -> None:
        self.happened = False

    def query(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        self.happened = True


class NoWait(TorchDispatchMode):
    """Operations that read a value, for which a GPU would be waited for, are errors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket._qualified_op_name not in (
            *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::item", "aten::equal"),
            *("aten::nonzero", "aten::masked_select", "aten::unique2"),
        )
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_a_gpu_to_look_at_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong label is ignored until its copy is complete; `sparsity` and `start_epoch` wait."""
    events: list[Late] = []

    def on_its_way(extent: Tensor) -> tuple[Tensor, Late]:
        events.append(Late())
        return extent, events[-1]

    monkeypatch.setattr(start, "_on_its_way", on_its_way)
    x, good, wrong = random(4, 6), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 700])
    for notice in ("update", "start_epoch", "sparsity"):
        q = ecqx.ECQx(network(5), relevance=LRP())
        q.update(x, good)
        q.update(x, wrong)
        assert all(torch.isfinite(r).all() for r in q.relevance.values.values())
        if notice == "update":
            for event in events:
                event.happened = True
            with pytest.raises(ValueError, match="labels from 0 to 700"):
                q.update(x, good)
        else:
            with pytest.raises(ValueError, match="labels from 0 to 700"):
                getattr(q, notice)()
    with NoWait():
        check = start.LabelCheck(waits=False)
        output_relevance(random(4, 5), wrong, "probability", check)
        output_relevance(random(2, 5, 3, 3), torch.zeros(2, 3, 3).long(), "output", check)
    with pytest.raises(ValueError, match="labels from 0 to 700"):
        check.finish()
