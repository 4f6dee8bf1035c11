"""Data sets as tensors."""

from ecqx.data.digits import digits
from ecqx.data.tensors import Split, TensorData

__all__ = ["Split", "TensorData", "digits"]
