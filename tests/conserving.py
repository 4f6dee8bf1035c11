"""Networks without shifts, and what becomes of relevance on its way through one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, SwinTransformer, VisionTransformer

from ecqx.models import build
from ecqx.relevance import weight_relevance
from ecqx.relevance.attribution import WeightRelevanceHook
from ecqx.relevance.rules import ZPlus

CLASSES = 5


def _vit(layers: int, heads: int, width: int, size: int) -> VisionTransformer:
    model = VisionTransformer(size, 16, layers, heads, width, 4 * width, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight, std=0.1)
    return model


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: build(name, num_classes=CLASSES)


# name: (network, size of its pictures)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (lambda: _vit(2, 2, 16, 48), 48),
    "swin": (
        lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES),
        48,
    ),
    "densenet": (lambda: DenseNet(8, (2, 2), 16, num_classes=CLASSES), 48),
    "vit_b_16": (lambda: _vit(12, 12, 768, 64), 64),
    **{
        name: (_torchvision(name), 64)
        for name in (
            *("swin_t", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_large", "densenet121"),
            *("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"),
            *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
        )
    },
    "inception_v3": (_torchvision("inception_v3"), 80),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """A network in double precision without shifts, and a batch for it."""
    torch.manual_seed(3)
    network, size = NETWORKS[name]
    inputs = torch.randn(4, 3, size, size).double()
    return without_shifts(network().double(), inputs), inputs


def without_shifts(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Biases, positions and running means to zero, scales random, variances those of the batch."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("bias", "in_proj_bias", "pos_embedding"):
            nn.init.zeros_(parameter)
        elif name.endswith("layer_scale") or parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    for norm in norms:
        nn.init.zeros_(norm.running_mean)
    return model.eval()


@dataclass
class Flow:
    """Relevance that starts as one in all.

    Attributes
    ----------
    arrived : float
        At the first layer's own output; in a vision transformer at the sequence of tokens.
    dropped, by_formula : float
        By units without a positive contribution under the zplus rule: the difference of what came
        to the rule and what left it, and by the rule's formula.
    others : dict of str to float
        The same difference for other rules.
    """

    arrived: float = 0.0
    dropped: float = 0.0
    by_formula: float = 0.0
    others: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def flow_of(model: nn.Module, inputs: Tensor, composite: str) -> Flow:
    """What becomes of relevance in a network."""
    flow = Flow()
    start: list[Tensor] = []
    with _watched(flow):
        tokens = getattr(model, "encoder", None)
        handle = (
            None
            if tokens is None
            else tokens.register_forward_pre_hook(
                lambda module, args: args[0].register_hook(lambda R: start.append(R.sum())) and None
            )
        )
        found = weight_relevance(
            model, inputs, torch.arange(len(inputs)) % CLASSES, composite, output="ones"
        )
        if handle is not None:
            handle.remove()
    first = next(name for name, parameter in model.named_parameters() if name in found)
    flow.arrived = float(start[0] if start else found[first].sum())
    return flow


@contextmanager
def _watched(flow: Flow) -> Iterator[None]:
    attribute = WeightRelevanceHook.attribute

    def watch(self: Any, call: Any, relevance: Tensor, input_wanted: bool) -> Tensor | None:
        arriving = attribute(self, call, relevance, input_wanted)
        if arriving is not None:
            difference = float(relevance.sum() - arriving.sum())
            if isinstance(self.rule, ZPlus):
                flow.dropped += difference
                z = positive_contributions(call.module, call.input)
                flow.by_formula += float((relevance * 1e-6 / (z + 1e-6)).sum())
            else:
                flow.others[type(self.rule).__name__] += difference
        return arriving

    WeightRelevanceHook.attribute = watch  # type: ignore[method-assign]
    try:
        yield
    finally:
        WeightRelevanceHook.attribute = attribute  # type: ignore[method-assign]


@torch.no_grad()
def positive_contributions(module: nn.Module, x: Tensor) -> Tensor:
    """x⁺w⁺ + x⁻w⁻ summed per output; a BatchNorm has one contribution each."""
    if isinstance(module, nn.BatchNorm2d):
        return module(x).clamp(min=0)
    W = module.weight.detach()
    pairs = ((x.clamp(min=0), W.clamp(min=0)), (x.clamp(max=0), W.clamp(max=0)))
    if isinstance(module, nn.Linear):
        return sum(nn.functional.linear(*pair) for pair in pairs)
    assert isinstance(module, nn.Conv2d)
    settings = (None, module.stride, module.padding, module.dilation, module.groups)
    return sum(nn.functional.conv2d(*pair, *settings) for pair in pairs)
