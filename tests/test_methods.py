"""The methods that ECQx is compared with: gradients, schedules, files, resuming."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecqx.assignment.centroids import CentroidGrid
from ecqx.coding.forms import build_form
from ecqx.coding.nnc_file import NncFile
from ecqx.coding.plain_files import pack_nibbles, unpack_nibbles
from ecqx.coding.tensor_files import read_tensors
from ecqx.data import Split
from ecqx.experiment.cost import step_cost
from ecqx.methods.ecq import EntropyConstrained
from ecqx.methods.interface import Method
from ecqx.methods.lsq import LearnedSteps
from ecqx.methods.pruning import RAMP, PrunedUniform
from ecqx.methods.registry import METHODS, build_method
from ecqx.methods.torchao import FakeQuantized, TorchaoWeights
from ecqx.quantizers.straight_through import StraightThrough
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

STEPS = 8
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ECQ": ("ECQ", {"bits": 3, "lam": 0.1}),
    "ECQx": ("ECQx", {"bits": 3, "lam": 0.1}),
    "EC2Tx": ("EC2Tx", {"lam": 0.1}),
    "FantastIC4": ("FantastIC4", {"lam": 0.1}),
    "LSQ": ("LSQ", {"bits": 3}),
    "pruning": ("pruning", {"bits": 4, "sparsity": 0.6}),
    "torchao int4": ("torchao", {"bits": 4, "group": 0}),
    "torchao int8": ("torchao", {"bits": 8, "group": 4}),
    "NNCodec uniform": ("NNCodec uniform", {"qp": -20}),
    "NNCodec dependent": ("NNCodec dependent", {"qp": -20}),
    "fp16": ("fp16", {}),
    "int8": ("int8", {}),
}
ALL = {name: build_method(*settings) for name, settings in SETTINGS.items()}
TRAINED = {name: method for name, method in ALL.items() if method.constrains_training}
AFTERWARDS = {name: method for name, method in ALL.items() if not method.constrains_training}
BASELINES = ("LSQ", "pruning", "torchao int4", "torchao int8")
every_baseline = pytest.mark.parametrize("name", BASELINES)


def network() -> nn.Sequential:
    """A convolution with BatchNorm and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 36, 12), nn.ReLU(), nn.Linear(12, 4)),
    )


def split() -> Split:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand(64, 1, 6, 6, generator=generator)
    return Split(inputs, torch.arange(64) % 4)


def batch() -> tuple[Tensor, Tensor]:
    return next(split().batches(16))


def trained(method: Method) -> Trainer:
    """A trainer after one epoch of eight steps."""
    trainer = trainer_of(method, network(), epochs=1)
    trainer.fit()
    return trainer


def written(method: Method, trainer: Trainer, path: Path) -> dict[str, Tensor]:
    """What a file of the trained model decodes to; what training left lies beside it."""
    form = build_form(method.form, method.form_settings())
    left = path.with_suffix(".left")
    method.save(left, trainer.model, trainer.quantizer)
    form.write(left, path)
    return form.read(path)


def trainer_of(method: Method, model: nn.Module, epochs: int) -> Trainer:
    settings = FitSettings(epochs=epochs, lr=1e-2, batch_size=8, selection=method.selection)
    constraint = method.constrain(model, epochs * STEPS)
    return Trainer(model, split(), split(), settings, quantizer=constraint)


def attached(name: str) -> StraightThrough:
    constraint = TRAINED[name].constrain(network(), STEPS)
    assert isinstance(constraint, StraightThrough)
    return constraint


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_the_file_holds_the_weights_that_were_trained_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    trainer = trained(TRAINED[name])
    decoded = written(TRAINED[name], trainer, tmp_path / "file")
    state = trainer.model.state_dict()
    assert set(decoded) == set(state)
    for key, tensor in state.items():
        assert decoded[key].device.type == "cpu"
        torch.testing.assert_close(decoded[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", AFTERWARDS)
def test_compression_after_training_is_as_near_as_its_step(name: str, tmp_path: Path) -> None:
    model = network()
    decoded = written(AFTERWARDS[name], trainer_of(AFTERWARDS[name], model, 1), tmp_path / "file")
    largest = max(float(w.abs().max()) for w in model.state_dict().values() if w.ndim > 1)
    # NNCodec, qp -20: steps of 2^-5; dependent quantization uses every second value at a time.
    near = {
        "fp16": largest * 2**-10,
        "int8": largest / 127 / 2 + 1e-7,
        "NNCodec uniform": 2**-6 + 1e-6,
        "NNCodec dependent": 2**-4,
    }[name]
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            assert float((decoded[key] - tensor).abs().max()) <= near
    network().load_state_dict(decoded)


@pytest.mark.parametrize("name", ALL)
def test_a_file_is_the_same_when_it_is_written_again(name: str, tmp_path: Path) -> None:
    trainer = trained(ALL[name])
    for path in (tmp_path / "a", tmp_path / "b"):
        written(ALL[name], trainer, path)
    for ending in ("", ".left"):
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_integers_of_eight_bits_may_all_be_zero(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    nn.init.zeros_(model.get_parameter("1.weight"))
    int8 = ALL["int8"]
    assert not written(int8, trainer_of(int8, model, 1), tmp_path / "file")["1.weight"].any()


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_nibbles_come_back(values: list[int]) -> None:
    integers = torch.tensor(values, dtype=torch.int8)
    packed = pack_nibbles(integers)
    assert packed.numel() == math.ceil(len(values) / 2)
    assert unpack_nibbles(packed, len(values)).tolist() == values


@pytest.mark.parametrize("call", ["compress", "decompress"])
def test_nncodec_giving_up_does_not_end_the_program(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nncodec import nnc

    def give_up(*_: Any, **__: Any) -> None:
        raise SystemExit("no")

    left, path = tmp_path / "left", tmp_path / "file"
    ALL["fp16"].save(left, network(), None)
    form = NncFile(-20, dependent=True)
    monkeypatch.setattr(nnc, call, give_up)
    refused = form.write if call == "compress" else lambda _, path: form.read(path)
    with pytest.raises(RuntimeError, match=f"{path}: NNCodec failed: no"):
        refused(left, path)
    assert list(tmp_path.iterdir()) == [left]


# -- parameters that are left as they are ----------------------------------------------------------


every_method_with_exclude = pytest.mark.parametrize("name", [*BASELINES, "ECQ"])


def excluding(name: str, part: str) -> Method:
    method, settings = SETTINGS[name]
    return build_method(method, settings | {"exclude": (part,)})


class WithSpare(nn.Module):
    """A network, and beside it a layer that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.spare = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.body(inputs)
        return result


@every_method_with_exclude
def test_excluded_layers_are_trained_in_full_precision(name: str) -> None:
    """Other methods than ECQ's family took no `exclude` once."""
    plain = WithSpare()
    Trainer(plain, split(), split(), FitSettings(epochs=1, lr=1e-2, batch_size=8)).fit()
    model = WithSpare()
    spare = model.spare.weight.detach().clone()
    trainer_of(excluding(name, "body"), model, epochs=1).fit()
    assert not torch.equal(model.spare.weight, spare)
    for key, tensor in plain.body.state_dict().items():
        torch.testing.assert_close(model.body.state_dict()[key], tensor, rtol=0, atol=0)


@every_method_with_exclude
def test_an_excluded_layer_is_kept_as_it_was_trained(name: str, tmp_path: Path) -> None:
    first = next(key for key, p in network().named_parameters() if p.ndim > 1)
    method = excluding(name, first)
    trainer = trained(method)
    decoded = written(method, trainer, tmp_path / "file")
    for key, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(decoded[key], tensor, rtol=0, atol=0)
    # Not among the integers, and with hardly two equal values.
    left, _ = read_tensors(tmp_path / "file.left")
    integers = {key.removeprefix("integers.") for key in left if key.startswith("integers.")}
    assert integers == {k for k, p in network().named_parameters() if p.ndim > 1} - {first}
    assert decoded[first].unique().numel() > 0.9 * decoded[first].numel()


# -- training --------------------------------------------------------------------------------------


@every_baseline
def test_training_moves_copies_and_weights(name: str) -> None:
    constraint = attached(name)
    copies = {key: copy.detach().clone() for key, copy in constraint.latent.items()}
    numbers = {key: number.detach().clone() for key, number in constraint.numbers.items()}
    trainer = Trainer(
        constraint.model, split(), split(), FitSettings(epochs=1, lr=1e-2), quantizer=constraint
    )
    trainer.step(*batch())
    trainer.step(*batch())
    for key, copy in constraint.latent.items():
        assert not torch.equal(copy, copies[key])
    for key, number in constraint.numbers.items():
        assert not torch.equal(number, numbers[key])


@every_baseline
def test_stopped_and_resumed_is_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    method = TRAINED[name]
    whole = trainer_of(method, network(), epochs=3)
    whole.fit()
    first = trainer_of(method, network(), epochs=3)
    first.run_epoch()
    first.save(tmp_path / "epoch.pt")
    again = trainer_of(method, network(), epochs=3)
    again.fit(resume=tmp_path / "epoch.pt")
    assert whole.quantizer is not None
    assert again.quantizer is not None
    for key, tensor in whole.quantizer.state_dict().items():
        torch.testing.assert_close(again.quantizer.state_dict()[key], tensor, rtol=0, atol=0)


@every_baseline
def test_a_state_of_another_model_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the state is not one of this quantizer"):
        attached(name).load_state_dict({"model.weight": torch.zeros(1)})


# -- learned step size -----------------------------------------------------------------------------


def lsq_gradient_by_hand(v: np.ndarray, s: float, bits: int, upstream: np.ndarray) -> float:
    """Equation 3 of the LSQ paper, weight by weight, in float64."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    total = 0.0
    for value, gradient in zip(v.ravel(), upstream.ravel(), strict=True):
        ratio = value / s
        if ratio <= lowest:
            slope = float(lowest)
        elif ratio >= highest:
            slope = float(highest)
        else:
            slope = float(np.round(ratio)) - ratio
        total += gradient * slope
    return total / math.sqrt(v.size * highest)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_gradient_of_the_step_is_that_of_the_paper(bits: int) -> None:
    steps = LearnedSteps(network(), bits)
    x, y = batch()
    F.cross_entropy(steps.model(x), y).backward()
    upstream = {n: w.grad.double().numpy() for n, w in steps.weights.items() if w.grad is not None}
    steps.transfer_gradients()
    for name, number in steps.numbers.items():
        copy, step = steps.latent[name].detach().double().numpy(), float(number.detach())
        expected = lsq_gradient_by_hand(copy, step, bits, upstream[name])
        assert number.grad is not None
        assert float(number.grad) == pytest.approx(expected, rel=2e-3, abs=1e-6)
        inside = (copy / step >= steps.lowest) & (copy / step <= steps.highest)
        gradient = steps.latent[name].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.numpy(), upstream[name] * inside, rtol=1e-4, atol=1e-8)


def test_first_step_is_that_of_the_paper() -> None:
    model = network()
    expected = {
        name: 2 * float(p.detach().abs().mean()) / math.sqrt(3)
        for name, p in model.named_parameters()
        if p.ndim > 1
    }
    steps = LearnedSteps(model, bits=3)
    assert {n: float(s.detach()) for n, s in steps.numbers.items()} == pytest.approx(expected)


def test_a_step_stays_above_zero() -> None:
    steps = LearnedSteps(network(), bits=3)
    with torch.no_grad():
        for number in steps.numbers.values():
            number.fill_(-1.0)
    steps.update(*batch())
    assert all(float(s.detach()) > 0 for s in steps.numbers.values())
    assert all(torch.isfinite(w).all() for w in steps.weights.values())


# -- pruning ---------------------------------------------------------------------------------------


def test_sparsity_follows_the_cubic_schedule() -> None:
    pruned = PrunedUniform(network(), bits=4, sparsity=0.8, steps=20)
    total = sum(copy.numel() for copy in pruned.latent.values())
    for step in range(1, 21):
        pruned.update(*batch())
        share = 0.8 * (1 - (1 - min(1, step / (RAMP * 20))) ** 3)
        smallest = sum(int((c.abs() <= pruned.threshold).sum()) for c in pruned.latent.values())
        assert smallest == int(share * total)
    assert pruned.sparsity() >= 0.8 - 1 / total


def test_the_smallest_weights_of_all_layers_are_pruned() -> None:
    pruned = PrunedUniform(network(), bits=4, sparsity=0.5, steps=2)
    for _ in range(2):
        pruned.update(*batch())
    magnitudes = torch.cat([c.detach().abs().flatten() for c in pruned.latent.values()])
    weights = torch.cat([w.detach().flatten() for w in pruned.weights.values()])
    half = magnitudes.sort().values[magnitudes.numel() // 2 - 1]
    assert not weights[magnitudes <= half].any()


def test_without_sparsity_weights_go_to_the_nearest_centroid() -> None:
    model = network()
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}
    pruned = PrunedUniform(model, bits=3, sparsity=0.0, steps=4)
    for name, weight in weights.items():
        values = CentroidGrid.fit(weight, 3).values
        distances = (weight.flatten()[:, None].double() - values.double()).abs()
        chosen = (weight.flatten().double() - pruned.weights[name].detach().flatten()).abs()
        torch.testing.assert_close(chosen, distances.min(dim=1).values, rtol=0, atol=1e-7)


def test_pruned_weights_get_no_gradient() -> None:
    pruned = PrunedUniform(network(), bits=4, sparsity=0.5, steps=2)
    pruned.update(*batch())
    x, y = batch()
    F.cross_entropy(pruned.model(x), y).backward()
    upstream = {n: w.grad.clone() for n, w in pruned.weights.items() if w.grad is not None}
    pruned.transfer_gradients()
    for name, copy in pruned.latent.items():
        kept = copy.detach().abs() > pruned.threshold
        assert copy.grad is not None
        torch.testing.assert_close(copy.grad, upstream[name] * kept)


# -- torchao ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_of_a_row_are_the_nearest_of_its_scale(bits: int, tmp_path: Path) -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}
    method = TorchaoWeights(bits, group=0)
    decoded = written(method, trainer_of(method, model, 1), tmp_path / "file")
    for name, weight in before.items():
        rows, read = weight.flatten(1), decoded[name].flatten(1)
        # Symmetric: the largest magnitude of a row over half the number of integers.
        scale = rows.abs().amax(dim=1, keepdim=True) / ((2**bits - 1) / 2)
        expected = (rows / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
        # Half-way cases may go either way.
        distances = ((read - rows).abs(), (expected - rows).abs())
        torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-6)


def test_groups_have_scales_of_their_own() -> None:
    model = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        model.weight[:, :4] *= 1e-3
    first = model.weight.detach().clone()
    FakeQuantized(model, bits=4, group=4)
    assert model.weight[:, :4].any(dim=1).all()
    torch.testing.assert_close(model.weight[:, :4], first[:, :4], rtol=0, atol=1e-4)


# -- settings, selection and cost -----------------------------------------------------------------


def test_methods_are_found_by_name_and_know_their_settings() -> None:
    assert {name for name, _ in SETTINGS.values()} <= set(METHODS)
    for name, settings in SETTINGS.values():
        method = build_method(name, settings)
        assert settings.items() <= method.settings().items()
        assert set(method.settings()) == set(method.takes())
        assert build_method(name, method.settings()) == method
        assert bool(method.takes()) == (name not in ("fp16", "int8"))
    assert build_method("EC2T", {"lam": 0.1}).bit_width == 2
    assert build_method("FantastIC4x", {"lam": 0.1}).bit_width == 4


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "LSQ: bits must be an integer from 2 to 8, not 1": ("LSQ", {"bits": 1}),
    "bits must be an integer from 2 to 8, not 9": ("pruning", {"bits": 9, "sparsity": 0.5}),
    "pruning: sparsity must lie in": ("pruning", {"bits": 4, "sparsity": 1.0}),
    "torchao: bits must be 4 or 8": ("torchao", {"bits": 3, "group": 0}),
    "torchao: group must be at least 0": ("torchao", {"bits": 4, "group": -1}),
    "ECQ: lam is missing": ("ECQ", {"bits": 4}),
    "LSQ has no setting 'bit', did you mean 'bits'": ("LSQ", {"bit": 4}),
    "EC2T has no setting 'p', only lam, pmf, ": ("EC2T", {"lam": 0.1, "p": 0.1}),
    "method must be one of ECQ, ECQx": ("magic", {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_settings_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(*REFUSED[message])


def cost(method: Method) -> int:
    return step_cost(trainer_of(method, network(), epochs=1), *batch())


def test_cost_of_a_plain_step_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, bias=False), nn.Linear(5, 4, bias=False))
    trainer = Trainer(model, split(), split(), FitSettings())
    x, y = split().inputs[:8], split().targets[:8]
    first, second = 2 * 8 * 36 * 5, 2 * 8 * 5 * 4
    # Forward, gradient of weights, and gradient of inputs except of the first layer.
    assert step_cost(trainer, x, y) == 2 * first + 3 * second


def test_only_relevance_costs_more_than_a_plain_step() -> None:
    plain = cost(ALL["fp16"])
    assert all(cost(TRAINED[name]) == plain for name in (*BASELINES, "ECQ"))
    assert cost(ALL["ECQx"]) > 1.5 * plain


def test_a_method_has_the_defaults_of_its_quantizer() -> None:
    for name, formula in (("EC2T", "derived"), ("EC2Tx", "derived"), ("FantastIC4", "published")):
        method = build_method(name, {"lam": 0.1})
        assert isinstance(method, EntropyConstrained)
        assert method.quantizer.lambda_max == formula
