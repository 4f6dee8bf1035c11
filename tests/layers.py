"""Information of a single layer, for tests that look at one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecqx.assignment import assign, information
from ecqx.assignment.centroids import CentroidGrid, GridStack


def occupancy_of(weight: Tensor, grids: GridStack) -> information.Occupancy:
    """Clusters and extremes of a single layer."""
    flat = [weight.flatten()]
    return assign.occupancy(flat, assign.extremes(flat), grids)


def occupancy(weight: Tensor, grid: CentroidGrid) -> Tensor:
    """How many weights are nearest to each centroid, shape (K,)."""
    return occupancy_of(weight, GridStack.of([grid])).counts[0]


def probabilities(counts: Tensor, zero: int, pmf: Any = "published") -> Tensor:
    """Probability mass of the clusters, shape (K,)."""
    return information.probabilities(counts[None], torch.tensor([[zero]]), pmf)[0]


def lambda_max(weight: Tensor, grid: CentroidGrid, formula: Any) -> float:
    """λ_max with the published probabilities."""
    grids = GridStack.of([grid])
    seen = occupancy_of(weight, grids)
    info = information.information(information.probabilities(seen.counts, grids.zero))
    return float(information.lambda_max(seen, grids, info, formula))


def information_cost(
    weight: Tensor,
    grid: CentroidGrid,
    lam: float,
    largest_layer_size: int | None = None,
    pmf: Any = "published",
    formula: Any = "published",
) -> Tensor:
    """λ·I_c, shape (K,); zeros where λ = 0."""
    grids, n = GridStack.of([grid]), weight.numel()
    seen = occupancy_of(weight, grids)
    largest = largest_layer_size or n
    return information.information_cost(seen, grids, lam, largest, pmf, formula)[0]
