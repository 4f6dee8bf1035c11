"""How a network is rewritten before relevance runs through it.

BatchNorm's running statistics are folded into its own scale and shift, so that it stays a layer
with a rule; zennit's canonizers merge it into the layer before. Residual additions become a `Sum`
with a rule, so that each branch receives its share and relevance does not grow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenetv2, mobilenetv3, resnet
from torchvision.ops import FrozenBatchNorm2d
from zennit.canonizers import AttributeCanonizer, Canonizer, CompositeCanonizer
from zennit.layer import Sum
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer
from zennit.types import BatchNorm

from ecqx.relevance.settings import CANONIZERS, check_choice

# zennit 0.5 does not know the frozen one, and no version the one of several processes.
BATCH_NORMS: tuple[type[nn.Module], ...] = (BatchNorm, nn.SyncBatchNorm, FrozenBatchNorm2d)


class FoldBatchNormStatistics(Canonizer):  # type: ignore[misc]
    """Fold BatchNorm's running statistics into its own scale and shift.

    Afterwards the layer is ``γ/√(σ² + ε) · x + (β - μ·γ/√(σ² + ε))`` with statistics 0 and 1: rules
    that modify its parameters find the linear map that it computes.
    """

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Fold every BatchNorm in ``root_module`` that has running statistics and parameters."""
        instances = []
        for module in root_module.modules():
            if isinstance(module, BATCH_NORMS) and _is_foldable(module):
                instance = self.copy()
                instance.register(module)
                instances.append(instance)
        return instances

    def register(self, module: Any) -> None:
        """Fold one BatchNorm layer and remember its state."""
        self.module = module
        keys = ("weight", "bias", "running_mean", "running_var")
        self.original = {key: getattr(module, key).data for key in keys}
        self.eps = module.eps
        weight, bias, mean, var = self.original.values()
        scale = weight / torch.sqrt(var + module.eps)
        folded = (scale, bias - mean * scale, torch.zeros_like(mean), torch.ones_like(var))
        for key, value in zip(keys, folded, strict=True):
            getattr(module, key).data = value
        module.eps = 0.0

    def remove(self) -> None:
        """Restore the layer."""
        for key, value in self.original.items():
            getattr(self.module, key).data = value
        self.module.eps = self.eps


def _is_foldable(module: Any) -> bool:
    # torchvision's FrozenBatchNorm2d has no `affine`.
    return getattr(module, "affine", True) and module.running_mean is not None


class SplitTorchvisionBlocks(AttributeCanonizer):  # type: ignore[misc]
    """Split residual additions of torchvision's ResNets and MobileNets.

    Their rule would be the same as functions; as layers they cost less, since functions need not be
    observed. A subclass of such a block that defines its own ``forward`` is not split.
    """

    def __init__(self) -> None:
        super().__init__(self._attributes)

    @staticmethod
    def _attributes(name: str, module: nn.Module) -> dict[str, Any] | None:
        forward = next((f for kind, f in _FORWARDS.items() if isinstance(module, kind)), None)
        if forward is None or not getattr(module, "use_res_connect", True):
            return None
        if type(module).forward.__module__.partition(".")[0] != "torchvision":
            return None
        return {"forward": forward.__get__(module), "canonizer_sum": Sum()}


def _residual_forward(self: Any, x: Tensor) -> Tensor:
    branch = self.conv if hasattr(self, "conv") else self.block
    total: Tensor = self.canonizer_sum(torch.stack([x, branch(x)], dim=-1))
    return total


# The forward that each of torchvision's blocks gets.
_FORWARDS: dict[type[nn.Module], Any] = {
    resnet.BasicBlock: ResNetBasicBlockCanonizer.forward,
    resnet.Bottleneck: ResNetBottleneckCanonizer.forward,
    mobilenetv2.InvertedResidual: _residual_forward,
    mobilenetv3.InvertedResidual: _residual_forward,
}


def build_canonizer(name: str) -> Canonizer:
    """Build a canonizer of the published code by name, one of `CANONIZERS`.

    All four do the same here. The published ones split the additions of one family of networks
    each; under another family's canonizer relevance would grow at each block.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_choice("canonizer", name, CANONIZERS)
    return CompositeCanonizer([FoldBatchNormStatistics(), SplitTorchvisionBlocks()])
