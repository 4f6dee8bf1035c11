"""ECQx: explainability-driven, entropy-constrained quantization of neural networks.

The names below are imported when first used: a command that only reads a file does not wait for
zennit and torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names

if TYPE_CHECKING:
    from ecqx import models
    from ecqx.assignment.assign import assign
    from ecqx.assignment.centroids import CentroidGrid
    from ecqx.coding.bitstream import load, save
    from ecqx.coding.inspection import inspect
    from ecqx.coding.nnc_bitstream import export_nnc
    from ecqx.coding.onnx_export import export_onnx
    from ecqx.experiment.search import search
    from ecqx.quantizers.ecqx import ECQx
    from ecqx.quantizers.trained_centroids import EC2T, FantastIC4
    from ecqx.relevance.settings import LRP
    from ecqx.relevance.weights import weight_relevance
    from ecqx.version import __version__

_HOMES = {
    "CentroidGrid": "ecqx.assignment.centroids",
    "EC2T": "ecqx.quantizers.trained_centroids",
    "ECQx": "ecqx.quantizers.ecqx",
    "FantastIC4": "ecqx.quantizers.trained_centroids",
    "LRP": "ecqx.relevance.settings",
    "assign": "ecqx.assignment.assign",
    "export_nnc": "ecqx.coding.nnc_bitstream",
    "export_onnx": "ecqx.coding.onnx_export",
    "inspect": "ecqx.coding.inspection",
    "load": "ecqx.coding.bitstream",
    "models": "ecqx.models",
    "save": "ecqx.coding.bitstream",
    "search": "ecqx.experiment.search",
    "__version__": "ecqx.version",
    "weight_relevance": "ecqx.relevance.weights",
}
__all__ = ["EC2T", "LRP", "CentroidGrid", "ECQx", "FantastIC4", "__version__", "assign"]
__all__ += ["export_nnc", "export_onnx", "inspect", "load", "models", "save", "search"]
__all__ += ["weight_relevance"]
__getattr__ = lazy_names(__name__, _HOMES)
