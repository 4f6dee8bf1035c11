"""What the assignment of ECQx knows of one layer; shared by tensors and compiled loops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RELEVANCE_EPSILON = 1e-12
# For sums such as 0.1 * 30, which are a hair beside the whole number.
ALLOWANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Layer:
    """What ECQx knows of one layer.

    Attributes
    ----------
    values, cost : Tensor of float64, shape (K,)
        Centroids and λ·I.
    zero : Tensor of int64, shape (1,)
        Index of the centroid 0.
    plain, nonzero : Tensor of float32, shape (K - 1,)
        Bounds of the envelopes of all clusters, and of all but the zero cluster.
    """

    values: Tensor
    cost: Tensor
    zero: Tensor
    plain: Tensor
    nonzero: Tensor


def relevance_scale(relevance: Tensor) -> Tensor:
    """The scale of R = |r| / (max|r| + 1e-12): float32, so that the largest R is mostly one."""
    low, high = torch.aminmax(relevance)
    return torch.maximum(-low, high) + RELEVANCE_EPSILON
