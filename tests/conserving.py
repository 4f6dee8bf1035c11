"""Networks without shifts, and what becomes of relevance on its way through one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, SwinTransformer, VisionTransformer

from ecqx.models import build
from ecqx.modules import weights_of
from ecqx.relevance import weight_relevance, weights
from ecqx.relevance.attribution import WeightRelevanceHook
from ecqx.relevance.operations import Operation, OperationRule
from ecqx.relevance.rules import ZPlus

CLASSES = 5
TOLERANCE = 0.01


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
    "patch_transformer": (
        lambda: build("patch_transformer", num_classes=CLASSES, in_channels=3),
        8,
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


# Behind a sigmoid near zero the epsilon rule divides by what the gate's offset hides.
GATED = ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf")


def check_arrives(name: str) -> Flow:
    """By the epsilon rule, and with relevance stopped at softmax, nothing is made or dropped."""
    flow = flow_of(*make(name), "attnlrp_values")
    assert flow.arrived == pytest.approx(1, abs=TOLERANCE)
    assert flow.dropped == flow.softmax == 0
    return flow


def check_arrives_or_was_dropped(name: str) -> Flow:
    """By the default composite, the zplus rule and softmax account for what does not arrive."""
    flow = flow_of(*make(name), "epsilon_plus_flat_bn_pass")
    assert flow.arrived + flow.dropped + flow.softmax == pytest.approx(1, abs=TOLERANCE)
    assert flow.by_formula == pytest.approx(flow.dropped, abs=TOLERANCE)
    return flow


def make(name: str) -> tuple[nn.Module, Tensor]:
    """A network in double precision without shifts, and a batch for it."""
    torch.manual_seed(3)
    network, size = NETWORKS[name]
    inputs = torch.randn(4, 3, size, size).double()
    return without_shifts(network().double(), inputs), inputs


def without_shifts(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Biases, positions and running means to zero, scales random, variances those of the batch."""
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "pos_embedding", "positions.weight")):
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
    softmax : float
        The same difference for softmax, whose rule does not conserve.
    by_layers : dict of Module to float
        ``dropped`` of each convolution.
    """

    arrived: float = 0.0
    by_formula: float = 0.0
    softmax: float = 0.0
    by_layers: dict[nn.Module, float] = field(default_factory=dict)

    @property
    def dropped(self) -> float:
        return sum(self.by_layers.values())


def flow_of(model: nn.Module, inputs: Tensor, composite: str) -> Flow:
    """What becomes of relevance in a network."""
    flow, tokens = Flow(), list[float]()

    def cut(module: nn.Module, arguments: tuple[Tensor]) -> None:
        arguments[0].register_hook(lambda R: tokens.append(float(R.sum())))

    encoder = getattr(model, "encoder", None)
    cuts = [encoder.register_forward_pre_hook(cut)] if encoder is not None else []
    with _watched(flow):
        labels = torch.arange(len(inputs)) % CLASSES
        found = weight_relevance(model, inputs, labels, composite, output="ones")
    for handle in cuts:
        handle.remove()
    assert found.keys() >= {name for name, _ in weights_of(model)}
    first = next(name for name, _ in model.named_parameters() if name in found)
    flow.arrived = tokens[0] if tokens else float(found[first].sum())
    return flow


@contextmanager
def _watched(flow: Flow) -> Iterator[None]:
    attribute, rules_of = WeightRelevanceHook.attribute, weights.build_operation_rules

    def watch(self: Any, call: Any, relevance: Tensor, input_wanted: bool) -> Tensor | None:
        arriving = attribute(self, call, relevance, input_wanted)
        if arriving is not None and isinstance(self.rule, ZPlus):
            flow.by_layers[call.module] = float(relevance.sum() - arriving.sum())
            z = positive_contributions(call.module, call.input)
            flow.by_formula += float((relevance * 1e-6 / (z + 1e-6)).sum())
        return arriving

    def count(R: Tensor, sign: int) -> None:
        flow.softmax += sign * float(R.sum())

    def watched_rules(name: str) -> dict[str, OperationRule]:
        rules = rules_of(name)

        def softmax(operation: Operation) -> Any:
            output = rules["softmax"](operation)
            if output.requires_grad:
                output.register_hook(partial(count, sign=1))
                for x in operation.operands():
                    x.register_hook(partial(count, sign=-1))
            return output

        return rules | {"softmax": softmax}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WeightRelevanceHook, "attribute", watch)
        patched.setattr(weights, "build_operation_rules", watched_rules)
        yield


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
