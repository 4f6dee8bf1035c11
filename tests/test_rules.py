"""The rules, composites and canonizers against zennit's own and against dense formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
import zennit.rules as zennit_rules
from torch import Tensor, nn
from zennit.core import BasicHook, Composite, Hook
from zennit.layer import Sum

from ecqx.layers import PaddedShortcut, ResidualSum
from ecqx.relevance import CANONIZERS, COMPOSITES, build_canonizer, build_composite
from ecqx.relevance.canonizers import FoldBatchNormStatistics
from ecqx.relevance.composites import _ROWS
from ecqx.relevance.rules import GammaAdapt, GammaBnConv, GammaPlus, ZPlus

EPSILON = 1e-6
SIGNS = ["both signs", "non-negative", "non-positive"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signed(x: Tensor, signs: str) -> Tensor:
    return {"both signs": x, "non-negative": x.relu(), "non-positive": -x.relu()}[signs]


def relevance_by(rule: Hook, module: nn.Module, x: Tensor, R: Tensor) -> Tensor:
    """Relevance of the input, by zennit's own machinery."""
    composite = Composite(module_map=lambda ctx, name, child: rule if child is module else None)
    x = x.clone().requires_grad_()
    with composite.context(module):
        (relevance,) = torch.autograd.grad(module(x), x, R)
    return relevance


def stabilized(z: Tensor) -> Tensor:
    return z + EPSILON * torch.where(z >= 0, 1.0, -1.0)


# -- zplus -----------------------------------------------------------------------------------------


def _layer(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    layers: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "linear": (nn.Linear(7, 5), (3, 7)),
        "linear without bias": (nn.Linear(7, 5, bias=False), (3, 7)),
        "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 7)),
        "grouped convolution": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 5)),
        "transposed convolution": (nn.ConvTranspose2d(4, 3, 3, stride=2), (2, 4, 4, 4)),
        "BatchNorm": (nn.BatchNorm2d(4).eval(), (2, 4, 5, 5)),
    }
    layer, shape = layers[kind]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.double(), shape


LAYERS = (
    *("linear", "linear without bias", "convolution", "grouped convolution"),
    *("transposed convolution", "BatchNorm"),
)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("kind", LAYERS)
def test_zplus_is_zennits_zplus(kind: str, signs: str) -> None:
    module, shape = _layer(kind)
    x = signed(random(*shape), signs)
    R = random(*module(x).shape, seed=1)
    ours, theirs = (relevance_by(rule, module, x, R) for rule in (ZPlus(), zennit_rules.ZPlus()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# -- the gamma rules -------------------------------------------------------------------------------


def dense_gamma_plus(layer: nn.Linear, x: Tensor, R: Tensor, gamma: float) -> Tensor:
    W = layer.weight + gamma * layer.weight.clamp(min=0)
    b = layer.bias + gamma * layer.bias.clamp(min=0)
    z = x[:, None, :] * W
    return (z * (R / stabilized(z.sum(2) + b))[:, :, None]).sum(1)


def dense_adaptive(
    layer: nn.Linear, x: Tensor, R: Tensor, gamma: float, positive_only: bool
) -> Tensor:
    """Contribution by contribution; a contribution's sign says which side it is on."""
    x = x.clamp(min=0) if positive_only else x
    z = x[:, None, :] * layer.weight
    A = z.clamp(min=0).sum(2) + layer.bias.clamp(min=0)
    B = z.clamp(max=0).sum(2) + layer.bias.clamp(max=0)
    alpha = torch.where(B.abs() <= A, 1 + gamma, 1.0)
    beta = torch.where(B.abs() > A, 1 + gamma, 1.0)
    weighted = alpha[:, :, None] * z.clamp(min=0) + beta[:, :, None] * z.clamp(max=0)
    return (weighted * (R / stabilized(alpha * A + beta * B))[:, :, None]).sum(1)


Dense = Callable[[nn.Linear, Tensor, Tensor], Tensor]
GAMMA_RULES: dict[str, tuple[Hook, Dense]] = {
    "GammaPlus": (GammaPlus(0.1), lambda layer, x, R: dense_gamma_plus(layer, x, R, 0.1)),
    "GammaAdapt": (GammaAdapt(0.25), lambda layer, x, R: dense_adaptive(layer, x, R, 0.25, False)),
    "GammaBnConv": (GammaBnConv(0.05), lambda layer, x, R: dense_adaptive(layer, x, R, 0.05, True)),
}


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("name", GAMMA_RULES)
def test_gamma_rules_are_their_dense_formulas(name: str, signs: str) -> None:
    rule, dense = GAMMA_RULES[name]
    layer, _ = _layer("linear")
    assert isinstance(layer, nn.Linear)
    x, R = signed(random(6, 7), signs), random(6, 5, seed=1)
    with torch.no_grad():
        expected = dense(layer, x, R)
    actual = relevance_by(rule, layer, x, R)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([2.0, -1.0], [3.0, -1.0]),  # A = 2 wins: 1.5·2 / (1.5·2 - 1) and -1 / 2, times R = 2
        ([1.0, -2.0], [-1.0, 3.0]),  # B = -2 wins: 1 / (1 - 1.5·2) and -3 / -2
        ([1.0, -1.0], [6.0, -4.0]),  # equal: the positive side
    ],
)
def test_adaptive_gamma_by_hand(weight: list[float], expected: list[float]) -> None:
    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data = torch.tensor([weight], dtype=torch.float64)
    x, R = torch.ones(1, 2, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64)
    actual = relevance_by(GammaAdapt(0.5), layer, x, R)
    torch.testing.assert_close(
        actual, torch.tensor([expected], dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_published_gamma_is_not_zennits_generalized_one() -> None:
    layer, shape = _layer("linear")
    x, R = random(*shape), random(3, 5, seed=1)
    ours, theirs = (relevance_by(r, layer, x, R) for r in (GammaPlus(0.1), zennit_rules.Gamma(0.1)))
    assert not torch.allclose(ours, theirs, rtol=1e-2)


@pytest.mark.parametrize(
    "rule", [GammaPlus(0.3), GammaAdapt(0.3), GammaBnConv(0.3), ZPlus()], ids=lambda r: type(r)
)
def test_copies_of_a_rule_keep_its_gamma(rule: BasicHook) -> None:
    layer, shape = _layer("linear")
    x, R = random(*shape).relu(), random(3, 5, seed=1)
    torch.testing.assert_close(
        relevance_by(rule.copy().copy(), layer, x, R), relevance_by(rule, layer, x, R)
    )


# -- composites ------------------------------------------------------------------------------------

# DESIGN's table: convolution, BatchNorm, linear, first layer.
TABLE = {
    "epsilon_plus_flat_bn_pass": ("ZPlus", "Pass", "Epsilon", "Flat"),
    "epsilon_plus_flat": ("ZPlus", "ZPlus", "Epsilon", "Flat"),
    "alpha2_beta1_flat_bn_pass": ("AlphaBeta(2,1)", "Pass", "Epsilon", "Flat"),
    "alpha2_beta1_flat": ("AlphaBeta(2,1)", "AlphaBeta(2,1)", "Epsilon", "Flat"),
    "epsilon_plus": ("ZPlus", "ZPlus", "Epsilon", None),
    "epsilon_alpha2_beta1": ("AlphaBeta(2,1)", "AlphaBeta(2,1)", "Epsilon", None),
    "epsilon_flat": ("Epsilon", "Epsilon", "Epsilon", "Flat"),
    "epsilon_flat_bn": ("GammaBnConv(0.05)", "GammaAdapt(0.1)", "Epsilon", "Flat"),
    "epsilon_gamma_flat": ("GammaPlus(0.1)", None, "Epsilon", "Flat"),
    "epsilon_gamma_flat_bn": ("GammaAdapt(0.25)", "GammaAdapt(0.25)", "Epsilon", "Flat"),
    "epsilon_gamma_flat_bn_pass": ("GammaAdapt(0.25)", "Pass", "Epsilon", "Flat"),
    "attnlrp": ("Epsilon", "Pass", "Epsilon", None),
    "attnlrp_values": ("Epsilon", "Pass", "Epsilon", None),
}
RULES: dict[str, Hook] = {
    "ZPlus": zennit_rules.ZPlus(),
    "Pass": zennit_rules.Pass(),
    "Epsilon": zennit_rules.Epsilon(1e-6),
    "Flat": zennit_rules.Flat(),
    "Norm": zennit_rules.Norm(),
    "AlphaBeta(2,1)": zennit_rules.AlphaBeta(2, 1),
    "GammaPlus(0.1)": GammaPlus(0.1),
    "GammaAdapt(0.1)": GammaAdapt(0.1),
    "GammaAdapt(0.25)": GammaAdapt(0.25),
    "GammaBnConv(0.05)": GammaBnConv(0.05),
}


def test_the_settings_name_the_composites_and_canonizers_there_are() -> None:
    assert set(_ROWS) == set(COMPOSITES) == set(TABLE)
    assert len(COMPOSITES) == len(set(COMPOSITES))
    for name in CANONIZERS:
        build_canonizer(name)


class EveryLayer(nn.Module):
    """One layer of each kind that the table has a column for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.convolution = nn.Conv2d(4, 4, 3)
        self.batch_norm = nn.BatchNorm2d(4)
        self.activation = nn.ReLU()
        self.residual = ResidualSum()
        self.zennit_sum = Sum()
        self.shortcut = PaddedShortcut(4, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.max_pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4, 5)


def rules_of(composite: Composite, model: nn.Module) -> dict[str, Hook | None]:
    ctx: dict[str, object] = {}
    return {name: composite.module_map(ctx, name, child) for name, child in model.named_modules()}


def assert_same_rule(actual: Hook | None, expected: str | None, layer: nn.Module) -> None:
    """The same class (ours stands for zennit's ZPlus), and the same relevance: the settings too."""
    if expected is None:
        assert actual is None
        return
    assert type(actual).__name__ == type(RULES[expected]).__name__
    layer.double()
    weight = getattr(layer, "weight", torch.ones(1, 4))
    x = random(2, weight.shape[1] if weight.ndim > 1 else 4, 5, 5)
    x = x.mean((2, 3)) if isinstance(layer, nn.Linear) else x
    R = random(*layer(x).shape, seed=2)
    torch.testing.assert_close(
        relevance_by(actual, layer, x, R), relevance_by(RULES[expected], layer, x, R)
    )


@pytest.mark.parametrize("name", TABLE)
def test_each_row_of_the_composites_table(name: str) -> None:
    convolution, batch_norm, linear, first = TABLE[name]
    model = EveryLayer().eval()
    rules = rules_of(build_composite(name), model)
    assert_same_rule(rules["first"], first or convolution, model.first)
    assert_same_rule(rules["convolution"], convolution, model.convolution)
    assert_same_rule(rules["batch_norm"], batch_norm, model.batch_norm)
    assert_same_rule(rules["linear"], linear, model.linear)
    assert_same_rule(rules["activation"], "Pass", model.activation)
    assert_same_rule(rules["pool"], "Norm", model.pool)
    assert_same_rule(rules["zennit_sum"], "Norm", model.zennit_sum)
    assert_same_rule(rules["residual"], "Norm", model.residual)
    assert type(rules["shortcut"]).__name__ == "Norm"
    assert rules["max_pool"] is rules["flatten"] is rules[""] is None


def test_a_first_layer_that_is_linear_is_flat_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    rules = rules_of(build_composite("epsilon_plus_flat_bn_pass"), model)
    assert [type(rules[name]).__name__ for name in "123"] == ["Flat", "Pass", "Epsilon"]


@pytest.mark.parametrize("build", [build_composite, build_canonizer])
def test_unknown_names_get_one_line(build: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*, not 'resnet99'") as caught:
        build("resnet99")
    assert "\n" not in str(caught.value)


# -- canonizers ------------------------------------------------------------------------------------


def batch_norm(seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    layer = nn.BatchNorm2d(4, eps=1e-3).eval()
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.1, 2)
    return layer


def test_folding_leaves_the_function_and_restores_the_layer() -> None:
    layer = batch_norm()
    model = nn.Sequential(layer, nn.ReLU())
    parameters = dict(layer.named_parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 4, 5, 5)
    expected = model(x)
    instances = FoldBatchNormStatistics().apply(model)
    assert len(instances) == 1
    assert layer.eps == 0
    assert not layer.running_mean.any()
    assert (layer.running_var == 1).all()
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        layer(x), layer.weight[:, None, None] * x + layer.bias[:, None, None]
    )
    for instance in instances:
        instance.remove()
    assert layer.eps == 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameters[name] is p for name, p in layer.named_parameters())


def test_folding_leaves_alone_what_has_no_statistics_or_parameters() -> None:
    bare = nn.Sequential(
        nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, track_running_stats=False)
    )
    assert FoldBatchNormStatistics().apply(bare) == []


def test_folding_takes_a_frozen_batch_norm_or_leaves_it() -> None:
    """zennit counts torchvision's frozen BatchNorm among the BatchNorms from 1.0 on."""
    frozen = torchvision.ops.FrozenBatchNorm2d(4)
    frozen.running_mean += 1
    x = torch.randn(2, 4, 3, 3)
    expected = frozen(x)
    for instance in FoldBatchNormStatistics().apply(nn.Sequential(frozen)):
        torch.testing.assert_close(frozen(x), expected)
        instance.remove()
    assert torch.equal(frozen(x), expected)


@pytest.mark.parametrize("name", CANONIZERS)
@pytest.mark.parametrize("network", ["resnet18", "resnet50", "mobilenet_v2"])
def test_canonizers_leave_the_function_and_restore_the_network(name: str, network: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(network, num_classes=4).eval()
    forwards = [module.forward for module in model.modules()]
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        instances = build_canonizer(name).apply(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
        for instance in instances:
            instance.remove()
        assert torch.equal(model(x), expected)
    assert [module.forward for module in model.modules()] == forwards


@pytest.mark.parametrize("name", CANONIZERS)
@pytest.mark.parametrize(
    ("network", "sums"),
    [
        *(("resnet18", 8), ("resnet50", 16), ("mobilenet_v2", 10), ("mobilenet_v3_small", 6)),
        ("squeezenet1_1", 0),
    ],
)
def test_every_canonizer_splits_every_addition(name: str, network: str, sums: int) -> None:
    model = torchvision.models.get_model(network).eval()
    instances = build_canonizer(name).apply(model)
    assert sum(isinstance(module, Sum) for module in model.modules()) == sums
    for instance in instances:
        instance.remove()
    assert not any(isinstance(module, Sum) for module in model.modules())
