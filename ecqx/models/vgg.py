"""VGG16 for small images, with and without BatchNorm, of any width."""

from __future__ import annotations

from torch import nn

# Channels of the convolutions, and "M" for max-pooling: configuration D of Simonyan & Zisserman
# (2015).
_CONFIGURATION: tuple[int | str, ...] = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
)
HIDDEN = 512


def vgg16(
    num_classes: int = 10, in_channels: int = 3, width: float = 1.0, batch_norm: bool = False
) -> nn.Sequential:
    """Build VGG16 with the paper's classifier 512-512-``num_classes`` for CIFAR-sized images.

    ``width`` is a factor on the channels of the convolutions, ``batch_norm`` puts BatchNorm after
    each. Smaller images work too, since pooling leaves a map of one pixel unchanged.
    """
    if not width > 0:
        raise ValueError(f"width must be greater than 0, not {width}")
    layers: list[nn.Module] = []
    channels = in_channels
    for entry in _CONFIGURATION:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            continue
        wide = max(1, round(entry * width))
        layers.append(nn.Conv2d(channels, wide, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(wide))
        layers.append(nn.ReLU())
        channels = wide
    classifier = (
        *(nn.Linear(channels, HIDDEN), nn.ReLU()),
        *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU()),
        nn.Linear(HIDDEN, num_classes),
    )
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
