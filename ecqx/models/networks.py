"""The paper's networks by name, and any network of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from ecqx.models.resnet_cifar import BasicResNetCifar, BottleneckResNetCifar
from ecqx.models.transformer import PatchTransformer
from ecqx.models.vgg import vgg16

HIDDEN = (512, 512, 256, 256, 128, 128)


def mlp_gsc(in_features: int = 735, num_classes: int = 12) -> nn.Sequential:
    """The paper's fully connected network for Google Speech Commands, with ReLU.

    Inputs of ``in_features`` elements are flattened.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((in_features, *HIDDEN)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], num_classes))


def _vgg16_bn(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    return vgg16(num_classes, in_channels, width, batch_norm=True)


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp_gsc": mlp_gsc,
    "resnet20": partial(BasicResNetCifar, 3),
    "resnet32": partial(BasicResNetCifar, 5),
    "resnet44": partial(BasicResNetCifar, 7),
    "resnet56_basic": partial(BasicResNetCifar, 9),
    "resnet56": partial(BottleneckResNetCifar, 6),
    "vgg16": vgg16,
    "vgg16_bn": _vgg16_bn,
    "patch_transformer": PatchTransformer,
}
MODELS = tuple(_NETWORKS)
# Settings that leave out the auxiliary outputs that these networks have in training.
_SINGLE_OUTPUT = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def build(name: str, **settings: Any) -> nn.Module:
    """Build a network with random weights by name.

    Parameters
    ----------
    name : str
        One of `MODELS`, or any name of ``torchvision.models.list_models()``. The suite's own come
        first: ``vgg16`` and ``vgg16_bn`` are the paper's, for images of 32x32 pixels.
    **settings
        ``num_classes`` and further settings of the network, such as ``in_channels``. The default
        of ``num_classes`` is 12 (mlp_gsc), 100 (resnet56), 10 (the others) or torchvision's.

    Returns
    -------
    nn.Module
        Maps inputs to logits; torchvision's segmentation networks to a dict with logits of shape
        (B, num_classes, H, W) under ``"out"``.

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
            return _from_torchvision(name, settings)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"model {name}: {error}") from error
    raise ValueError(
        f"model must be one of {', '.join(MODELS)} or a network of torchvision, not {name!r}"
    )


def input_settings(name: str, shape: Sequence[int]) -> dict[str, int]:
    """Settings of `build` for inputs of a shape, without the batch; those of the suite's own."""
    if name == "mlp_gsc":
        return {"in_features": prod(shape)}
    if name == "patch_transformer":
        return {"in_channels": shape[0], "image_size": shape[-1]}
    return {"in_channels": shape[0]} if name in _NETWORKS else {}


def _from_torchvision(name: str, settings: dict[str, Any]) -> nn.Module:
    """A network of torchvision with random weights throughout, so that nothing is downloaded."""
    import torchvision

    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    # Segmentation networks would otherwise fetch the weights of their backbone.
    untrained = {"weights_backbone": None} if "weights_backbone" in takes else {}
    settings = _SINGLE_OUTPUT.get(name, {}) | settings
    model: nn.Module = torchvision.models.get_model(name, weights=None, **untrained, **settings)
    return model
