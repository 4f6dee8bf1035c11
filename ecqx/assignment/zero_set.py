"""Which weights ECQx puts into the zero cluster.

Paper: the ECQx assignment, section 3. The zero cluster's cost is multiplied by 2·(R + 1e-12)^β, so
only "zero or the best non-zero cluster" is open for a weight. With the costs c₀ and c₊ of these
two, it goes to zero iff ``2 c₀ (R + 1e-12)^β < c₊``, that is iff

    β > t = ln(c₊ / 2c₀) / ln(R + 1e-12).

So each zero set is {t < β} for one t, and a wanted number of zeros is a rank among the t.

β starts at its neutral value ln ½ / ln mean(R), at which a weight of mean relevance has factor one.
If the number of zeros is not in the band then, β is moved as little as needed, within [0, 1]
(``nearest``). ``published`` is the published code's search, which ends anywhere in the band
(`published_zero_set`). It begins at no zeros, so a layer whose sparsity by ECQ is at or below p
keeps ECQ's assignment; ``nearest_above_p`` does this alone, and is otherwise ``nearest``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.assignment import loops
from ecqx.assignment.information import SMALLEST_FLOAT64
from ecqx.assignment.settings import AssignmentSettings

RELEVANCE_EPSILON = 1e-12
# In float64 0.1 * 30 is slightly above 3: the band is widened by this before its edges are rounded.
ROUNDING_ALLOWANCE = 1e-6
PUBLISHED_TRIALS = 51


@dataclass(frozen=True, eq=False)
class Layer:
    """The clusters of one layer.

    Attributes
    ----------
    values, cost : Tensor of float64, shape (K,)
        Centroids and λ·I.
    zero : Tensor of int64, shape (1,)
        Index of the centroid 0.
    bounds, nonzero_bounds : Tensor of float32, shape (K - 1,)
        Of the lower envelopes of all clusters, and of all but the zero cluster.
    scale : Tensor of float32
        R = |r| / scale of the layer's relevances r.
    """

    values: Tensor
    cost: Tensor
    zero: Tensor
    bounds: Tensor
    nonzero_bounds: Tensor
    scale: Tensor


def relevance_unit(count: int) -> float:
    """A power of two: the sum of ``count`` numbers R in [0, 1], times it, fits into int64."""
    return 2.0 ** (62 - count.bit_length())


# -- on the CPU ------------------------------------------------------------------------------------


def assign_on_cpu(
    weight: Tensor, relevance: Tensor, layer: Layer, settings: AssignmentSettings, index: Tensor
) -> None:
    """Write ECQx's assignment of one layer by compiled loops, for all but the ``published`` β.

    It is ECQ's where distances alone decide (λ = 0), or the relevance is the same for all weights:
    mean(R) is 0 or 1.

    Parameters
    ----------
    weight, relevance : Tensor of float32, shape (n,)
    layer : Layer
    settings : AssignmentSettings
    index : Tensor of int32, shape (n,)
    """
    w, r, chosen = weight.numpy(), relevance.numpy(), index.numpy()
    largest: Any = layer.scale.numpy()[()]
    n, unit = len(w), relevance_unit(len(w))
    mean = loops.sum_of_relevance(r, largest, unit) / unit / n
    zeros = _zeros_of_ecq(weight, layer)
    low, high = settings.band
    fewest = math.ceil(zeros + low * n - ROUNDING_ALLOWANCE)
    most = math.floor(zeros + high * n + ROUNDING_ALLOWANCE)
    is_left_out = settings.beta == "nearest_above_p" and fewest <= 0
    if not 0 < mean < 1 or not layer.cost.any() or is_left_out:
        loops.lookup(w, layer.bounds.numpy(), chosen)
        return
    logarithms = np.array([0.5, mean])
    loops.take_logarithm(logarithms)
    beta = float(logarithms[0] / logarithms[1])
    loops.lookup(w, layer.nonzero_bounds.numpy(), chosen)
    t, histogram = np.empty(n), np.empty(loops.BINS + 2, np.int64)
    clusters = (layer.values.numpy(), layer.cost.numpy(), int(layer.zero))
    loops.zero_thresholds(w, r, largest, RELEVANCE_EPSILON, chosen, *clusters, t, histogram)
    edge = zero_edge(t, histogram, beta, fewest, most)
    loops.move_to_zero(t, edge, int(layer.zero), chosen)


def zero_edge(
    t: NDArray[np.float64], histogram: NDArray[np.int64], beta: float, fewest: int, most: int
) -> float:
    """The β below which the t of the zero set lie, as `zero_set` says.

    Parameters
    ----------
    t : float64, shape (n,)
    histogram : int64
        As `ecqx.assignment.loops.zero_thresholds` writes it.
    beta, fewest, most
        As for `zero_set`.
    """
    neutral = loops.count_below(t, beta)
    if fewest <= neutral <= most:
        return beta
    wanted = fewest if neutral < fewest else most
    up_to = histogram.cumsum()
    if wanted <= up_to[0]:
        return 0.0
    if wanted >= up_to[-2]:
        return 1.0
    # The t of rank ``wanted`` is found in its bin.
    bin_ = int(np.searchsorted(up_to, wanted))
    candidates, before = np.empty(histogram[bin_]), int(up_to[bin_ - 1])
    loops.collect(t, (bin_ - 1) / loops.BINS, bin_ / loops.BINS, candidates)
    cut = float(np.partition(candidates, wanted - before - 1)[wanted - before - 1])
    with_equal = before + np.count_nonzero(candidates <= cut)
    # With all weights that share the t of this rank, if the band allows it, or with none of them.
    return math.nextafter(cut, math.inf) if with_equal <= most else cut


def _zeros_of_ecq(weight: Tensor, layer: Layer) -> int:
    """The number of weights that ECQ puts into the zero cluster."""
    bounds, zero = layer.bounds.numpy(), int(layer.zero)
    low = bounds[zero - 1] if zero > 0 else -math.inf
    high = bounds[zero] if zero < len(bounds) else math.inf
    above = np.empty(2, np.int64)
    loops.count_above(weight.numpy(), np.array([low, high], np.float32), above)
    return int(above[0] - above[1])


# -- on other devices ------------------------------------------------------------------------------


def assign_on_device(
    weight: Tensor, relevance: Tensor, layer: Layer, settings: AssignmentSettings, index: Tensor
) -> None:
    """As `assign_on_cpu`, for each way to find β, by tensor operations that never wait."""
    plain = torch.bucketize(weight, layer.bounds, out_int32=True)
    nonzero = torch.bucketize(weight, layer.nonzero_bounds, out_int32=True)
    R = (relevance.abs() / layer.scale).to(torch.float64)
    n, unit = weight.numel(), relevance_unit(weight.numel())
    mean = (R * unit).long().sum().double() / unit / n
    zeros = (plain == layer.zero).sum().double()
    low, high = settings.band
    fewest = (zeros + low * n - ROUNDING_ALLOWANCE).ceil()
    most = (zeros + high * n + ROUNDING_ALLOWANCE).floor()
    t, beta = zero_threshold(weight, layer, nonzero, R), math.log(0.5) / mean.log()
    informative = (mean > 0) & (mean < 1) & layer.cost.any()
    if settings.beta != "nearest":
        # The published search begins at no zeros: if these lie in the band, it has ended.
        informative &= fewest > 0
    find = published_zero_set if settings.beta == "published" else zero_set
    below_edge = find(t, beta, fewest, most)
    zero = layer.zero.to(torch.int32)
    index.copy_(torch.where(informative, torch.where(below_edge, zero, nonzero), plain))


def zero_threshold(weight: Tensor, layer: Layer, nonzero: Tensor, R: Tensor) -> Tensor:
    """The β above which each weight goes to the zero cluster, float64, shape (n,).

    Parameters
    ----------
    weight : Tensor of float32, shape (n,)
    layer : Layer
    nonzero : Tensor of int32, shape (n,)
        Best non-zero cluster of each weight.
    R : Tensor of float64, shape (n,)
        Relevance in [0, 1].
    """
    w = weight.to(torch.float64)
    at_zero = w.square().add_(layer.cost[layer.zero]).mul_(2)
    elsewhere = w.sub_(layer.values.index_select(0, nonzero)).square_()
    elsewhere.add_(layer.cost.index_select(0, nonzero))
    log_R = R.add(RELEVANCE_EPSILON).log_().clamp_(max=-SMALLEST_FLOAT64)
    return elsewhere.div_(at_zero).log_().div_(log_R)


def zero_set(t: Tensor, beta: Tensor, fewest: Tensor, most: Tensor) -> Tensor:
    """Which weights go to zero: ``t < β`` for the β nearest to ``beta`` that meets the band.

    Parameters
    ----------
    t : Tensor of float64, shape (n,)
    beta : Tensor of float64
        Neutral β; kept, even above 1, if its number of zeros lies in the band.
    fewest, most : Tensor
        Band of the number of zeros. Where no β in [0, 1] meets it, because many weights share a t
        or ``fewest`` is out of reach, the largest number of zeros not above ``most`` is taken.

    Returns
    -------
    Tensor of bool, shape (n,)
    """
    neutral, least, reachable = (t < beta).sum(), (t < 0).sum(), (t < 1).sum()
    wanted = torch.where(neutral < fewest, fewest, most)
    rank = (wanted - 1).clamp(0, t.numel() - 1).long()
    cut = t.sort().values.gather(0, rank.reshape(1)).squeeze(0)
    # With all weights that share the t of this rank, if the band allows it, or with none of them.
    above = torch.nextafter(cut, torch.full_like(cut, math.inf))
    edge = torch.where((t <= cut).sum() <= most, above, cut)
    edge = torch.where(wanted >= reachable, 1.0, edge)
    edge = torch.where(wanted <= least, 0.0, edge)
    edge = torch.where((fewest <= neutral) & (neutral <= most), beta, edge)
    return t < edge


def published_zero_set(t: Tensor, beta: Tensor, fewest: Tensor, most: Tensor) -> Tensor:
    """Which weights go to zero: ``t < β`` for the β at which the published search ends.

    It moves β by tenths towards the band, from the 21st trial on by halves, from the 41st by three
    quarters, at most to 1, and ends with the first β in the band, or with the 51st. So it may end
    anywhere in the band, or beside a narrow one.

    Parameters and result are those of `zero_set`.
    """
    ends = torch.zeros((), dtype=torch.bool, device=t.device)
    for trial in range(PUBLISHED_TRIALS):
        zeros = (t < beta).sum()
        ends |= (fewest <= zeros) & (zeros <= most)
        if trial + 1 < PUBLISHED_TRIALS:
            factor = 0.1 if trial < 20 else 0.5 if trial < 40 else 0.75
            moved = torch.where(zeros < fewest, beta * (1 + factor), beta * (1 - factor))
            beta = torch.where(ends, beta, moved.clamp(max=1))
    return t < beta
