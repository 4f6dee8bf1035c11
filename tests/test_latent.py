"""Latent weights: what the quantizers and the straight-through methods have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ecqx.quantizers.ecqx import ECQx
from ecqx.quantizers.latent import LatentWeights
from ecqx.quantizers.straight_through import IntegerWeights, rounded


class Hundredths(IntegerWeights):
    """Weights rounded to hundredths."""

    bits = 8

    def __init__(self, model: nn.Module, exclude: Any = ()) -> None:
        super().__init__(model, exclude)
        self.project()

    def quantized(self, name: str) -> Tensor:
        return rounded((self.latent[name] / 0.01).clamp(-128, 127)) * 0.01

    def step(self, name: str) -> Tensor:
        return torch.tensor(0.01)


KINDS: dict[str, Callable[..., LatentWeights]] = {"ECQ": ECQx, "straight-through": Hundredths}
both = pytest.mark.parametrize("kind", KINDS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def step(q: LatentWeights, dtype: torch.dtype = torch.float32) -> None:
    """One step of training as documented."""
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=generator).to(dtype), torch.arange(16) % 3
    optimizer.zero_grad()
    F.cross_entropy(q.model(x), y).backward()
    q.transfer_gradients()
    optimizer.step()
    q.update(x, y)


@both
def test_what_is_excluded_is_trained_as_it_is(kind: str) -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    q = KINDS[kind](model, exclude=("2.",))
    assert list(q.weights) == list(q.latent) == ["0.weight", "4.weight"]
    assert torch.equal(model[2].weight, before["2.weight"])
    latent, rest, *_ = q.parameter_groups(weight_decay=0.5)
    assert (latent["weight_decay"], rest["weight_decay"]) == (0.0, 0.5)
    assert {id(p) for p in latent["params"]} == {id(p) for p in q.latent.values()}
    assert any(p is model[2].weight for p in rest["params"])
    step(q)
    assert not torch.equal(model[2].weight, before["2.weight"])


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_trained_in_single(kind: str, dtype: torch.dtype) -> None:
    model = network().to(dtype)
    q = KINDS[kind](model)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {latent.dtype for latent in q.latent.values()} == {expected}
    before = {name: latent.detach().clone() for name, latent in q.latent.items()}
    step(q, dtype)
    assert {weight.dtype for weight in q.weights.values()} == {dtype}
    assert not any(torch.equal(q.latent[name], tensor) for name, tensor in before.items())


@both
def test_tied_weights_are_coded_by_each_name(kind: str) -> None:
    model = network()
    model.tied = nn.Linear(8, 8)
    model.tied.weight = model[2].weight
    q = KINDS[kind](model)
    _, coded = q.coded_state()  # type: ignore[attr-defined]
    assert set(coded) == {"0.weight", "2.weight", "4.weight", "tied.weight"}
    assert torch.equal(coded["tied.weight"].integers, coded["2.weight"].integers)


@both
def test_a_state_comes_back(kind: str) -> None:
    q = KINDS[kind](network())
    step(q)
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    assert {f"latent.{name}" for name in q.latent} <= set(state)
    other = KINDS[kind](network())
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(ValueError, match="the state is not one of this quantizer"):
        other.load_state_dict({name: t for name, t in state.items() if name != "latent.0.weight"})
