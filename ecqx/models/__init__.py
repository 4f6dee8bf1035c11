"""The paper's networks by name, and any network of torchvision."""

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names

if TYPE_CHECKING:
    from ecqx.models.networks import MODELS, build

_HOMES = {"MODELS": "ecqx.models.networks", "build": "ecqx.models.networks"}
__all__ = ["MODELS", "build"]
__getattr__ = lazy_names(__name__, _HOMES)
