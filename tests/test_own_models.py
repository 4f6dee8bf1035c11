"""Models of all kinds: each works, with weights on the grid, or says in one line why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from promise import assert_file_is_model, train
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import ecqx
import ecqx.quantizers.parameters
from ecqx.coding.inspection import inspect
from ecqx.methods.lsq import LearnedSteps
from ecqx.modules import unwrapped
from ecqx.relevance import LRP, weight_relevance

Make = Callable[[], nn.Module]
METHODS: dict[str, LRP | None] = {"ECQ": None, "ECQx": LRP()}


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(10, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def classes(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % 5


def check(make: Make, x: Tensor, lrp: LRP | None, path: Path, **settings: object) -> ecqx.ECQx:
    """Quantize and train; weights are on the grid, and a file restores the model elsewhere."""
    torch.manual_seed(0)
    model = make()
    q = ecqx.ECQx(model, lam=0.1, relevance=lrp, **settings)
    before = q.integers()
    train(q, model, x, classes(x))
    parameters = dict(q.model.named_parameters(remove_duplicate=False))
    for name, k in q.integers().items():
        values = torch.from_numpy(k.numpy().astype(np.float32) * np.float32(q.grids[name].step))
        assert torch.equal(parameters[name].data, values.to(parameters[name].dtype)), name
        if parameters[name].requires_grad:
            assert not torch.equal(k, before[name]), name
    ecqx.save(path, q)
    other = unwrapped(make())
    other.load_state_dict(ecqx.load(path))
    for name, tensor in q.model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    with torch.no_grad():
        assert torch.equal(q.model.eval()(x), other.eval()(x))
    kinds = {record.name: record.kind for record in inspect(path).tensors}
    for record in q.parameter_records():
        assert (kinds[record.name] == "quantized") == record.quantized
    return q


# -- kinds of layers -------------------------------------------------------------------------------


def chain(*layers: nn.Module) -> nn.Sequential:
    """Layers with a ReLU after each, and a linear layer without bias that fits them."""
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(5, bias=False))


LAYERS: dict[str, tuple[Callable[[], list[nn.Module]], Tensor]] = {
    "Conv1d": (lambda: [nn.Conv1d(2, 4, 3, bias=False)], inputs(2, 8)),
    "Conv3d": (lambda: [nn.Conv3d(2, 4, 3, bias=False)], inputs(2, 4, 4, 4)),
    "ConvTranspose1d": (lambda: [nn.ConvTranspose1d(2, 4, 3, bias=False)], inputs(2, 6)),
    "ConvTranspose2d": (
        lambda: [nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2, bias=False)],
        inputs(4, 3, 3),
    ),
    "ConvTranspose3d": (lambda: [nn.ConvTranspose3d(2, 4, 2, bias=False)], inputs(2, 3, 3, 3)),
    "grouped": (
        lambda: [
            nn.Conv2d(4, 8, 3, groups=4, bias=False),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),
        ],
        inputs(4, 6, 6),
    ),
    "Linear": (lambda: [nn.Linear(6, 8, bias=False)], inputs(6)),
    "Embedding": (lambda: [nn.Embedding(20, 8)], torch.arange(50).reshape(10, 5) % 20),
}


def made(name: str) -> Make:
    layers, x = LAYERS[name]

    def make() -> nn.Module:
        model = chain(*layers())
        model(x)
        return model

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer(name: str, method: str, tmp_path: Path) -> None:
    q = check(made(name), LAYERS[name][1], METHODS[method], tmp_path / "model.ecqx")
    assert all(record.quantized for record in q.parameter_records())


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_layers_weights_receive_the_whole_relevance(name: str, weight_rule: str) -> None:
    """Without biases and with the epsilon rule, the outputs' relevance is that of each layer."""
    torch.manual_seed(0)
    model, x = made(name)().double(), LAYERS[name][1]
    x = x.double() if x.is_floating_point() else x
    found = weight_relevance(
        model, x, torch.arange(len(x)) % 5, "epsilon_flat", output="ones", weight_rule=weight_rule
    )
    assert list(found) == [name for name, p in model.named_parameters() if p.ndim > 1]
    for name, relevance in found.items():
        assert relevance.shape == dict(model.named_parameters())[name].shape
        # The epsilon in a denominator takes a little where it is near zero.
        assert float(relevance.sum()) == pytest.approx(1, abs=1e-2)


def test_rows_of_an_embedding_that_no_sample_uses_have_no_relevance() -> None:
    model = made("Embedding")()
    relevance = weight_relevance(model, torch.tensor([[3, 3, 7, 1, 1]]), torch.tensor([2]))
    used = relevance["0.weight"].abs().sum(1).nonzero().flatten().tolist()
    assert used == [1, 3, 7]


# -- kinds of parameters ---------------------------------------------------------------------------


def plain(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).to(dtype)


class Tied(nn.Module):
    """A matrix that maps words to vectors, and vectors to the logits of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 6), nn.Linear(6, 5)
        self.hidden = nn.Linear(6, 6, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.words(x).mean(1)))
        return logits


WORDS = torch.arange(40).reshape(10, 4) % 5


@pytest.mark.parametrize("method", METHODS)
def test_tied_weights_are_integers_under_each_of_their_names(method: str, tmp_path: Path) -> None:
    q = check(Tied, WORDS, METHODS[method], tmp_path / "model.ecqx")
    assert q.model.head.weight is q.model.words.weight
    records = {record.name: record for record in q.parameter_records()}
    assert list(records) == ["words.weight", "head.weight", "head.bias", "hidden.weight"]
    assert records["head.weight"].remark == "the same as words.weight"
    assert records["head.weight"].shared
    assert records["head.weight"].step == records["words.weight"].step is not None
    assert "66 of 71 elements are quantized (93.0%)" in q.summary()


def test_tied_weights_have_the_relevance_of_all_their_uses() -> None:
    torch.manual_seed(0)
    model, y = Tied().double(), torch.arange(10) % 5
    tied = weight_relevance(model, WORDS, y, "epsilon_plus")
    model.head.weight = nn.Parameter(model.words.weight.detach().clone())
    apart = weight_relevance(model, WORDS, y, "epsilon_plus")
    both = apart["words.weight"] + apart["head.weight"]
    torch.testing.assert_close(tied["words.weight"], both)
    assert set(tied) == {"words.weight", "hidden.weight"}


def test_a_tied_weight_is_excluded_by_any_of_its_names() -> None:
    q = ecqx.ECQx(Tied(), exclude=["head"])
    assert list(q.weights) == ["hidden.weight"]
    remarks = {record.name: record.remark for record in q.parameter_records()}
    assert remarks["words.weight"] == "excluded by 'head'"
    assert remarks["head.weight"] == "excluded by 'head', the same as words.weight"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, method: str, tmp_path: Path) -> None:
    q = check(lambda: plain(dtype), inputs(6, dtype=dtype), METHODS[method], tmp_path / "m.ecqx")
    copies = torch.float64 if dtype == torch.float64 else torch.float32
    assert {copy.dtype for copy in q.latent.values()} == {copies}
    assert {p.dtype for p in q.model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_relevance_of_half_precision_is_measured_in_full(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    half = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten())
    half = half.append(nn.Linear(24, 5)).to(dtype)
    full = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten())
    full = full.append(nn.Linear(24, 5))
    full.load_state_dict(half.state_dict())
    x, y = inputs(2, 8, dtype=dtype), torch.arange(10) % 5
    before = {name: (t.dtype, t.clone()) for name, t in half.state_dict().items()}
    found, expected = weight_relevance(half, x, y), weight_relevance(full, x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        surrounded = weight_relevance(full, x.float(), y)
    for name, relevance in expected.items():
        assert torch.equal(found[name], relevance)
        assert torch.equal(surrounded[name], relevance)
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == before[name][0]
        assert torch.equal(tensor, before[name][1])


def frozen() -> nn.Sequential:
    model = plain()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_are_quantized_but_not_trained(method: str, tmp_path: Path) -> None:
    q = check(frozen, inputs(6), METHODS[method], tmp_path / "model.ecqx")
    torch.manual_seed(0)
    assert torch.equal(q.latent["0.weight"], frozen()[0].weight)
    remarks = [record.remark for record in q.parameter_records()]
    frozen_remarks = ["frozen: not trained", "one dimension, frozen: not trained"]
    assert remarks == [*frozen_remarks, "", "one dimension"]


class Odd(nn.Module):
    """Parameters that no grid fits."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
        self.nothing = nn.Parameter(torch.ones(3, 0))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.body = plain()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x * self.scale)
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_what_no_grid_fits_is_kept_and_told(method: str, tmp_path: Path) -> None:
    q = check(Odd, inputs(6), METHODS[method], tmp_path / "model.ecqx")
    kept = {record.name: record.remark for record in q.parameter_records() if not record.quantized}
    assert kept == {
        "table": "not floating point (int8), frozen: not trained",
        "nothing": "no elements",
        "scale": "a single number",
        "body.0.bias": "one dimension",
        "body.2.bias": "one dimension",
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_wrapped_model_goes_by_the_names_of_the_model(method: str, tmp_path: Path) -> None:
    q = check(lambda: nn.DataParallel(plain()), inputs(6), METHODS[method], tmp_path / "m.ecqx")
    assert list(q.weights) == ["0.weight", "2.weight"]
    model, x, y = plain(), inputs(6), torch.arange(10) % 5
    expected = weight_relevance(model, x, y)
    for wrap in (nn.DataParallel, lambda m: torch.compile(m, backend="eager")):
        found = weight_relevance(wrap(model), x, y)
        assert list(found) == list(expected)
        assert unwrapped(wrap(model)) is model
        ecqx.save(tmp_path / "plain.ecqx", wrap(model))
        assert list(ecqx.load(tmp_path / "plain.ecqx")) == list(model.state_dict())


def compiled_part(wrap: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    """A model of which a part is compiled, and a layer of the part by itself, too."""
    inner = nn.Sequential(nn.Linear(6, 16), wrap(nn.Linear(16, 8)))
    return nn.Sequential(wrap(inner), nn.ReLU(), nn.Linear(8, 5))


def eager(module: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(module, backend="eager")
    return compiled


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_parts_go_by_the_names_of_the_model(
    method: str, when: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = compiled_part(eager if when == "before" else lambda module: module)
    q = ecqx.ECQx(model, lam=0.1, relevance=METHODS[method])
    if when == "after":
        model[0] = eager(model[0])
    names = ["0.0.weight", "0.1.weight", "2.weight"]
    assert list(q.weights) == names
    train(q, model, inputs(6), classes(inputs(6)))
    plain_model = compiled_part(lambda module: module)
    assert_file_is_model(q, plain_model, inputs(6), tmp_path / "model.ecqx")
    assert [record.name for record in q.parameter_records() if record.quantized] == names
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    other = ecqx.ECQx(compiled_part(lambda module: module), lam=0.1, relevance=METHODS[method])
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in state.items())
    q.load_state_dict(state)
    ecqx.save(tmp_path / "module.ecqx", model)
    assert list(ecqx.load(tmp_path / "module.ecqx")) == list(plain_model.state_dict())
    found = weight_relevance(model, inputs(6), torch.arange(10) % 5)
    assert list(found) == names


class Columns(nn.Module):
    """Two parameters that are columns of one matrix: they share no element."""

    def __init__(self, first: slice, second: slice) -> None:
        super().__init__()
        whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
        self.a, self.b = nn.Parameter(whole[:, first]), nn.Parameter(whole[:, second])
        self.head = nn.Linear(self.a.shape[1] + self.b.shape[1], 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([x @ self.a, x @ self.b], 1).relu())
        return logits


@pytest.mark.parametrize(
    ("first", "second"), [(slice(0, 4), slice(4, 8)), (slice(0, 8, 2), slice(1, 8, 2))]
)
def test_columns_of_one_matrix_share_nothing(first: slice, second: slice, tmp_path: Path) -> None:
    model = Columns(first, second)
    q = ecqx.ECQx(model, lam=0.05, include=["a", "b"])
    train(q, model, inputs(6), classes(inputs(6)))
    assert_file_is_model(q, Columns(first, second), inputs(6), tmp_path / "model.ecqx")


def test_columns_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^a and b share memory"):
        ecqx.ECQx(Columns(slice(0, 5), slice(4, 8)), include=["a", "b"])
    with pytest.raises(ValueError, match=r"^a and b share memory"):
        ecqx.ECQx(Columns(slice(0, 8, 2), slice(0, 8, 3)), include=["a", "b"])


def test_sparsity_of_weights_of_several_types() -> None:
    model = nn.Sequential(nn.Linear(9, 8).double(), nn.Linear(8, 7), nn.Linear(7, 6).bfloat16())
    q = ecqx.ECQx(model, lam=0.3)
    zeros = torch.cat([(w == 0).flatten() for w in q.weights.values()]).double()
    assert q.sparsity() == pytest.approx(float(zeros.mean()))
    model[0].weight.data[0, 0] = q.latent["0.weight"].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^0\.weight: weight holds NaN"):
        q.sparsity()


class Twice(nn.Module):
    """A layer that is used twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(6, 6, bias=False), nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.first(self.relu(self.first(x))))
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_used_twice(method: str, tmp_path: Path) -> None:
    check(Twice, inputs(6), METHODS[method], tmp_path / "model.ecqx")


# -- what LRP has no rule for ----------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention by torch's own module, whose matrices are used without calls of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        logits: Tensor = self.head(attended.mean(1))
        return logits


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


def test_layers_without_a_rule(tmp_path: Path) -> None:
    x, named = inputs(4, 8), "lstm.weight_ih_l0"
    check(Recurrent, x, None, tmp_path / "model.ecqx")
    with pytest.raises(ValueError, match=f"^LRP has no rule for {named}; exclude it or use ECQ"):
        check(Recurrent, x, LRP(), tmp_path / "model.ecqx")
    q = check(Recurrent, x, LRP(), tmp_path / "model.ecqx", exclude=["lstm"])
    assert list(q.weights) == ["head.weight"]


@pytest.mark.parametrize("composite", ["epsilon_plus_flat_bn_pass", "attnlrp"])
def test_attention_of_torch(composite: str, tmp_path: Path) -> None:
    q = check(Attention, inputs(4, 8), LRP(composite), tmp_path / "model.ecqx")
    assert list(q.weights) == [
        *("attention.in_proj_weight", "attention.out_proj.weight", "head.weight")
    ]


class Unused(nn.Module):
    """Has a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.head = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


def test_a_layer_that_is_not_called() -> None:
    model = Unused()
    q = ecqx.ECQx(model, relevance=LRP())
    with pytest.raises(ValueError, match=r"^no relevance reaches unused\.weight: "):
        train(q, model, inputs(8), classes(inputs(8)))


# -- what cannot be quantized ----------------------------------------------------------------------


class Overlapping(nn.Module):
    """Two parameters in one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight.data = self.a.weight.data


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.LazyLinear(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Overlapping, r"a\.weight and b\.weight share memory, .*: model\.b\.weight = model\.a\.we"),
        (lazy, "2.weight: has no shape yet; send a batch through the lazy model first"),
        (lambda: plain().to("meta"), "0.weight: is on the meta device, without values; load"),
    ],
)
def test_what_cannot_be_quantized_gets_one_line(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        ecqx.ECQx(make())
    assert "\n" not in str(caught.value)


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, whose second matrix starts at zero."""

    def __init__(self, second: Tensor) -> None:
        super().__init__()
        self.layer = plain()
        self.A, self.B = nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)
        self.B.weight = nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x) + self.B(self.A(x))
        return logits


ZEROS = {
    "zeros": torch.zeros(5, 2),
    "negative zeros": -torch.zeros(5, 2),
    "half precision": torch.zeros(5, 2, dtype=torch.bfloat16),
    "zeros in float32": torch.full((5, 2), 1e-60, dtype=torch.float64),
}


@pytest.mark.parametrize("quantizer", [ecqx.ECQx, ecqx.EC2T, ecqx.FantastIC4, LearnedSteps])
@pytest.mark.parametrize("kind", ZEROS)
def test_a_layer_of_zeros_is_refused_by_name(kind: str, quantizer: Any) -> None:
    settings = {"bits": 4} if quantizer is LearnedSteps else {}
    model = Adapted(ZEROS[kind])
    with pytest.raises(ValueError, match=r"^B\.weight: all its weights are zero, .*exclude") as e:
        quantizer(model, **settings)
    assert "\n" not in str(e.value)
    assert "B.weight" not in quantizer(model, exclude=["B."], **settings).weights
    one = ZEROS[kind].clone()
    one[0, 0] = 1e-3
    assert "B.weight" in quantizer(Adapted(one), **settings).weights
    # A grid by itself has the step 1.
    assert ecqx.CentroidGrid.fit(ZEROS[kind]).step == 1


@pytest.mark.parametrize("make", [lazy, lambda: plain().to("meta")])
def test_a_model_without_values_has_no_relevance_and_no_file(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^\d\.weight: .*(first|load the weights)$"):
        weight_relevance(make(), inputs(6), torch.arange(10) % 5)
    with pytest.raises(ValueError, match=r"^\d\.weight: .*(first|load the weights)$"):
        ecqx.save(tmp_path / "model.ecqx", make())
    assert not any(tmp_path.iterdir())


def pruned() -> nn.Module:
    model = plain()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def weight_norm() -> nn.Module:
    model = plain()
    parametrizations.weight_norm(model[0])
    return model


def old_weight_norm() -> nn.Module:
    model = plain()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    return model


REMOVED: dict[str, tuple[Make, str, Callable[[nn.Module], object]]] = {
    "prune": (pruned, "weight_orig", lambda layer: prune.remove(layer, "weight")),
    "parametrization": (
        weight_norm,
        "parametrizations.weight.original0",
        lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    ),
    "weight norm": (old_weight_norm, "weight_g", nn.utils.remove_weight_norm),
}


@pytest.mark.parametrize("kind", REMOVED)
def test_weights_that_are_computed_are_no_parameters(kind: str, tmp_path: Path) -> None:
    make, source, remove = REMOVED[kind]
    with pytest.raises(ValueError, match=rf"^0\.{source}: weight is computed from it .*exclude"):
        ecqx.ECQx(make())
    for lrp in (None, LRP()):
        q = check(make, inputs(6), lrp, tmp_path / "model.ecqx", exclude=["0."])
        assert list(q.weights) == ["2.weight"]

    def made_permanent() -> nn.Module:
        model = make()
        remove(model[0])
        return model

    q = check(made_permanent, inputs(6), LRP(), tmp_path / "model.ecqx")
    assert set(q.weights) == {"0.weight", "2.weight"}


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_has_its_line(method: str) -> None:
    torch.manual_seed(0)
    model = ecqx.models.build("resnet20")
    q = ecqx.ECQx(model, bits=3, lam=0.2, relevance=METHODS[method], exclude=["layer2", "linear"])
    records = q.parameter_records()
    assert [record.name for record in records] == [name for name, _ in model.named_parameters()]
    lines = q.summary().split("\n")
    layers = {layer["layer"]: layer for layer in q.layers()}
    for line, record in zip(lines[2:], records, strict=False):
        parameter = model.get_parameter(record.name)
        assert record.shape == tuple(parameter.shape)
        assert record.elements == parameter.numel()
        cells = line.split()
        assert cells[0] == record.name
        if record.quantized:
            assert record.name in q.weights
            layer = layers[record.name]
            assert (record.bits, record.step) == (3, q.grids[record.name].step)
            assert record.sparsity == layer["sparsity"]
            assert record.entropy_bits_per_weight == layer["entropy_bits_per_weight"]
            assert f"{record.sparsity:.1%}" in cells
        else:
            assert record.remark in (
                "one dimension",
                "excluded by 'layer2'",
                "excluded by 'linear'",
            )
            assert line.endswith(record.remark)
            assert (record.bits, record.step, record.sparsity) == (None, None, None)
    total = sum(record.elements for record in records)
    quantized = sum(weight.numel() for weight in q.weights.values())
    assert lines[-1] == (
        f"{quantized:,} of {total:,} elements are quantized ({quantized / total:.1%}), "
        f"{q.sparsity():.1%} of these are zero"
    )
