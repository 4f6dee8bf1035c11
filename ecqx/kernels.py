"""The loops over the weights of one layer, compiled for the CPU.

Each reads a layer in blocks that stay in the first-level cache, with simple loops over a block that
the compiler turns into vector instructions. The same on tensors of any device, step by step, is in
`ecqx.assignment`; there stands the mathematics, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int32]

# As in `ecqx.assignment`, `ecqx.information` and `ecqx.relevance.rules`; the cache of what is
# compiled looks at this file alone.
RELEVANCE_EPSILON = 1e-12
SMALLEST_FLOAT64 = 5e-324
EPSILON = np.float32(1e-6)

BLOCK = 512
# Bits of an index that hold a cluster, of which there are 256 at most; a bin stands above them.
CLUSTER = 8
# A search in a sorted table is faster than comparing with more bounds than this.
FEW_BOUNDS = 40
LN_2 = 0.6931471805599453
BITS_OF_MANTISSA = np.uint64(52)
# Bits of √½, of 1, and of 2^52 as float64, whose mantissa then counts in units.
SQRT_HALF, ONE = np.uint64(0x3FE6A09E667F3BCD), np.uint64(0x3FF0000000000000)
TWO_TO_52 = np.uint64(0x4330000000000000)
EXPONENT_BIAS = 1023

Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(function: Loop, *freedom: str) -> Loop:
    """Compile, and keep the result beside this file or in the user's cache.

    Division by zero gives an infinity, as in numpy; a product and a sum may be rounded once.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", *freedom},
    }
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        compiled = numba.njit(**options)(function)
    return cast(Loop, compiled)


def _reducing(function: Loop) -> Loop:
    """Compile; sums may be taken in any order."""
    return _compiled(function, "reassoc", "nsz")


@_compiled
def occupancy(weight: Floats, middles: Floats, counts: Doubles) -> None:
    """Write how many weights lie between neighbouring ``middles``, which belong to the lower side.

    ``middles`` ascend, shape (K - 1,); ``counts`` has shape (K,).
    """
    for j in range(counts.size):
        counts[j] = 0
    if middles.size > FEW_BOUNDS:
        index = np.empty(BLOCK, np.int32)
        for start in range(0, weight.size, BLOCK):
            block = weight[start : start + BLOCK]
            _search_block(block, middles, index)
            for i in range(block.size):
                counts[np.uint32(index[i])] += 1
        return
    for start in range(0, weight.size, BLOCK):
        block = weight[start : start + BLOCK]
        j = 0
        while j + 5 <= middles.size:
            _count_at_most_five(block, middles[j : j + 5], counts[j : j + 5])
            j += 5
        while j < middles.size:
            counts[j] += _count_at_most(block, middles[j])
            j += 1
    counts[-1] = weight.size
    for j in range(counts.size - 1, 0, -1):
        counts[j] -= counts[j - 1]


@_compiled
def _count_at_most(values: Floats, bound: float) -> int:
    count = np.int32(0)
    for i in range(values.size):
        count = np.int32(count + np.int32(values[i] <= bound))
    return int(count)


@_compiled
def _count_at_most_five(values: Floats, bounds: Floats, counts: Doubles) -> None:
    """Five bounds for one read of the values."""
    a, b, c, d, e = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    at_a, at_b, at_c, at_d, at_e = np.int32(0), np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    for i in range(values.size):
        value = values[i]
        at_a = np.int32(at_a + np.int32(value <= a))
        at_b = np.int32(at_b + np.int32(value <= b))
        at_c = np.int32(at_c + np.int32(value <= c))
        at_d = np.int32(at_d + np.int32(value <= d))
        at_e = np.int32(at_e + np.int32(value <= e))
    counts[0] += at_a
    counts[1] += at_b
    counts[2] += at_c
    counts[3] += at_d
    counts[4] += at_e


@_compiled
def lookup(weight: Floats, bounds: Floats, index: Indices) -> None:
    """Write how many of the ascending ``bounds``, at least one, lie below each weight."""
    for start in range(0, weight.size, BLOCK):
        _lookup_block(weight[start : start + BLOCK], bounds, index[start : start + BLOCK])


@_compiled
def _search_block(weight: Floats, bounds: Floats, index: Indices) -> None:
    """Search by halves without a branch, so that all lanes of a vector take the same steps."""
    last = np.int32(bounds.size - 1)
    half = np.int32(1)
    while 2 * half <= bounds.size:
        half = np.int32(2 * half)
    for i in range(weight.size):
        index[i] = 0
    while half > 0:
        for i in range(weight.size):
            place = np.int32(index[i] + half - 1)
            below = place <= last and bounds[np.uint32(min(place, last))] < weight[i]
            index[i] = np.int32(place + 1) if below else index[i]
        half = np.int32(half // 2)


@_compiled
def _lookup_block(weight: Floats, bounds: Floats, index: Indices) -> None:
    """Compare with five bounds for one read of the weights; the first ones write, others add."""
    if bounds.size > FEW_BOUNDS:
        _search_block(weight, bounds, index)
        return
    if bounds.size < 5:
        _write_one(weight, bounds[0], index)
        j = 1
    else:
        _write_five(weight, bounds, index)
        j = 5
    while j + 5 <= bounds.size:
        _add_five(weight, bounds[j : j + 5], index)
        j += 5
    while j < bounds.size:
        bound = bounds[j]
        for i in range(weight.size):
            index[i] += np.int32(weight[i] > bound)
        j += 1


@_compiled
def _write_one(weight: Floats, bound: float, index: Indices) -> None:
    for i in range(weight.size):
        index[i] = np.int32(weight[i] > bound)


@_compiled
def _write_five(weight: Floats, bounds: Floats, index: Indices) -> None:
    a, b, c, d, e = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    for i in range(weight.size):
        w = weight[i]
        two, more = np.int32(w > a) + np.int32(w > b), np.int32(w > c) + np.int32(w > d)
        index[i] = two + more + np.int32(w > e)


@_compiled
def _add_five(weight: Floats, bounds: Floats, index: Indices) -> None:
    a, b, c, d, e = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    for i in range(weight.size):
        w = weight[i]
        two, more = np.int32(w > a) + np.int32(w > b), np.int32(w > c) + np.int32(w > d)
        index[i] += two + more + np.int32(w > e)


@_compiled
def envelope_ends(centers: Doubles, offsets: Doubles, ends: Doubles) -> None:
    """Write where each parabola ends to be the lowest, as `ecqx.envelope.envelope_bounds` says.

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


@_compiled
def quotient(relevance: Floats, z: Floats, result: Floats) -> None:
    """Write R / (z + ε·sign z), where sign 0 = 1; ε as in `ecqx.relevance.rules`."""
    for i in range(z.size):
        sign = EPSILON if z[i] >= np.float32(0) else -EPSILON
        result[i] = relevance[i] / (z[i] + sign)


# -- ECQx ------------------------------------------------------------------------------------------


@_reducing
def mean_relevance(relevance: Floats, scale: float) -> float:
    """Mean of R = |r| / scale, each rounded to float32."""
    total = 0.0
    for i in range(relevance.size):
        total += float(np.float32(abs(relevance[i]) / scale))
    return total / relevance.size


@_compiled
def bin_thresholds(
    weight: Floats,
    relevance: Floats,
    scale: float,
    nonzero: Floats,
    zero_interval: Floats,
    values: Doubles,
    cost: Doubles,
    zero: int,
    beta: float,
    bins_per_unit: float,
    index: Indices,
    histogram: NDArray[np.int64],
    counts: NDArray[np.int64],
    buffers: Doubles,
) -> None:
    """Write the best non-zero cluster of each weight and, above its bits, the bin of its t.

    Parameters
    ----------
    weight, relevance : float32, shape (n,)
    scale : float32
        R = |r| / scale.
    nonzero : float32, shape (K - 1,)
        Bounds of the envelope without the zero cluster.
    zero_interval : float32, shape (2,)
        Between which bounds ECQ puts a weight into the zero cluster.
    values, cost : float64, shape (K,)
        Centroids and λ·I.
    zero : int
        Index of the centroid 0.
    beta : float
        Neutral β, above 0.
    bins_per_unit : float
    index : int32, shape (n,)
        Where clusters and bins go.
    histogram : int64
        Zeros; how many t each bin holds. The last bin is the last one here.
    counts : int64, shape (4,)
        Zeros; how many t lie below ``beta``, 0 and 1, and how many weights in the zero interval.
    buffers : float64, shape (5, BLOCK)
    """
    n, last_bin = weight.size, histogram.size - 1
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block, chosen = weight[start:stop], index[start:stop]
        _lookup_block(block, nonzero, chosen)
        zero_thresholds(block, relevance[start:stop], scale, chosen, values, cost, zero, buffers)
        t = buffers[4, : stop - start]
        counts[0] += _count_below(t, beta)
        counts[1] += _count_below(t, 0.0)
        counts[2] += _count_below(t, 1.0)
        counts[3] += _count_at_most(block, zero_interval[1])
        counts[3] -= _count_at_most(block, zero_interval[0])
        for i in range(t.size):
            chosen[i] |= _bin_of(t[i], bins_per_unit, last_bin) << CLUSTER
        for i in range(t.size):
            histogram[np.uint32(chosen[i]) >> CLUSTER] += 1


@_compiled
def zero_thresholds(
    weight: Floats,
    relevance: Floats,
    scale: float,
    chosen: Indices,
    values: Doubles,
    cost: Doubles,
    zero: int,
    buffers: Doubles,
) -> None:
    """t = ln(c₊ / 2c₀) / ln(R + 1e-12) of up to a block of weights, as in `ecqx.assignment`.

    It goes to the last of the buffers.

    All loops of arithmetic run over whole buffers, so that a weight's t does not depend on its
    place: the last lanes of a loop may be rounded in another way than the rest.
    """
    value, info, ratio, R, t = buffers[0], buffers[1], buffers[2], buffers[3], buffers[4]
    for i in range(weight.size):
        value[i] = values[np.uint32(chosen[i])]
    for i in range(weight.size):
        info[i] = cost[np.uint32(chosen[i])]
    for i in range(weight.size):
        ratio[i] = weight[i]
    for i in range(weight.size):
        R[i] = np.float32(abs(relevance[i]) / scale)
    at_zero = cost[zero]
    for i in range(BLOCK):
        w = ratio[i]
        distance = w - value[i]
        ratio[i] = (distance * distance + info[i]) / (2.0 * (w * w + at_zero))
        R[i] += RELEVANCE_EPSILON
    _take_logarithm(ratio, t)
    _take_logarithm(R, t)
    for i in range(BLOCK):
        t[i] = ratio[i] / min(R[i], -SMALLEST_FLOAT64)


@_compiled
def _take_logarithm(x: Doubles, exponents: Doubles) -> None:
    """Natural logarithm of positive normal numbers, in place; ``exponents`` is overwritten.

    x = 2^e·m with m in [√½, √2), and ln m = 2·artanh((m - 1)/(m + 1)) by its series, whose
    next term is below 2e-12 of the whole.
    """
    bits, exponent_bits = x.view(np.uint64), exponents.view(np.uint64)
    for i in range(BLOCK):
        # AVX2 neither shifts signed integers nor turns them into float64: the exponent stays biased
        # and above zero, and is added to the mantissa of 2^52.
        e = (bits[i] + (ONE - SQRT_HALF)) >> BITS_OF_MANTISSA
        bits[i] = bits[i] + ONE - (e << BITS_OF_MANTISSA)
        exponent_bits[i] = e | TWO_TO_52
    for i in range(BLOCK):
        m = x[i]
        e = exponents[i] - (2.0**52 + EXPONENT_BIAS)
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        series = 1 / 9 + z * (1 / 11 + z * (1 / 13))
        series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * series)))
        x[i] = e * LN_2 + 2.0 * s * series


@_compiled
def _count_below(t: Doubles, edge: float) -> int:
    count = 0
    for i in range(t.size):
        count += t[i] < edge
    return count


@_compiled
def _bin_of(t: float, bins_per_unit: float, last_bin: int) -> Any:
    """Bin of a t, never falling as t grows; NaN, which belongs to no zero set, comes last."""
    place = t * bins_per_unit + 1.0
    place = place if place < last_bin else float(last_bin)
    return np.int32(max(place, 0.0))


@_compiled
def bin_of(t: float, bins_per_unit: float, last_bin: int) -> int:
    """Bin of one t."""
    return int(_bin_of(t, bins_per_unit, last_bin))


@_compiled
def places_of(index: Indices, wanted: int, places: NDArray[np.int64]) -> None:
    """Write where ``wanted`` stands among the bins; there are as many as places."""
    found, first = 0, np.int32(wanted)
    for start in range(0, index.size, BLOCK):
        block = index[start : start + BLOCK]
        here = np.int32(0)
        for i in range(block.size):
            here = np.int32(here + np.int32((block[i] >> CLUSTER) == first))
        if here == 0:
            continue
        for i in range(block.size):
            if (block[i] >> CLUSTER) == first:
                places[found] = start + i
                found += 1


@_compiled
def settle(index: Indices, edge_bin: int, zero: int) -> None:
    """Leave the zero cluster where the bin lies below ``edge_bin``, the cluster alone elsewhere."""
    value, edge, mask = np.int32(zero), np.int32(edge_bin), np.int32((1 << CLUSTER) - 1)
    for i in range(index.size):
        index[i] = value if (index[i] >> CLUSTER) < edge else index[i] & mask
