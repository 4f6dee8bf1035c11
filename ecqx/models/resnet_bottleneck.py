"""ResNet56 for CIFAR with bottleneck blocks, as the published code has it.

Block: He et al., "Deep Residual Learning for Image Recognition" (2016), figure 5, right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecqx.layers import ResidualSum

EXPANSION = 4


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with BatchNorm around a shortcut.

    Parameters
    ----------
    in_channels : int
    channels : int
        Of the 3x3 convolution; the block's output has four times as many.
    stride : int
        Of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.sum = ResidualSum()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, in_channels, H, W) to (B, 4 * channels, H/stride, W/stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        total: Tensor = self.relu3(self.sum(torch.stack([self.downsample(x), out])))
        return total


class BottleneckResNetCifar(nn.Module):
    """Three stages of widths 16, 32 and 64, global average pooling, one linear layer.

    Parameters
    ----------
    blocks : int
        Blocks per stage; 6 for ResNet56.
    num_classes : int
    in_channels : int
        Channels of the images.
    """

    def __init__(self, blocks: int = 6, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16 * EXPANSION, 32, stride=2)
        self.layer3 = _stage(blocks, 32 * EXPANSION, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * EXPANSION, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (B, in_channels, H, W) to logits of shape (B, num_classes)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(self.pool(out).flatten(1))
        return logits


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    others = (Bottleneck(EXPANSION * channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)
