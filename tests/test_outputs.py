"""What networks take and return: tensors, or several of them by name; and what is one line."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import running
import torch
from running import Refused, Run, on
from torch import Tensor, nn

import ecqx
from ecqx.data import Split
from ecqx.errors import InputError
from ecqx.models import networks
from ecqx.modules import main_output
from ecqx.relevance import LRP, weight_relevance
from ecqx.training.evaluation import scores
from ecqx.training.objectives import objective_of
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

# The fixtures of these tests.
place, run, refused, tree = running.place, running.run, running.refused, running.tree

Wrap = Callable[[Tensor], Any]
Named = namedtuple("Named", ["logits", "aux"])


class Returning(nn.Module):
    """An MLP whose logits come in some wrapping."""

    def __init__(self, wrap: Wrap, features: int = 6, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))
        )
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layers(x))


class Output(OrderedDict[str, Tensor]):
    """As of transformers: a dict with a loss."""


WRAPS: dict[str, Wrap] = {
    "out": lambda logits: {"out": logits, "aux": logits * 2},
    "logits": lambda logits: {"logits": logits, "hidden": (logits,)},
    "an ordered dict": lambda logits: Output(loss=logits.mean(), logits=logits),
    "a named tuple": lambda logits: Named(logits, None),
    "an object": lambda logits: SimpleNamespace(logits=logits, loss=None),
    "a list of one": lambda logits: [logits],
    "a tuple of one": lambda logits: (logits,),
}
UNCLEAR: dict[str, tuple[Wrap, str]] = {
    "two": (lambda logits: (logits, logits), "tuple of 2, but must return its logits: a tensor, "),
    "a list": (lambda logits: [logits] * 3, "list of 3, but"),
    "other names": (lambda logits: {"loss": 0.0, "pred": logits}, "dict of 'loss', 'pred', but"),
    "nothing": (lambda logits: None, "NoneType, but"),
    "a number": (lambda logits: 1.0, "float, but"),
    "names without a tensor": (lambda logits: {"out": None, "logits": 3}, "dict of 'out', 'logi"),
}


def inputs(count: int = 10, features: int = 6) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(1))


def split(y: Tensor) -> Split:
    return Split(inputs(len(y)), y)


def trainer(model: nn.Module, y: Tensor, quantized: bool = True) -> Trainer:
    q = ecqx.ECQx(model, relevance=LRP()) if quantized else None
    fit = FitSettings(epochs=1, lr=1e-3, batch_size=4)
    return Trainer(model, split(y), split(y), fit, quantizer=q)


CLASSES = torch.arange(10) % 3


@pytest.mark.parametrize("kind", WRAPS)
def test_logits_by_name_are_the_logits(kind: str) -> None:
    plain, wrapped = Returning(lambda logits: logits), Returning(WRAPS[kind])
    assert torch.equal(main_output(wrapped(inputs())), plain(inputs()))
    expected, found = (weight_relevance(m, inputs(), CLASSES) for m in (plain, wrapped))
    assert all(torch.equal(found[name], relevance) for name, relevance in expected.items())
    assert trainer(wrapped, CLASSES).fit() == trainer(plain, CLASSES).fit()
    assert scores(wrapped, split(CLASSES)) == scores(plain, split(CLASSES))


@pytest.mark.parametrize("kind", UNCLEAR)
def test_an_unclear_output_is_one_line_and_changes_nothing(kind: str) -> None:
    wrap, message = UNCLEAR[kind]
    training = trainer(Returning(wrap), CLASSES)
    before = {name: tensor.clone() for name, tensor in training.trained.state_dict().items()}
    with pytest.raises(InputError, match=f"^the network returns a {message}") as caught:
        training.fit()
    assert "\n" not in str(caught.value)
    after = training.trained.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(InputError, match=f"^the network returns a {message}"):
        weight_relevance(Returning(wrap), inputs(), CLASSES)
    with pytest.raises(InputError, match=f"^the network returns a {message}"):
        scores(Returning(wrap), split(CLASSES))


# -- several inputs --------------------------------------------------------------------------------


class Two(nn.Module):
    """A network of two inputs, an image and what is known about it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, image: Tensor, known: Tensor, factor: float = 1.0) -> Tensor:
        logits: Tensor = self.layers(torch.cat([image, known], 1)) * factor
        return logits


@pytest.mark.parametrize("samples", [None, 4])
@pytest.mark.parametrize("of", ["stepped", "quantized", "full_precision"])
def test_several_inputs_are_arguments(of: Any, samples: int | None) -> None:
    """By position, by name, and all in one tensor: the same training."""
    x, y = inputs(10, 10), CLASSES
    given: dict[str, Any] = {
        "one": x,
        "positions": (x[:, :6], x[:, 6:]),
        "a list": [x[:, :6], x[:, 6:]],
        "names": {"known": x[:, 6:], "image": x[:, :6]},
        "a number beside": {"known": x[:, 6:], "image": x[:, :6], "factor": 1.0},
        "half precision": (x[:, :6].half(), x[:, 6:].half()),
    }
    found = {}
    for kind, batch in given.items():
        two = Two()
        q = ecqx.ECQx(two.layers if kind == "one" else two, relevance=LRP(of=of, samples=samples))
        q.update(batch, y)
        values = q.relevance.values.items()
        found[kind] = {name.removeprefix("layers."): relevance for name, relevance in values}
    half = found.pop("half precision")
    for relevance in found.values():
        assert relevance.keys() == found["one"].keys() == half.keys()
        assert all(torch.equal(relevance[name], r) for name, r in found["one"].items())


# -- targets that do not fit -----------------------------------------------------------------------

LATE = CLASSES.clone()
LATE[9] = 3
MISFITS: dict[str, tuple[int, Tensor, str]] = {
    "binary logits with classes": (1, torch.arange(10) % 2, r"of shape \(4, 1\) for targets of"),
    "a regression": (3, inputs(10, 3) * 5, "values from .* a regression has none"),
    "a regression of one number": (1, inputs(10, 1) * 5, "values from .* a regression has none"),
    "a late label": (3, LATE, "labels from 0 to 3, but the model has the classes 0 to 2"),
    "negative": (3, CLASSES - 1, "labels from -1 to 1, but the model has the classes 0 to 2"),
    "more labels than logits": (3, torch.ones(10, 4), "do not fit logits of"),
    "pixels": (3, torch.zeros(10, 4, 4).long(), "do not fit logits of"),
    "NaN": (3, torch.full((10, 3), float("nan")), "values from nan"),
}


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("kind", MISFITS)
def test_targets_that_do_not_fit_are_one_line_at_the_first_batch(
    kind: str, quantized: bool
) -> None:
    classes, y, message = MISFITS[kind]
    training = trainer(Returning(lambda logits: logits, classes=classes), y, quantized)
    before = {name: tensor.clone() for name, tensor in training.trained.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        training.fit()
    assert "\n" not in str(caught.value)
    after = training.trained.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "y", [torch.ones(10), torch.ones(10, 3).long(), torch.ones(10, 2, 2), torch.tensor(3)]
)
def test_targets_of_no_task_are_one_line(y: Tensor) -> None:
    with pytest.raises(InputError, match=r"^no objective for targets of shape .*classes are"):
        objective_of(y)


@pytest.mark.parametrize("x", [(inputs(), inputs()), {"image": inputs()}, [inputs()], None])
def test_a_split_of_several_inputs_is_one_line(x: Any) -> None:
    with pytest.raises(InputError, match=r"^the inputs of a split are one tensor, not a "):
        Split(x, CLASSES)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_takes_logits_by_name_and_refuses_what_is_unclear(
    tree: Path, run: Run, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_network(wrap: Wrap, classes: int = 3) -> None:
        def make(in_features: int, num_classes: int) -> nn.Module:
            return Returning(wrap, in_features, classes)

        monkeypatch.setitem(networks._NETWORKS, "mlp_gsc", make)

    arguments = on(tree, "--model", "mlp_gsc", "--epochs", 1, "--lrp")
    arguments.remove("--model_rand_int")
    with_network(UNCLEAR["two"][0])
    assert "the network returns a tuple of 2, but must return its logits" in refused(*arguments)
    with_network(UNCLEAR["other names"][0])
    assert "the network returns a dict of 'loss', 'pred'" in refused(*arguments)
    with_network(lambda logits: logits, classes=1)
    assert "its logits have shape (2, 1), not (2, 3)" in refused(*arguments)
    with_network(WRAPS["logits"])
    code, out, _ = run(*arguments)
    assert code == 0
    assert "decoded file" in out
