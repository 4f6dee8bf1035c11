"""What clusters cost, and where they are the cheapest: loops over clusters, compiled for the CPU.

The same for tensors of any device is in `ecqx.assignment.information` and
`ecqx.assignment.envelope`; there stand the
formulas. A layer has few clusters, so that calls of tensor operations take longer than they do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecqx.loops import Doubles, compiled

# As in `ecqx.assignment.information`; the cache of what is compiled looks at this file alone.
LARGEST_LAMBDA = 1e290
ROUNDING_OF_INFORMATION = 1e-12
SMALLEST_FLOAT64 = 5e-324


@compiled
def information_cost(
    counts: Doubles,
    extremes: Doubles,
    values: Doubles,
    zeros: NDArray[np.int64],
    lam: float,
    largest_layer_size: int,
    pmf_is_published: bool,
    lambda_is_published: bool,
    cost: Doubles,
) -> None:
    """Write λ·I of each cluster of each layer.

    Parameters
    ----------
    counts, values, cost : float64, shape (L, K)
        Occupancy, centroids, and where the result goes.
    extremes : float64, shape (L, 2)
        Lowest and highest weight.
    zeros : int64, shape (L, 1)
        Index of the zero cluster.
    lam, largest_layer_size
        As for `ecqx.assignment.information.information_cost`.
    pmf_is_published, lambda_is_published : bool
        Which of two formulas.
    """
    for layer in range(len(counts)):
        zero, n, info = zeros[layer, 0], 0.0, cost[layer]
        for occupants in counts[layer]:
            n += occupants
        _information(counts[layer], n, zero, pmf_is_published, info)
        most = _lambda_max(
            counts[layer], extremes[layer], values[layer], zero, info, lambda_is_published
        )
        scale = (n / largest_layer_size + 0.05) / 1.05
        lambda_ = min(lam * most * scale, LARGEST_LAMBDA)
        for c in range(info.size):
            info[c] = lambda_ * info[c] if lambda_ > 0 else 0.0


@compiled
def _information(
    counts: Doubles, n: float, zero: int, pmf_is_published: bool, info: Doubles
) -> None:
    """I_c = -log2 P_c, with P_0 raised to one half at least."""
    p_zero = counts[zero] / n
    others = max(1 - p_zero, SMALLEST_FLOAT64)
    r = max((0.5 - p_zero) / others, 0.0)
    for c in range(counts.size):
        shrinks_with_half = pmf_is_published and c > zero
        share = counts[c] / n * (1 - (r / others if shrinks_with_half else r))
        info[c] = -np.log2(max(p_zero, 0.5) if c == zero else share)


@compiled
def _lambda_max(
    counts: Doubles,
    extremes: Doubles,
    values: Doubles,
    zero: int,
    info: Doubles,
    lambda_is_published: bool,
) -> float:
    """The larger of both sides' λ; a side that does not count has none."""
    lowest, highest, largest = 0, counts.size - 1, 0.0
    while counts[lowest] == 0:
        lowest += 1
    while counts[highest] == 0:
        highest -= 1
    for side in range(2):
        cluster = highest if side else lowest
        gain = info[cluster] - info[zero]
        if cluster == zero or gain <= ROUNDING_OF_INFORMATION:
            continue
        extreme = extremes[side]
        rounding = (values[cluster] - extreme) ** 2
        published = (rounding + extreme) ** 2
        cost = published if lambda_is_published else extreme**2 - rounding
        largest = max(largest, cost / gain)
    return largest


@compiled
def envelope_ends(centers: Doubles, offsets: Doubles, ends: Doubles) -> None:
    """Write where each parabola ends to be the lowest, as
    `ecqx.assignment.envelope.envelope_bounds` says.

    All of shape (K,). The lowest ones so far are a stack; a new one ends those that it leaves no
    room to.
    """
    lowest, begins, top = np.empty(centers.size, np.int64), np.empty(centers.size), 0
    for j in range(centers.size):
        ends[j] = -np.inf
        if np.isinf(offsets[j]):
            continue
        begin = -np.inf
        while top > 0:
            i = lowest[top - 1]
            gap = centers[j] - centers[i]
            if gap == 0:
                begin = -np.inf if offsets[j] < offsets[i] else np.inf
            else:
                begin = (centers[i] + centers[j]) / 2 + (offsets[j] - offsets[i]) / (2 * gap)
            if begin > begins[top - 1]:
                break
            top -= 1
            begin = -np.inf
        if begin < np.inf:
            lowest[top], begins[top] = j, begin
            top += 1
    for k in range(top):
        ends[lowest[k]] = begins[k + 1] if k + 1 < top else np.inf
    for j in range(1, ends.size):
        ends[j] = max(ends[j], ends[j - 1])
