"""How a network is rewritten before relevance runs through it, by the published canonizers' names.

BatchNorm stays a layer of its own with a rule of its own: its running statistics are folded into
its own scale and shift, not into the layer before it as zennit's canonizers do. Residual
additions become a `Sum` with a rule, so that each branch receives its share: the published code
leaves ResNet20's additions unsplit, and relevance grows at each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import AttributeCanonizer, Canonizer, CompositeCanonizer
from zennit.layer import Sum
from zennit.types import BatchNorm

from ecqx.relevance.products import BranchProduct
from ecqx.relevance.settings import CANONIZERS, check_choice

_MOBILENETS = ("torchvision.models.mobilenetv2", "torchvision.models.mobilenetv3")


class FoldBatchNormStatistics(Canonizer):  # type: ignore[misc]
    """Fold BatchNorm's running statistics into its own scale and shift.

    Afterwards the layer is ``γ/√(σ² + ε) · x + (β - μ·γ/√(σ² + ε))`` with statistics 0 and 1, so
    that rules which modify its parameters see the linear map it computes.
    """

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Fold every BatchNorm with running statistics and parameters below ``root_module``."""
        instances = []
        for module in root_module.modules():
            if isinstance(module, BatchNorm) and _is_foldable(module):
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
    # torchvision's frozen BatchNorm, one of zennit 1.0's types, has no such flag.
    return getattr(module, "affine", True) and module.running_mean is not None


class SplitResnetAdditions(Canonizer):  # type: ignore[misc]
    """Split the residual additions of torchvision's ResNets by zennit's own canonizers."""

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Rewrite the blocks below ``root_module``, if there are any."""
        if not _holds_classes_of(root_module, "torchvision.models.resnet"):
            return []
        from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer

        split: list[Canonizer] = ResNetBasicBlockCanonizer().apply(root_module)
        split += ResNetBottleneckCanonizer().apply(root_module)
        return split

    def register(self) -> None:
        """Nothing of its own."""

    def remove(self) -> None:
        """Nothing of its own."""


class SplitMobileNetAdditions(AttributeCanonizer):  # type: ignore[misc]
    """Split the residual additions of torchvision's MobileNets, and the gates of MobileNetV3."""

    def __init__(self) -> None:
        super().__init__(self._attributes)

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Rewrite the blocks below ``root_module``, if there are any."""
        if not any(_holds_classes_of(root_module, library) for library in _MOBILENETS):
            return []
        split: list[Canonizer] = super().apply(root_module)
        return split

    @staticmethod
    def _attributes(name: str, module: nn.Module) -> dict[str, Any] | None:
        from torchvision.models import mobilenetv2, mobilenetv3
        from torchvision.ops import SqueezeExcitation

        blocks = (mobilenetv2.InvertedResidual, mobilenetv3.InvertedResidual)
        if isinstance(module, blocks) and module.use_res_connect:
            return {"forward": _residual_forward.__get__(module), "canonizer_sum": Sum()}
        if isinstance(module, SqueezeExcitation):
            product = BranchProduct()
            return {"forward": _gated_forward.__get__(module), "canonizer_product": product}
        return None


def _holds_classes_of(root_module: nn.Module, library: str) -> bool:
    """Whether a network has modules of a library, told without the seconds of importing it."""
    return any(type(module).__module__ == library for module in root_module.modules())


def _residual_forward(self: Any, x: Tensor) -> Tensor:
    branch = self.conv if hasattr(self, "conv") else self.block
    total: Tensor = self.canonizer_sum(torch.stack([x, branch(x)], dim=-1))
    return total


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    gate = self._scale(x).expand_as(x)
    product: Tensor = self.canonizer_product(torch.stack([x, gate], dim=-1))
    return product


def build_canonizer(name: str) -> Canonizer:
    """Build a canonizer of the published code by name.

    Parameters
    ----------
    name : str
        One of `CANONIZERS`. All four do the same here: the published ones split the additions of
        one family of networks each, and a network under another family's canonizer would make
        relevance at each of its blocks, up to a thousandfold.

    Returns
    -------
    zennit.canonizers.Canonizer

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    check_choice("canonizer", name, CANONIZERS)
    return CompositeCanonizer(
        [FoldBatchNormStatistics(), SplitResnetAdditions(), SplitMobileNetAdditions()]
    )
