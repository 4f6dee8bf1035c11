"""ECQx: explainability-driven, entropy-constrained quantization of neural networks.

The names below are imported when they are first used: a command that only looks into a file does
not wait for zennit and torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecqx import models
    from ecqx.assignment import assign
    from ecqx.bitstream import load, save
    from ecqx.centroids import CentroidGrid
    from ecqx.export import export_onnx
    from ecqx.quantizer import ECQx
    from ecqx.relevance import LRP, weight_relevance
    from ecqx.trained import EC2T, FantastIC4

__version__ = "0.1.0"

_HOMES = {
    "CentroidGrid": "ecqx.centroids",
    "EC2T": "ecqx.trained",
    "ECQx": "ecqx.quantizer",
    "FantastIC4": "ecqx.trained",
    "LRP": "ecqx.relevance",
    "assign": "ecqx.assignment",
    "export_onnx": "ecqx.export",
    "load": "ecqx.bitstream",
    "save": "ecqx.bitstream",
    "weight_relevance": "ecqx.relevance",
}

__all__ = [
    "EC2T",
    "LRP",
    "CentroidGrid",
    "ECQx",
    "FantastIC4",
    "assign",
    "export_onnx",
    "load",
    "models",
    "save",
    "weight_relevance",
]


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("ecqx.models")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ecqx' has no attribute {name!r}")
