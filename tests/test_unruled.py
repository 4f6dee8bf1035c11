"""What LRP has no rule for is named in one remark, and what is not named keeps the relevance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import FrozenBatchNorm2d

import ecqx
from ecqx.relevance import COMPOSITES, LRP, weight_relevance
from ecqx.relevance.settings import RelevanceWarning

Function = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """Two convolutions and a linear layer without biases, with something between them."""

    def __init__(self, between: nn.Module | Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.between = between
        self.last = nn.LazyLinear(3, bias=False)
        self.eval()(torch.zeros(2, 2, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)).flatten(1))


X = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(5) % 3


def measured(
    model: nn.Module, x: Tensor = X, **settings: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Relevances, and the remarks on what has no rule."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = weight_relevance(model, x, Y, **settings)
    return found, [str(w.message) for w in caught if w.category is RelevanceWarning]


# -- what is named ---------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block whose addition is not a layer."""

    def __init__(self, activation: Function) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(4, 4, 1, bias=False), activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activation(self.conv(x))


class Power(nn.Module):
    """An activation of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs() ** 1.5


class Positions(nn.Module):
    """Adds positions, which are no branch: relevance passes whole."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.ones(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions


NAMED: dict[str, tuple[nn.Module | Function, str]] = {
    "LogSoftmax": (nn.LogSoftmax(1), "LogSoftmax"),
    "Power": (Power(), "Power"),
    "exp": (torch.exp, "exp in Through"),
    "square": (lambda x: x**2, "pow in Through"),
    "cumsum": (lambda x: x.cumsum(1), "cumsum in Through"),
    "conv2d": (lambda x: F.conv2d(x, torch.ones(4, 4, 1, 1)), "convolution in Through"),
    "ratio": (lambda x: x / x.flip(1), "div in Through"),
    "both": (
        nn.Sequential(Block(torch.exp), nn.LogSoftmax(1)),
        "LogSoftmax, exp in Block: relevance",
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_has_no_rule_is_named(kind: str) -> None:
    between, named = NAMED[kind]
    _, remarks = measured(Through(between))
    assert len(remarks) == 1
    assert remarks[0].startswith(f"LRP has no rule for {named}")
    assert remarks[0].endswith("; compare with ECQ (relevance=None)")
    assert "\n" not in remarks[0]


def test_a_training_has_one_remark() -> None:
    model = Through(Power())
    q = ecqx.ECQx(model, relevance=LRP())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            q.update(X, Y)
        q.start_epoch()
        q.update(X, Y)
    assert [w.category for w in caught] == [RelevanceWarning]


TRANSFORMERS: dict[str, tuple[nn.Module | Function, str]] = {
    "LayerNorm": (nn.LayerNorm(6), "LayerNorm"),
    "function": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3),
        "attention",
    ),
    "by hand": (
        lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT,
        "attention",
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_transformer_is_told_which_composite_is_for_it(kind: str) -> None:
    between, named = TRANSFORMERS[kind]
    (remark,) = measured(Through(between))[1]
    assert remark.startswith(f"the network has {named}, for which the composite attnlrp is made")
    assert measured(Through(between), composite="attnlrp")[1] == []


def test_classes_by_softmax_are_no_attention() -> None:
    assert measured(Through(nn.Softmax(1)))[1] == []


# -- what is not named -----------------------------------------------------------------------------


class Swish(nn.Module):
    """An activation of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


KEEPING: dict[str, nn.Module | Function] = {
    "Identity": nn.Identity(),
    "Dropout": nn.Dropout(),
    "MaxPool": nn.MaxPool2d(2),
    "AdaptiveMaxPool": nn.AdaptiveMaxPool2d(2),
    "AvgPool": nn.AvgPool2d(2),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "ZeroPad": nn.ZeroPad2d(1),
    "ReflectionPad": nn.ReflectionPad2d(1),
    "ReplicationPad": nn.ReplicationPad2d(1),
    "PixelShuffle": nn.PixelShuffle(2),
    "ChannelShuffle": nn.ChannelShuffle(2),
    "Mish": nn.Mish(),
    "SiLU": nn.SiLU(),
    "mean": lambda x: x.mean((2, 3)),
    "avg_pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "max": lambda x: x.amax(1),
    "cat": lambda x: torch.cat([x[:, :2], x[:, 2:].flip(1)], 1),
    "views": lambda x: x.transpose(1, 2).reshape(len(x), 6, -1).chunk(2, -1)[0],
    "stack": lambda x: torch.stack(x.unbind(1)).movedim(0, 1),
    "a constant": lambda x: x + 0.0,
    "positions": Positions(),
    "GroupNorm": nn.GroupNorm(2, 4),
    "InstanceNorm": nn.InstanceNorm2d(4),
    "LayerNorm": nn.LayerNorm(6),
    "RMSNorm": nn.RMSNorm(6),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "GLU": nn.GLU(1),
    "Swish": Swish(),
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "group_norm": lambda x: F.group_norm(x, 2),
    "divided": lambda x: x / 3,
    "negative": lambda x: 1 - x,
    "sum": lambda x: x.sum(1),
    "doubled": lambda x: x + x.flip(1),
    "gate": lambda x: x * x.flip(1),
    "residual": Block(nn.ReLU()),
    "in place": Block(lambda x: F.relu(x, inplace=True)),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_what_is_not_named_keeps_the_relevance(kind: str) -> None:
    """The outputs' relevance is one in all, and so is that of the first layer."""
    model = Through(KEEPING[kind]).double()
    composite = "attnlrp" if kind == "LayerNorm" else "epsilon_flat"
    found, remarks = measured(model, X.double(), composite=composite, output="ones")
    assert remarks == []
    assert float(found["first.weight"].sum()) == pytest.approx(1, abs=1e-2)


def batch_norms(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), make(), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), make()),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
    )
    for seed, norm in enumerate((model[1], model[4])):
        generator = torch.Generator().manual_seed(seed)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(norm, name).data
            tensor.copy_(torch.rand(4, generator=generator) + 0.1)
    return model


@pytest.mark.parametrize("composite", COMPOSITES)
def test_batch_norm_of_several_processes_is_batch_norm(composite: str) -> None:
    expected, remarks = measured(batch_norms(lambda: nn.BatchNorm2d(4)), composite=composite)
    assert remarks == []
    model = nn.SyncBatchNorm.convert_sync_batchnorm(batch_norms(lambda: nn.BatchNorm2d(4)))
    assert isinstance(model[1], nn.SyncBatchNorm)
    found, remarks = measured(model, composite=composite)
    assert remarks == []
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], relevance) for name, relevance in expected.items())


@pytest.mark.parametrize("composite", [c for c in COMPOSITES if c.endswith("_pass")])
def test_a_frozen_batch_norm_passes_like_any(composite: str) -> None:
    expected, _ = measured(batch_norms(lambda: nn.BatchNorm2d(4)), composite=composite)
    found, remarks = measured(batch_norms(lambda: FrozenBatchNorm2d(4)), composite=composite)
    assert remarks == []
    for name, relevance in expected.items():
        torch.testing.assert_close(found[name], relevance, rtol=1e-4, atol=1e-6)
