"""ResNets for CIFAR (He et al., 2016), with the parameter names of the published checkpoints.

ResNet20, 32, 44 and ``resnet56_basic`` have basic blocks, ``resnet56`` has bottleneck blocks (as in
the published code). Residual sums and each ReLU are modules of their own, so that a rule of
relevance can be attached to each.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ecqx.layers import PaddedShortcut, ResidualSum


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and the identity or `PaddedShortcut`."""

    expansion: ClassVar[int] = 1

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


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with BatchNorm, and a shortcut.

    The shortcut is the identity where the shape stays, else a 1x1 convolution with BatchNorm.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        if in_channels == out_channels and stride == 1:
            self.downsample: nn.Module = nn.Identity()
        else:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
        self.sum = ResidualSum()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, 4 * channels, H/stride, W/stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        total: Tensor = self.relu3(self.sum(torch.stack([self.downsample(x), out])))
        return total


class _ResNetCifar(nn.Module):
    """Three stages of 16, 32 and 64 channels and global average pooling; no last layer yet."""

    def __init__(self, block: type[BasicBlock | Bottleneck], blocks: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(block, blocks, 16, 16, stride=1)
        self.layer2 = _stage(block, blocks, 16 * block.expansion, 32, stride=2)
        self.layer3 = _stage(block, blocks, 32 * block.expansion, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to features (B, 64 * expansion)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        pooled: Tensor = self.pool(out)
        return pooled.flatten(1)


def _stage(
    block: type[BasicBlock | Bottleneck], blocks: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    out_channels = block.expansion * channels
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(out_channels, channels, 1) for _ in range(blocks - 1)))


class BasicResNetCifar(_ResNetCifar):
    """A ResNet of basic blocks; ``blocks=3`` per stage is ResNet20."""

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__(BasicBlock, blocks, in_channels)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.linear(self.features(x))
        return logits


class BottleneckResNetCifar(_ResNetCifar):
    """A ResNet of bottleneck blocks; ``blocks=6`` per stage is ResNet56."""

    def __init__(self, blocks: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__(Bottleneck, blocks, in_channels)
        self.fc = nn.Linear(64 * Bottleneck.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.fc(self.features(x))
        return logits
