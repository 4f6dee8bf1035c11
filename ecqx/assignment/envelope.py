"""The lower envelope of the clusters' costs.

All costs ``(w - w_c)² + b_c`` of a weight are parabolas of the same curvature, so each is the
lowest in at most one interval. Finding the interval in which a weight lies gives the argmin without
the n x K costs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ecqx.assignment.centroids import round_down


def envelope_bounds(centers: Tensor, offsets: Tensor) -> Tensor:
    """Upper bounds of the intervals in which each parabola ``(w - center)² + offset`` is lowest.

    Parameters
    ----------
    centers : Tensor of float64, shape (L, K)
        Ascending in each row, equal neighbours allowed.
    offsets : Tensor of float64, shape (L, K)
        At least one finite in each row; an infinite one takes its parabola out.

    Returns
    -------
    Tensor of float32, shape (L, K - 1)
        Ascending. The number of bounds below w is the index of the lowest parabola at w. A parabola
        that is lowest nowhere has an empty interval. At a tie the lower index wins.
    """
    left, right = centers.unsqueeze(-1), centers.unsqueeze(-2)
    rise = offsets.unsqueeze(-2) - offsets.unsqueeze(-1)
    # [i, j]: where i < j cross. Of equal centers the lower offset is lower everywhere.
    crossing = (left + right) / 2 + rise / (2 * (right - left))
    crossing = crossing.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    count = centers.shape[-1]
    after = torch.ones(count, count, dtype=torch.bool, device=centers.device).triu(1)
    ends = torch.where(after, crossing, math.inf).amin(-1)
    begins = torch.where(after, crossing, -math.inf).amax(-2)
    lowest_somewhere = (begins < ends) & torch.isfinite(offsets)
    ends = torch.where(lowest_somewhere, ends, -math.inf).cummax(-1).values
    return round_down(ends[..., :-1])
