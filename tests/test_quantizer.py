"""The quantizer on a model: the update against a loop by hand, what is saved, what comes back."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import costs, information_cost, integers, step_of, within_ulps
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid
from ecqx.coding.bitstream import load, save
from ecqx.coding.coded_state import read_coded_state
from ecqx.data import TensorData, digits
from ecqx.quantizers.ecqx import ECQx
from ecqx.quantizers.settings import GRADIENTS, Gradient, QuantizerSettings
from ecqx.quantizers.trained_centroids import EC2T, FantastIC4
from ecqx.relevance import LRP, RELEVANCE_OF, weight_relevance

METHODS: dict[str, LRP | None] = {
    "ECQ": None,
    **{f"ECQx {of}": LRP(of=of, alpha=0.3) for of in RELEVANCE_OF},
}
QUANTIZED = ["0.weight", "4.weight", "6.weight"]


def network(seed: int = 0) -> nn.Sequential:
    """A convolution with BatchNorm and two linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 36, 12), nn.ReLU(), nn.Linear(12, 5)),
    )


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(16, 1, 6, 6, generator=generator).to(dtype)
    return inputs, torch.randint(5, (16,), generator=generator)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters with more than one dimension."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim > 1}


def train_step(q: ECQx, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One step as the class documents it."""
    optimizer.zero_grad()
    F.cross_entropy(q.model(x), y).backward()
    q.transfer_gradients()
    optimizer.step()
    q.update(x, y)


def train(q: ECQx, steps: int, lr: float = 0.01) -> None:
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=lr)
    for seed in range(steps):
        train_step(q, optimizer, *batch(seed))


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Equal names, order, types and bits."""
    assert list(a) == list(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name


def assert_on_grid(q: ECQx) -> None:
    """The model holds float32(k) * float32(step), computed here by numpy, bit for bit."""
    parameters = dict(q.model.named_parameters())
    for name, k in q.integers().items():
        expected = k.numpy().astype(np.float32) * np.float32(q.grids[name].step)
        np.testing.assert_array_equal(parameters[name].detach().numpy(), expected)


# -- the first assignment --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ECQ", "ECQx stepped"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_first_assignment_is_ecq(method: str, bits: int) -> None:
    model = network()
    before = matrices(model)
    q = ECQx(model, bits=bits, lam=0.2, relevance=METHODS[method])
    largest = max(weight.numel() for weight in before.values())
    for name, weight in before.items():
        flat = weight.double().numpy().ravel()
        k = integers(flat, bits)
        step = np.float32(step_of(flat, bits))
        assert q.grids[name].step == pytest.approx(step, rel=1e-6)
        values = (k.astype(np.float32) * np.float32(q.grids[name].step)).astype(np.float64)
        cost = costs(
            flat, values, information_cost(flat, values, 0.2, largest, "published", "published")
        )
        chosen = q.integers()[name].numpy().ravel().astype(np.int64) - k[0]
        assert within_ulps(cost, chosen).all()
        assert torch.equal(q.latent[name], weight)
    assert_on_grid(q)


def test_small_layers_are_constrained_less() -> None:
    model = network()
    before = matrices(model)
    q = ECQx(model, lam=0.5)
    small, own = before["6.weight"], CentroidGrid.fit(before["6.weight"], 4)
    largest = 4 * 36 * 12
    assert torch.equal(q.index["6.weight"], assign(small, own, 0.5, largest_layer_size=largest))
    assert not torch.equal(q.index["6.weight"], assign(small, own, 0.5))
    # A layer that is left out is nobody's measure.
    model = network()
    q = ECQx(model, lam=0.5, exclude=["4."])
    assert q.largest_layer_size == 60
    assert torch.equal(q.index["6.weight"], assign(small, own, 0.5))


@pytest.mark.parametrize("setting", [{"pmf": "normalized"}, {"lambda_max": "derived"}])
def test_the_choice_of_formulas_is_passed_on(setting: dict[str, Any]) -> None:
    model = network()
    for weight in matrix_parameters(model):
        # Extreme weights beyond the grid: there the two formulas of lambda_max differ.
        nn.init.normal_(weight)
    before = matrices(model)
    q = ECQx(model, lam=0.3, **setting)
    different = 0
    for name, weight in before.items():
        same = {"lam": 0.3, "largest_layer_size": 4 * 36 * 12}
        grid = CentroidGrid.fit(weight, 4)
        assert torch.equal(q.index[name], assign(weight, grid, **same, **setting))
        different += int((q.index[name] != assign(weight, grid, **same)).sum())
    assert different > 0


# -- which parameters ------------------------------------------------------------------------------


def test_vectors_and_excluded_parameters_stay_as_they_are() -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    q = ECQx(model, bits=2, exclude=["4."])
    assert list(q.weights) == list(q.integers()) == ["0.weight", "6.weight"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in q.weights), name
    kept, rest, *more = q.parameter_groups(weight_decay=0.1)
    assert [id(p) for p in kept["params"]] == [id(p) for p in q.latent.values()]
    assert {id(p) for p in rest["params"]} == {
        id(p) for n, p in model.named_parameters() if n not in q.weights
    }
    assert (kept["weight_decay"], rest["weight_decay"], more) == (0, 0.1, [])


def test_nothing_to_quantize() -> None:
    with pytest.raises(ValueError, match="no parameter of more than one dimension"):
        ECQx(network(), exclude=["weight"])
    with pytest.raises(ValueError, match="no weight to quantize"):
        ECQx(nn.BatchNorm1d(3))


@pytest.mark.parametrize("method", METHODS)
def test_frozen_weights_stay_where_they_are(method: str) -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    start = matrices(model)
    q = ECQx(model, lam=0.0, relevance=METHODS[method])
    frozen = model[4].weight.detach().clone()
    train(q, 3, lr=0.05)
    assert torch.equal(q.latent["4.weight"], start["4.weight"])
    assert torch.equal(model[4].weight, frozen)
    assert not model[4].weight.requires_grad
    assert not torch.equal(q.latent["6.weight"], start["6.weight"])
    assert q.latent["4.weight"].grad is None
    assert q.parameter_records()[3].remark == "frozen: not trained"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before the optimizer", "in training"])
def test_weights_unfrozen_later_are_trained(method: str, when: str) -> None:
    """As in gradual unfreezing: one optimizer for all."""
    model = network()
    model[4].requires_grad_(False)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    q = ECQx(model, relevance=METHODS[method])
    optimizer = torch.optim.Adam(q.parameter_groups(weight_decay=0.1), lr=0.01)
    if when == "in training":
        train_step(q, optimizer, *batch())
        assert torch.equal(q.latent["4.weight"], start["4.weight"])
        assert torch.equal(model[4].bias, start["4.bias"])
    model[4].requires_grad_(True)
    train_step(q, optimizer, *batch())
    assert not torch.equal(q.latent["4.weight"], start["4.weight"])
    assert not torch.equal(model[4].bias, start["4.bias"])
    assert "frozen" not in q.summary()
    # And frozen again.
    model[4].requires_grad_(False)
    latent, bias = q.latent["4.weight"].detach().clone(), model[4].bias.detach().clone()
    for seed in range(2):
        train_step(q, optimizer, *batch(seed))
    assert torch.equal(q.latent["4.weight"], latent)
    assert torch.equal(model[4].bias, bias)


@pytest.mark.parametrize("every", [2, 3])
def test_a_restored_training_measures_at_the_same_steps(every: int) -> None:
    """The state holds how many steps have passed since the last measurement."""
    q = ECQx(network(), lam=0.1, relevance=LRP(every=every))
    train(q, 4)
    state = copy.deepcopy(q.state_dict())
    other = ECQx(network(), lam=0.1, relevance=LRP(every=every))
    other.load_state_dict(state)
    for _ in range(every):
        for one in (q, other):
            one.update(*batch(9))
        assert_same(q.state_dict(), other.state_dict())


@pytest.mark.parametrize("make", [EC2T, FantastIC4])
def test_trained_centroids_of_a_frozen_layer(make: type[EC2T]) -> None:
    """A frozen layer keeps its integers' centroids; unfrozen, both are trained."""
    model = network()
    model[4].requires_grad_(False)
    q = make(model)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.1)
    before = model[4].weight.detach().clone()
    train_step(q, optimizer, *batch())
    assert torch.equal(model[4].weight, before)
    model[4].requires_grad_(True)
    train_step(q, optimizer, *batch())
    assert not torch.equal(model[4].weight, before)


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.relu(self.first(x)))
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_tied_weights_are_one_weight(method: str, tmp_path: Path) -> None:
    model = Tied()
    q = ECQx(model, relevance=METHODS[method])
    assert list(q.weights) == ["first.weight"]
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.05)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    start = q.integers()["first.weight"]
    for _ in range(3):
        train_step(q, optimizer, x, torch.arange(16) % 6)
    assert model.second.weight is model.first.weight
    assert not torch.equal(q.integers()["first.weight"], start)
    assert_on_grid(q)
    save(tmp_path / "tied.ecqx", q)
    assert_same(load(tmp_path / "tied.ecqx"), dict(model.state_dict()))


# -- the training step -----------------------------------------------------------------------------


class Reference:
    """The update by hand: SGD with momentum 0.9, gradients that nothing can accumulate."""

    def __init__(self, model: nn.Module, lr: float, gradient: Gradient, lrp: LRP | None) -> None:
        self.model, self.lr, self.gradient, self.lrp = copy.deepcopy(model), lr, gradient, lrp
        self.full = matrices(model)
        self.grids = {name: CentroidGrid.fit(w, 3) for name, w in self.full.items()}
        self.index: dict[str, Tensor] = {}
        self.velocity: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}
        self.parameters = dict(self.model.named_parameters())
        self.put_centroids({})

    def put_centroids(self, relevances: dict[str, Tensor]) -> None:
        largest = max(w.numel() for w in self.full.values())
        for name, w in self.full.items():
            self.index[name] = assign(
                w, self.grids[name], 0.3, relevances.get(name), 0.05, None, largest
            )
            self.parameters[name].data = self.grids[name].values[self.index[name]].to(w.dtype)

    def factor(self, name: str) -> Tensor:
        centroid = self.parameters[name].detach()
        factors = {
            "magnitude": centroid.abs(),
            "published": centroid,
            "identity": torch.ones_like(centroid),
        }
        return torch.where(centroid == 0, torch.ones_like(centroid), factors[self.gradient])

    def move(self, key: str, tensor: Tensor, gradient: Tensor) -> Tensor:
        old = self.velocity.get(key, torch.zeros_like(gradient))
        self.velocity[key] = 0.9 * old + gradient
        return tensor - self.lr * self.velocity[key]

    def step(self, x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(self.model(x), y)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            if name in self.full:
                scaled = gradient * self.factor(name)
                self.full[name] = self.move(f"full {name}", self.full[name], scaled)
            if name not in self.full or (self.lrp is not None and self.lrp.of == "stepped"):
                parameter.data = self.move(name, parameter.data, gradient)
        self.put_centroids({} if self.lrp is None else self.relevances(x, y, self.lrp))

    def relevances(self, x: Tensor, y: Tensor, lrp: LRP) -> dict[str, Tensor]:
        judged = copy.deepcopy(self.model)
        if lrp.of == "full_precision":
            for name, w in self.full.items():
                dict(judged.named_parameters())[name].data = w
        for name, new in weight_relevance(judged, x, y).items():
            old = self.average.get(name, new)
            self.average[name] = (1 - lrp.alpha) * new + lrp.alpha * old
        return self.average


@pytest.mark.parametrize(
    ("method", "gradient"),
    [
        *((method, "magnitude") for method in METHODS),
        *(("ECQx stepped", gradient) for gradient in GRADIENTS if gradient != "magnitude"),
    ],
)
def test_the_update_is_the_one_by_hand(method: str, gradient: Gradient) -> None:
    # In float64, so that another order of additions moves no weight over a threshold.
    model, lrp = network().double(), METHODS[method]
    reference = Reference(model, 1.0, gradient, lrp)
    q = ECQx(model, bits=3, lam=0.3, relevance=lrp, p=0.05, gradient=gradient)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=1.0, momentum=0.9)
    start = q.integers()
    for seed in range(3):
        x, y = batch(seed, torch.float64)
        train_step(q, optimizer, x, y)
        reference.step(x, y)
        for name, w in reference.full.items():
            torch.testing.assert_close(q.latent[name].data, w, rtol=1e-9, atol=1e-12)
            assert torch.equal(q.index[name], reference.index[name]), (seed, name)
        for name, tensor in reference.model.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-9, atol=1e-12)
    assert all(not torch.equal(q.integers()[name], start[name]) for name in QUANTIZED)


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_copies_and_quantized_weights(method: str) -> None:
    model = network()
    before = matrices(model)
    q = ECQx(model, bits=4, lam=0.02, relevance=METHODS[method])
    start = q.integers()
    train(q, 8)
    assert list(q.weights) == QUANTIZED
    for name in QUANTIZED:
        copied = q.latent[name]
        assert (copied != before[name]).double().mean() > 0.9
        assert (q.integers()[name] != start[name]).any()
        # Two tensors: on a CPU the published code has only one.
        assert copied.data_ptr() != q.weights[name].data_ptr()
        assert not torch.equal(copied, q.weights[name])


@pytest.mark.parametrize("method", METHODS)
def test_gradients_do_not_accumulate(method: str) -> None:
    q = ECQx(network(), relevance=METHODS[method], gradient="identity")
    # Weights stay where they are, so a second look at the batch finds the same gradient.
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.0)
    q.model.eval()
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        x, y = batch()
        F.cross_entropy(q.model(x), y).backward()
        q.transfer_gradients()
        seen.append({name: q.latent[name].grad.clone() for name in QUANTIZED})
    for later in seen[1:]:
        for name in QUANTIZED:
            torch.testing.assert_close(later[name], seen[0][name])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_are_scaled_as_defined(gradient: Gradient) -> None:
    q = ECQx(network(), bits=3, lam=0.1, gradient=gradient)
    torch.manual_seed(3)
    given = {name: torch.randn_like(weight) for name, weight in q.weights.items()}
    for name, weight in q.weights.items():
        weight.grad = given[name].clone()
    q.transfer_gradients()
    for name, k in q.integers().items():
        centroid = k.numpy() * np.float32(q.grids[name].step)
        factor = {
            "magnitude": np.abs(centroid),
            "published": centroid,
            "identity": np.ones_like(centroid),
        }[gradient]
        expected = given[name].numpy() * np.where(k.numpy() == 0, np.float32(1), factor)
        np.testing.assert_array_equal(q.latent[name].grad.numpy(), expected)
        assert (k < 0).any()
        assert (k == 0).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 5])
def test_the_model_holds_centroids_after_every_update(method: str, bits: int) -> None:
    q = ECQx(network(), bits=bits, relevance=METHODS[method])
    steps = {name: grid.step for name, grid in q.grids.items()}
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.01)
    for seed in range(4):
        train_step(q, optimizer, *batch(seed))
        assert_on_grid(q)
    # The grid is not fitted again.
    assert {name: grid.step for name, grid in q.grids.items()} == steps


@pytest.mark.parametrize("method", METHODS)
def test_only_relevance_of_stepped_weights_steps_them(method: str) -> None:
    q = ECQx(network(), relevance=METHODS[method])
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.5)
    before = matrices(q.model)
    x, y = batch()
    loss = F.cross_entropy(q.model(x), y)
    wanted = dict(
        zip(
            q.weights,
            torch.autograd.grad(loss, list(q.weights.values()), retain_graph=True),
            strict=True,
        )
    )
    loss.backward()
    q.transfer_gradients()
    optimizer.step()
    for name, weight in q.weights.items():
        moved = before[name] - 0.5 * wanted[name] if method == "ECQx stepped" else before[name]
        torch.testing.assert_close(weight.data, moved)
    q.update(x, y)
    assert_on_grid(q)


@pytest.mark.parametrize("of", RELEVANCE_OF)
def test_without_constraint_relevance_is_ignored(of: Any) -> None:
    plain, relevant = ECQx(network(), lam=0.0), ECQx(network(), lam=0.0, relevance=LRP(of=of))
    train(plain, 4)
    train(relevant, 4)
    for name in QUANTIZED:
        assert torch.equal(plain.index[name], relevant.index[name])
        assert torch.equal(plain.latent[name], relevant.latent[name])
    assert_same(dict(plain.model.state_dict()), dict(relevant.model.state_dict()))


def test_with_constraint_relevance_matters() -> None:
    plain, relevant = ECQx(network(), lam=0.3), ECQx(network(), lam=0.3, relevance=LRP(), p=0.3)
    train(plain, 2)
    train(relevant, 2)
    assert any(not torch.equal(plain.index[n], relevant.index[n]) for n in QUANTIZED)


def test_the_band_holds_layer_by_layer() -> None:
    q = ECQx(network(), lam=0.1, relevance=LRP(), sparsity_band=(0.05, 0.1))
    train(q, 2)
    for name, copied in q.latent.items():
        ecq = assign(copied, q.grids[name], 0.1, largest_layer_size=q.largest_layer_size)
        added = int((q.index[name] == q.grids[name].zero).sum()) - int(
            (ecq == q.grids[name].zero).sum()
        )
        assert 0.05 * copied.numel() - 1e-6 <= added <= 0.1 * copied.numel() + 1e-6


# -- averaged relevance ----------------------------------------------------------------------------


def relevances_by_hand(q: ECQx, seeds: Sequence[int]) -> list[dict[str, Tensor]]:
    """Relevances of the full-precision copies, which nothing trains here, batch by batch."""
    judged = copy.deepcopy(q.model)
    for name, parameter in judged.named_parameters():
        if name in q.latent:
            parameter.data = q.latent[name].data.clone()
    return [weight_relevance(judged, *batch(seed)) for seed in seeds]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("restart", [True, False])
def test_running_average(alpha: float, restart: bool) -> None:
    q = ECQx(network(), relevance=LRP(of="full_precision", alpha=alpha, restart=restart))
    assert q.relevance is not None
    r = relevances_by_hand(q, range(4))
    expected = dict(r[0])
    for epoch in ([0, 1], [2, 3]):
        q.start_epoch()
        assert bool(q.relevance.values) == (epoch[0] > 0 and not restart)
        if restart:
            expected = dict(r[epoch[0]])
        for seed in epoch:
            q.update(*batch(seed))
            expected = {n: (1 - alpha) * r[seed][n] + alpha * expected[n] for n in expected}
            for name in QUANTIZED:
                scale = float(expected[name].abs().max())
                torch.testing.assert_close(
                    q.relevance.values[name], expected[name], rtol=1e-5, atol=1e-6 * scale
                )


def test_measuring_relevance_leaves_the_model_as_it_is() -> None:
    q = ECQx(network(), relevance=LRP(of="quantized"))
    q.model.train()
    q.model[1].eval()
    buffers = {n: b.clone() for n, b in q.model.named_buffers()}
    q.update(*batch())
    assert [m.training for m in q.model] == [i != 1 for i in range(len(q.model))]
    assert_same(dict(q.model.named_buffers()), buffers)
    assert all(p.grad is None and p.requires_grad for p in q.model.parameters())


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_state_comes_back_into_another_model(method: str) -> None:
    q = ECQx(network(), relevance=METHODS[method])
    train(q, 3)
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    other = ECQx(network(seed=9), relevance=METHODS[method])
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    assert_on_grid(other)
    for name in QUANTIZED:
        assert torch.equal(other.grids[name].values, q.grids[name].values)
        assert other.grids[name].zero == q.grids[name].zero
    # What is restored is a copy: training goes on without touching the saved state.
    before = {name: tensor.clone() for name, tensor in state.items()}
    train(other, 1)
    assert_same(state, before)
    other.load_state_dict(state)
    train(other, 2)
    q.load_state_dict(state)
    train(q, 2)
    assert_same(other.state_dict(), q.state_dict())


def test_state_comes_back_where_a_tensor_is_excluded() -> None:
    # LRP gives the excluded tensor a relevance as well, which is part of the state.
    q = ECQx(network(), relevance=LRP(), exclude=["4.weight"])
    train(q, 1)
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    assert "relevance.4.weight" in state
    other = ECQx(network(seed=9), relevance=LRP(), exclude=["4.weight"])
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)


def test_a_state_of_something_else_is_refused() -> None:
    q = ECQx(network())
    state = q.state_dict()
    for key in ("model.6.bias", "latent.0.weight", "step.4.weight", "integers.6.weight"):
        with pytest.raises(ValueError, match="the state is not one of this quantizer"):
            q.load_state_dict({name: t for name, t in state.items() if name != key})
    with pytest.raises(ValueError, match="the state is not one of this quantizer"):
        q.load_state_dict({**state, "model.6.bias": torch.zeros(7)})


# -- records ---------------------------------------------------------------------------------------


def test_sparsity_and_entropy_of_layers() -> None:
    q = ECQx(network(), bits=4, lam=0.1)
    zeros = elements = 0
    for record, (name, k) in zip(q.layers(), q.integers().items(), strict=True):
        counts = np.unique(k.numpy(), return_counts=True)[1] / k.numel()
        assert (record["layer"], record["elements"]) == (name, k.numel())
        assert record["sparsity"] == pytest.approx((k.numpy() == 0).mean())
        assert record["entropy_bits_per_weight"] == pytest.approx(-(counts @ np.log2(counts)))
        zeros, elements = zeros + int((k == 0).sum()), elements + k.numel()
    assert 0 < q.sparsity() == zeros / elements < 1


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, "^bits must be an integer from 2 to 8, not 1"),
        ({"bits": 9}, "bits must be an integer from 2 to 8, not 9"),
        ({"bits": 4.0}, "bits must be an integer from 2 to 8, not 4.0"),
        ({"lam": -0.1}, r"lam \(Lambda\) must be a finite number, at least 0, not -0.1"),
        ({"lam": float("nan")}, "lam .* must be a finite number"),
        ({"p": 1.5}, r"p must lie in \[0, 1\], not 1.5"),
        ({"sparsity_band": (0.2, 0.1)}, "sparsity_band must be"),
        ({"sparsity_band": (0.1,)}, "sparsity_band must be"),
        ({"exclude": "downsample"}, r"exclude must be a sequence of names, .*\('downsample',\)"),
        ({"gradient": "sign"}, "gradient must be one of magnitude, published, identity"),
        ({"pmf": "exact"}, "pmf must be one of published, normalized"),
        ({"lambda_max": "exact"}, "lambda_max must be one of published, derived"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    model = network()
    before = matrices(model)
    with pytest.raises(ValueError, match=message) as caught:
        ECQx(model, **settings)
    assert "\n" not in str(caught.value)
    assert_same(matrices(model), before)


@pytest.mark.parametrize("kind", [ECQx, EC2T, FantastIC4])
def test_an_unknown_setting_is_named(kind: Any) -> None:
    with pytest.raises(TypeError, match="'sparsity'"):
        kind(network(), sparsity=0.5)


def test_settings_are_stored_as_one_object() -> None:
    given = ECQx(network(), 3, 0.2, sparsity_band=[-0.2, 0.1], exclude=["4."]).settings
    assert given == QuantizerSettings(bits=3, lam=0.2, sparsity_band=(-0.2, 0.1), exclude=("4.",))
    assert given.band == (-0.2, 0.1)
    assert QuantizerSettings(p=0.3).band == (-0.3, 0.0)
    assert EC2T(network()).settings == QuantizerSettings(bits=2, lambda_max="derived")
    assert EC2T(network(), lambda_max="published").settings == QuantizerSettings(bits=2)
    assert FantastIC4(network(), p=0.2).settings == QuantizerSettings(p=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"composite": "epsilon_max"}, "composite must be one of epsilon_plus_flat_bn_pass, "),
        ({"canonizer": "alexnet"}, "canonizer must be one of vgg, resnet"),
        ({"output": "logit"}, "lrp_output must be one of output, probability, ones"),
        ({"weight_rule": "zplus"}, "weight_rule must be one of epsilon, gamma"),
        ({"of": "weights"}, "relevance_of must be one of stepped, quantized, full_precision"),
        ({"alpha": 1.0}, r"alpha must lie in \[0, 1\), not 1.0"),
    ],
)
def test_relevance_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LRP(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = network()
    model[4].weight.data[3, 5] = value
    with pytest.raises(ValueError, match=r"^4\.weight: weight holds NaN or infinite values$"):
        ECQx(model)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_training_blew_up_are_named(method: str) -> None:
    q = ECQx(network(), relevance=METHODS[method])
    q.latent["6.weight"].data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite") as caught:
        q.update(*batch())
    assert "\n" not in str(caught.value)
    assert "weight: " in str(caught.value)


class WithPositions(nn.Module):
    """A network with a matrix of its own, outside of any layer that LRP knows."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(6, 6))
        self.head = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((x + self.positions).flatten(1))
        return logits


def test_a_layer_without_a_rule_is_named() -> None:
    q = ECQx(WithPositions(), relevance=LRP(), include=["positions"])
    before = matrices(q.model)
    with pytest.raises(ValueError, match="LRP has no rule for positions; exclude it or use ECQ"):
        q.update(*batch())
    assert_same(matrices(q.model), before)
    train(ECQx(WithPositions(), include=["positions"]), 2)
    train(ECQx(WithPositions(), relevance=LRP()), 2)


class Words(nn.Module):
    """Word vectors, their mean, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.words(x).mean(1))
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_an_embedding_is_quantized(method: str) -> None:
    q = ECQx(Words(), lam=0.01, relevance=METHODS[method])
    start = q.integers()
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.1)
    x = torch.arange(60).reshape(12, 5) % 20
    for _ in range(3):
        train_step(q, optimizer, x, torch.arange(12) % 5)
    assert all((q.integers()[name] != k).any() for name, k in start.items())


@pytest.mark.parametrize("of", RELEVANCE_OF)
def test_a_failed_measurement_leaves_the_centroids(
    of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("targets do not fit")

    q = ECQx(network(), relevance=LRP(of=of))
    monkeypatch.setattr("ecqx.relevance.weights.output_relevance", fail)
    with pytest.raises(ValueError, match="do not fit"):
        q.update(*batch())
    assert_on_grid(q)
    assert all(w is p for w, p in zip(q.weights.values(), matrix_parameters(q.model), strict=True))


def matrix_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim > 1]


# -- special layers --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_layers_of_almost_zeros_and_of_one_element(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU())
    model.append(nn.Linear(1, 5))
    model[5].weight.data[1:].zero_()
    q = ECQx(model, relevance=METHODS[method])
    assert not q.integers()["5.weight"][1:].any()
    train(q, 2)
    assert_on_grid(q)


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> TensorData:
    return digits()


@pytest.fixture(scope="module")
def trained(data: TensorData) -> Callable[[str], ECQx]:
    """ResNet20 after some steps on the digits, by method."""
    made: dict[str, ECQx] = {}

    def get(method: str) -> ECQx:
        if method not in made:
            torch.manual_seed(0)
            model = ecqx.models.build("resnet20", in_channels=1)
            q = ECQx(model, bits=4, lam=0.05, relevance=METHODS[method])
            optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.005)
            for x, y in data.train.take(320).batches(64):
                train_step(q, optimizer, x, y)
            made[method] = q
        return made[method]

    return get


@pytest.mark.parametrize("method", ["ECQ", "ECQx stepped"])
def test_the_decoded_model_is_the_model(
    method: str, trained: Callable[[str], ECQx], data: TensorData, tmp_path: Path
) -> None:
    q = trained(method)
    path = tmp_path / "model.ecqx"
    ecqx.save(path, q)
    state = ecqx.load(path)
    assert_same(state, dict(q.model.state_dict()))
    torch.manual_seed(1)
    decoded = ecqx.models.build("resnet20", in_channels=1)
    decoded.load_state_dict(state)
    with torch.no_grad():
        before = q.model.eval()(data.test.inputs)
        after = decoded.eval()(data.test.inputs)
    assert torch.equal(before, after)
    assert len(before) == 450
    assert (before.argmax(1) == data.test.targets).double().mean() > 0.2


DECODE = """
import hashlib, sys
import ecqx
for name, t in ecqx.load(sys.argv[1]).items():
    digest = hashlib.md5(t.numpy().tobytes()).hexdigest()
    print(name, t.dtype, tuple(t.shape), digest, sep="|")
unneeded = ("zennit", "torchvision", "ecqx.models")
print(*(m for m in sys.modules if m.startswith(unneeded)), sep="|")
"""


def test_decoding_in_a_process_that_never_saw_the_model(
    trained: Callable[[str], ECQx], tmp_path: Path
) -> None:
    q = trained("ECQ")
    ecqx.save(tmp_path / "model.ecqx", q)
    run = subprocess.run(
        [sys.executable, "-c", DECODE, "model.ecqx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    *lines, imported = run.stdout.split("\n")[:-1]
    assert imported == ""
    assert lines == [
        f"{n}|{t.dtype}|{tuple(t.shape)}|{hashlib.md5(t.numpy().tobytes()).hexdigest()}"
        for n, t in q.model.state_dict().items()
    ]


def test_the_checkpoint_is_what_encode_takes(
    trained: Callable[[str], ECQx], tmp_path: Path
) -> None:
    q = trained("ECQ")
    q.save_checkpoint(tmp_path / "q.safetensors")
    coded = read_coded_state(tmp_path / "q.safetensors")
    assert_same(coded.state, dict(q.model.state_dict()))
    ecqx.save(tmp_path / "a.ecqx", q)
    ecqx.save(tmp_path / "b.ecqx", coded)
    assert (tmp_path / "a.ecqx").read_bytes() == (tmp_path / "b.ecqx").read_bytes()
