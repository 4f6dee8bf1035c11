"""The paper's networks by name, and any network of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ecqx.models.mlp import mlp_gsc
from ecqx.models.resnet_cifar import ResNetCifar
from ecqx.models.vgg import vgg16


def _resnet20(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    return ResNetCifar(blocks=3, num_classes=num_classes, in_channels=in_channels)


def _vgg16_bn(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    return vgg16(num_classes, in_channels, width, batch_norm=True)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp_gsc": mlp_gsc,
    "resnet20": _resnet20,
    "vgg16": vgg16,
    "vgg16_bn": _vgg16_bn,
}
MODELS = tuple(_NETWORKS)


def build(name: str, **settings: Any) -> nn.Module:
    """Build a network with random weights by name.

    Parameters
    ----------
    name : str
        One of `MODELS`, or any name of ``torchvision.models.list_models()``. The suite's own come
        first: ``vgg16`` and ``vgg16_bn`` are the paper's, for images of 32 pixels.
    **settings
        ``num_classes``, and what the network takes beside it.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If the name is unknown, or the network does not take a setting.

    Examples
    --------
    >>> model = build("resnet20", num_classes=10)
    >>> sum(p.numel() for p in model.parameters())
    269722
    """
    try:
        if name in _NETWORKS:
            return _NETWORKS[name](**settings)
        import torchvision

        if name in torchvision.models.list_models():
            model: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
            return model
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"model {name}: {error}") from error
    raise ValueError(
        f"model must be one of {', '.join(MODELS)} or a network of torchvision, not {name!r}"
    )


__all__ = ["MODELS", "build"]
