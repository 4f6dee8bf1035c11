"""Layers of the suite's networks that LRP has rules for."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ResidualSum(nn.Module):
    """Residual addition as a module, so that an LRP rule can split the relevance."""

    def forward(self, branches: Tensor) -> Tensor:
        """Stacked branches of shape (2, …) to their sum."""
        return branches.sum(0)


class PaddedShortcut(nn.Module):
    """ResNet20's shortcut without parameters: every second pixel, channels padded with zeros.

    Half of the new channels are added before, half after the existing ones.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, out_channels, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *self.padding))
