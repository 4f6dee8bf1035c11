"""The lower envelope of the clusters' costs.

The cost ``(w - w_c)² + b_c`` of cluster c, with b_c = λ·I_c, is a parabola in the weight w. All K
have the same curvature, so each is the lowest in at most one interval. Finding the interval in
which a weight lies gives the argmin without the n x K costs of n weights.
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
        L layers of K clusters. Ascending in each row, equal neighbours allowed.
    offsets : Tensor of float64, shape (L, K)
        At least one finite in each row; an infinite one takes its parabola out.

    Returns
    -------
    Tensor of float32, shape (L, K - 1)
        Ascending, rounded down, which changes no comparison with a float32 w. The number of bounds
        below w is the index of the lowest parabola at w. A parabola that is lowest nowhere has an
        empty interval. At a tie the lower index wins.
    """
    left, right = centers.unsqueeze(-1), centers.unsqueeze(-2)
    rise = offsets.unsqueeze(-2) - offsets.unsqueeze(-1)
    # Entry [i, j] with i < j is where parabola j begins to be lower than i: ∞ for never, -∞ for
    # everywhere, as of equal centers. NaN means that they are equal: i wins.
    crossing = (left + right) / 2 + rise / (2 * (right - left))
    crossing = crossing.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    count = centers.shape[-1]
    # i is lowest from its last crossing with a parabola before it to its first with one after it.
    after = torch.ones(count, count, dtype=torch.bool, device=centers.device).triu(1)
    ends = torch.where(after, crossing, math.inf).amin(-1)
    begins = torch.where(after, crossing, -math.inf).amax(-2)
    lowest_somewhere = (begins < ends) & torch.isfinite(offsets)
    # An empty interval ends where the one before it does.
    ends = torch.where(lowest_somewhere, ends, -math.inf).cummax(-1).values
    return round_down(ends[..., :-1])
