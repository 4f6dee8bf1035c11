"""Layers that the suite's networks share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class ResidualSum(nn.Module):
    """Addition of the two branches of a residual block, as a layer that relevance can split."""

    def forward(self, branches: Tensor) -> Tensor:
        """Shape (2, …), the stacked branches, to (…)."""
        return branches.sum(0)


class PaddedShortcut(nn.Module):
    """ResNet20's parameter-free shortcut: every second pixel, channels padded with zeros.

    Parameters
    ----------
    in_channels, out_channels : int
        The missing channels are added in equal parts before and after.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, out_channels, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *self.padding))
