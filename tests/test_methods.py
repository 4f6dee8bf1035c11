"""The methods that ECQx is compared with: gradients, schedules, files, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ecqx.methods.torchao_weights import FakeQuantized, pack_nibbles, unpack_nibbles
from hypothesis import given
from hypothesis import strategies as st
from test_quantizer import batch, network
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecqx.assignment.centroids import CentroidGrid
from ecqx.data import Split
from ecqx.methods import (
    LSQ,
    EntropyConstrained,
    Float16,
    Integer8,
    Method,
    NNCodec,
    Pruning,
    TorchaoWeights,
)
from ecqx.methods.lsq import LearnedSteps
from ecqx.methods.pruning import RAMP, PrunedUniform
from ecqx.quantizers.straight_through import StraightThrough
from ecqx.relevance import LRP
from ecqx.training.settings import FitSettings
from ecqx.training.step_cost import step_cost
from ecqx.training.trainer import Trainer

STEPS = 8
TRAINED: dict[str, Method] = {
    "LSQ": LSQ(bits=3),
    "pruning": Pruning(bits=4, sparsity=0.6),
    "torchao int4": TorchaoWeights(bits=4, group=0),
    "torchao int8": TorchaoWeights(bits=8, group=4),
    "ECQ": EntropyConstrained("ECQ", lam=0.1, bits=3),
    "EC2Tx": EntropyConstrained("EC2Tx", lam=0.1, relevance=LRP()),
}
AFTERWARDS: dict[str, Method] = {
    "NNCodec uniform": NNCodec(qp=-20, dependent=False),
    "NNCodec dependent": NNCodec(qp=-20, dependent=True),
    "fp16": Float16(),
    "int8": Integer8(),
}
ALL = {**TRAINED, **AFTERWARDS}
BASELINES = ("LSQ", "pruning", "torchao int4", "torchao int8")
every_baseline = pytest.mark.parametrize("name", BASELINES)


def split() -> Split:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand(64, 1, 6, 6, generator=generator)
    return Split(inputs, torch.arange(64) % 4)


def trained(method: Method, model: nn.Module | None = None) -> Trainer:
    """A trainer after one epoch of eight steps."""
    model = network() if model is None else model
    trainer = trainer_of(method, model, epochs=1)
    trainer.fit()
    return trainer


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
def test_the_file_holds_the_weights_that_were_trained(name: str, tmp_path: Path) -> None:
    method, trainer = TRAINED[name], trained(TRAINED[name])
    path = tmp_path / f"model.{method.suffix}"
    method.write(path, trainer.model, trainer.quantizer)
    decoded = method.read(path)
    for key, tensor in trainer.model.state_dict().items():
        if tensor.ndim > 1:
            torch.testing.assert_close(decoded[key], tensor, rtol=0, atol=0)
        else:  # NNCodec's step of one-dimensional tensors, half of it on either side
            torch.testing.assert_close(decoded[key], tensor, rtol=0, atol=5e-6)
    network().load_state_dict(decoded)


@pytest.mark.parametrize("name", AFTERWARDS)
def test_compression_after_training_is_as_near_as_its_step(name: str, tmp_path: Path) -> None:
    method, model = AFTERWARDS[name], network()
    path = tmp_path / "model"
    method.write(path, model, method.constrain(model, STEPS))
    decoded = method.read(path)
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
    method, trainer = ALL[name], trained(ALL[name])
    for path in (tmp_path / "a", tmp_path / "b"):
        method.write(path, trainer.model, trainer.quantizer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_integers_of_eight_bits_may_all_be_zero(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    Integer8().write(tmp_path / "model", model, None)
    assert not Integer8().read(tmp_path / "model")["weight"].any()


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=33))
def test_nibbles_come_back(values: list[int]) -> None:
    integers = torch.tensor(values, dtype=torch.int8)
    packed = pack_nibbles(integers)
    assert packed.numel() == math.ceil(len(values) / 2)
    assert unpack_nibbles(packed, len(values)).tolist() == values


def test_nncodec_giving_up_does_not_end_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nncodec import nnc

    def give_up(*_: Any, **__: Any) -> None:
        raise SystemExit("no")

    monkeypatch.setattr(nnc, "compress", give_up)
    with pytest.raises(RuntimeError, match="gave up"):
        NNCodec(-20, dependent=True).write(tmp_path / "model", network(), None)
    assert not list(tmp_path.iterdir())


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
    assert {n: float(s) for n, s in steps.numbers.items()} == pytest.approx(expected)


def test_a_step_stays_above_zero() -> None:
    steps = LearnedSteps(network(), bits=3)
    with torch.no_grad():
        for number in steps.numbers.values():
            number.fill_(-1.0)
    steps.update(*batch())
    assert all(float(s) > 0 for s in steps.numbers.values())
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
    method.write(tmp_path / "model", model, method.constrain(model, STEPS))
    decoded = method.read(tmp_path / "model")
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


# -- settings and cost -----------------------------------------------------------------------------

REFUSED: dict[str, Callable[[], Method]] = {
    "bits must lie between 2 and 8": lambda: LSQ(bits=1),
    "bits must lie between 2 and 8, not 9": lambda: Pruning(bits=9, sparsity=0.5),
    "sparsity must lie in": lambda: Pruning(bits=4, sparsity=1.0),
    "bits must be 4 or 8": lambda: TorchaoWeights(bits=3, group=0),
    "group must be at least 0": lambda: TorchaoWeights(bits=4, group=-1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_out_of_range_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


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
    plain = cost(Float16())
    ecqx = EntropyConstrained("ECQx", lam=0.1, relevance=LRP())
    assert all(cost(TRAINED[name]) == plain for name in (*BASELINES, "ECQ"))
    assert cost(ecqx) > 1.5 * plain
    seldom = replace(ecqx, relevance=LRP(every=8))
    assert plain < cost(seldom) <= cost(ecqx)


def test_tensors_are_on_the_processor_after_reading(tmp_path: Path) -> None:
    for name, method in ALL.items():
        trainer = trained(method)
        method.write(tmp_path / name, trainer.model, trainer.quantizer)
        state: dict[str, Tensor] = method.read(tmp_path / name)
        assert all(tensor.device.type == "cpu" for tensor in state.values())
        assert set(state) == set(network().state_dict())
