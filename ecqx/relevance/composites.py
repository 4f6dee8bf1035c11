"""Composites by name, the published ones and AttnLRP's: which LRP rule each kind of layer has."""

from __future__ import annotations

from torch import nn
from zennit.composites import LayerMapComposite, SpecialFirstLayerMapComposite
from zennit.core import Composite, Hook
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Flat, Pass
from zennit.types import Activation, AvgPool, Convolution, Linear

from ecqx.layers import PaddedShortcut, ResidualSum
from ecqx.relevance.canonizers import BATCH_NORMS
from ecqx.relevance.operation_rules import (
    constant,
    expanded,
    operation_rules,
    shared,
    shared_by_branches,
)
from ecqx.relevance.operations import OperationRule
from ecqx.relevance.rules import (
    Epsilon,
    GammaAdapt,
    GammaBnConv,
    GammaPlus,
    Norm,
    ZPlus,
)
from ecqx.relevance.settings import COMPOSITES, Additions, check_choice

# name: (rule of convolutions, rule of BatchNorm, whether the first layer has Flat). Without a rule
# BatchNorm passes relevance on as a gradient, times its slope.
_ROWS: dict[str, tuple[Hook, Hook | None, bool]] = {
    "epsilon_plus_flat_bn_pass": (ZPlus(), Pass(), True),
    "epsilon_plus_flat": (ZPlus(), ZPlus(), True),
    "alpha2_beta1_flat_bn_pass": (AlphaBeta(2, 1), Pass(), True),
    "alpha2_beta1_flat": (AlphaBeta(2, 1), AlphaBeta(2, 1), True),
    "epsilon_plus": (ZPlus(), ZPlus(), False),
    "epsilon_alpha2_beta1": (AlphaBeta(2, 1), AlphaBeta(2, 1), False),
    "epsilon_flat": (Epsilon(), Epsilon(), True),
    "epsilon_flat_bn": (GammaBnConv(0.05), GammaAdapt(0.1), True),
    "epsilon_gamma_flat": (GammaPlus(0.1), None, True),
    "epsilon_gamma_flat_bn": (GammaAdapt(0.25), GammaAdapt(0.25), True),
    "epsilon_gamma_flat_bn_pass": (GammaAdapt(0.25), Pass(), True),
    "attnlrp": (Epsilon(), Pass(), False),
    "attnlrp_values": (Epsilon(), Pass(), False),
}
# name: (rule of additions, rule of softmax) among functions; all others are the same in each.
_OPERATIONS: dict[str, tuple[OperationRule, OperationRule]] = {
    "attnlrp": (shared, expanded),
    "attnlrp_values": (shared, constant),
}


def build_composite(name: str, additions: Additions = "split") -> Composite:
    """Build a composite by name, one of `COMPOSITES`.

    Linear layers and embeddings have the epsilon rule (1e-6), activations of single elements Pass;
    residual sums, average pooling and the parameter-free shortcut of ResNet20 have Norm. With
    ``additions="whole"`` the residual sums of the suite's own ResNets have no rule but the gradient
    (`ecqx.LRP`). Canonizers are not part of it (`ecqx.relevance.canonizers`), nor are the rules of
    functions (`build_operation_rules`).

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_choice("composite", name, COMPOSITES)
    convolution, batch_norm, first_flat = _ROWS[name]
    layer_map: list[tuple[object, Hook | None]] = [
        # The first entry that fits counts: zennit's Activation includes attention, whose functions
        # have rules, and its Linear includes Convolution.
        (nn.MultiheadAttention, None),
        ((Activation, nn.Mish), Pass()),
        (nn.Embedding, Epsilon()),
        # zennit's base class of rules leaves the gradient as it is.
        (ResidualSum, Norm() if additions == "split" else Hook()),
        ((Sum, AvgPool, PaddedShortcut), Norm()),
        (Convolution, convolution),
        (Linear, Epsilon()),
    ]
    if batch_norm is not None:
        layer_map.append((BATCH_NORMS, batch_norm))
    if first_flat:
        # An embedding takes the place of the first layer: no layer behind it sees the input itself.
        first_map = [(nn.Embedding, Epsilon()), (Linear, Flat())]
        return SpecialFirstLayerMapComposite(layer_map, first_map=first_map)
    return LayerMapComposite(layer_map)


def build_operation_rules(name: str) -> dict[str, OperationRule]:
    """The rules of a composite for functions, by their names (`ecqx.relevance.operation_rules`)."""
    return operation_rules(*_OPERATIONS.get(name, (shared_by_branches, expanded)))


def types_without_rule(name: str) -> tuple[type[nn.Module], ...]:
    """Types of modules that a composite leaves without a rule on purpose."""
    _, batch_norm, _ = _ROWS[name]
    return BATCH_NORMS if batch_norm is None else ()
