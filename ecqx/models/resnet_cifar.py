"""ResNet20 for CIFAR (He et al., 2016), with the parameter names of the published checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecqx.layers import PaddedShortcut, ResidualSum


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut.

    The addition is a `ResidualSum`, so that a rule of relevance can split it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else PaddedShortcut(in_channels, channels)
        self.sum = ResidualSum()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, channels, H/stride, W/stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        total: Tensor = self.relu2(self.sum(torch.stack([self.shortcut(x), out])))
        return total


class ResNetCifar(nn.Module):
    """Three stages of 16, 32 and 64 channels, global average pooling, one linear layer.

    Parameters
    ----------
    blocks : int
        Blocks per stage; 3 for ResNet20.
    num_classes : int
    in_channels : int
        Channels of the images.
    """

    def __init__(self, blocks: int = 3, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (B, in_channels, H, W) to logits of shape (B, num_classes)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(self.pool(out).flatten(1))
        return logits


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
