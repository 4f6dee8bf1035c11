"""The loops of ECQx over the weights of one layer, compiled for the CPU.

Which weights go to zero follows from their t, `ecqx.assignment.assign.zero_threshold`. Two loops
compute
it: one in float64, which decides, and one in float32, several times as fast, which says into which
of many small bins t falls, or into one beside it. So float64 is needed only near the edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.assignment import registers
from ecqx.assignment.kernels import BLOCK, COUNTERS, cells_of, place
from ecqx.loops import Doubles, Floats, Indices, compiled, reducing

# As in `ecqx.assignment.assign` and `ecqx.assignment.information`; the cache of what is compiled
# looks at this file alone.
RELEVANCE_EPSILON = 1e-12
SMALLEST_FLOAT64 = 5e-324

# Bits of an index that hold a cluster, of which there are 256 at most; a bin stands above them.
CLUSTER = 8
# Indices that are looked at together for a bin that few of them have.
FEW = 64
# Bins below that of t = 0, and above that of the largest β in question.
MARGIN = 4

LN_2 = 0.6931471805599453
BITS_OF_MANTISSA = np.uint64(52)
# Bits of √½, of 1, and of 2^52 as float64, whose mantissa then counts in units.
SQRT_HALF, ONE = np.uint64(0x3FE6A09E667F3BCD), np.uint64(0x3FF0000000000000)
TWO_TO_52 = np.uint64(0x4330000000000000)
EXPONENT_BIAS = 1023

LN_2_FLOAT32 = np.float32(LN_2)
SQRT_HALF_FLOAT32 = np.int32(0x3F3504F3)
# ln(1 + f) / f on [√½ - 1, √2 - 1], fitted at Chebyshev nodes; relative error in float32 2e-7.
SERIES = tuple(
    np.float32(a)
    for a in (
        *(0.999999974, -0.49999987, 0.333341833, -0.250021535, 0.199569775),
        *(-0.16560696, 0.149490955, -0.143773306, 0.0874394535),
    )
)
A0, A1, A2, A3, A4, A5, A6, A7, A8 = SERIES
# Where float32 is exact enough: a cost neither vanishes nor overflows, and ln R is not close to 0.
# The error of t is then below 1e-5 + 2e-6·t, a tenth of a bin.
LEAST_COST, MOST_COST = np.float32(1e-30), np.float32(1e30)
MOST_RELEVANCE = np.float32(0.9)
EPSILON_FLOAT32 = np.float32(RELEVANCE_EPSILON)


@reducing
def mean_relevance(relevance: Floats, scale: float) -> float:
    """Mean of R = |r| / scale, each rounded to float32."""
    total = 0.0
    for i in range(relevance.size):
        total += float(np.float32(abs(relevance[i]) / scale))
    return total / relevance.size


@compiled
def bin_thresholds(
    weight: Floats,
    relevance: Floats,
    scale: float,
    nonzero: Floats,
    zero_interval: Floats,
    values: Doubles,
    cost: Doubles,
    zero: int,
    unit: float,
    bins_per_unit: float,
    index: Indices,
    histogram: NDArray[np.int64],
) -> int:
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
    unit : float
        A power of two that makes the largest centroid about one; t does not depend on it.
    bins_per_unit : float
    index : int32, shape (n,)
        Where clusters and bins go. The bin is that of t, or one beside it.
    histogram : int64
        How many weights each bin holds. The last bin is the last one here.

    Returns
    -------
    int
        How many weights lie in the zero interval.
    """
    last_bin, zeros, cells = histogram.size - 1, 0, cells_of(nonzero)
    tables = _tables(values, cost, unit)
    at_zero, u = np.float32(cost[zero] * unit * unit), np.float32(unit)
    buffers, floats = np.ones((5, BLOCK)), np.ones((4, BLOCK), np.float32)
    counters = np.zeros((COUNTERS, histogram.size), np.int32)
    for start in range(0, weight.size, BLOCK):
        stop = min(start + BLOCK, weight.size)
        block, r, chosen = weight[start:stop], relevance[start:stop], index[start:stop]
        place(block, nonzero, cells, chosen)
        zeros += _count_at_most(block, zero_interval[1]) - _count_at_most(block, zero_interval[0])
        select(tables[0], chosen, floats[0])
        select(tables[1], chosen, floats[1])
        if _thresholds_in_float32(block, r, scale, at_zero, u, floats):
            zero_thresholds(block, r, scale, chosen, values, cost, zero, buffers)
            for i in range(block.size):
                chosen[i] |= _bin_of(buffers[4, i], bins_per_unit, last_bin) << CLUSTER
        else:
            _bins_of(floats[2, : block.size], bins_per_unit, last_bin, chosen)
        _count_bins(chosen, counters)
    for b in range(histogram.size):
        histogram[b] = 0
        for row in range(COUNTERS):
            histogram[b] += counters[row, b]
    return zeros


@compiled
def _count_bins(index: Indices, counters: NDArray[np.int32]) -> None:
    whole = index.size - index.size % COUNTERS
    for i in range(0, whole, COUNTERS):
        for row in range(COUNTERS):
            counters[row, np.uint32(index[i + row]) >> CLUSTER] += 1
    for i in range(whole, index.size):
        counters[0, np.uint32(index[i]) >> CLUSTER] += 1


@compiled
def _tables(values: Doubles, cost: Doubles, unit: float) -> Floats:
    """Centroids, and costs in units, in float32; as long as a table in registers at least."""
    tables = np.zeros((2, max(values.size, registers.ENTRIES)), np.float32)
    for k in range(values.size):
        tables[0, k] = values[k]
        tables[1, k] = cost[k] * unit * unit
    return tables


@compiled
def select_plainly(table: Floats, index: Indices, out: Floats) -> None:
    """Write ``table[index]``."""
    for i in range(index.size):
        out[i] = table[np.uint32(index[i])]


@compiled
def select_in_registers(table: Floats, index: Indices, out: Floats) -> None:
    """The same from vector registers, if the table fits into two."""
    whole = index.size - index.size % registers.LANES if table.size == registers.ENTRIES else 0
    for i in range(0, whole, registers.LANES):
        registers.select(table, index, i, out)
    select_plainly(table, index[whole:], out[whole:])


select = select_in_registers if registers.AVAILABLE else select_plainly


@compiled
def _thresholds_in_float32(
    weight: Floats, relevance: Floats, scale: Any, at_zero: Any, unit: Any, buffers: Floats
) -> bool:
    """Write t to the third buffer; returns whether float32 is not exact enough for one of them."""
    value, info, t, R = buffers[0], buffers[1], buffers[2], buffers[3]
    unsure = np.int32(0)
    for i in range(weight.size):
        w = weight[i]
        # Centroid and weight lie close together, so that their difference is exact.
        distance, far = (w - value[i]) * unit, w * unit
        elsewhere = distance * distance + info[i]
        here = np.float32(2) * (far * far + at_zero)
        rated = abs(relevance[i]) / scale
        sure = (elsewhere > LEAST_COST) & (elsewhere < MOST_COST) & (rated < MOST_RELEVANCE)
        sure = sure & (here > LEAST_COST) & (here < MOST_COST)
        unsure = np.int32(unsure + np.int32(not sure))
        t[i] = elsewhere / here
        R[i] = rated + EPSILON_FLOAT32
    if unsure > 0:
        return True
    _take_logarithm_in_float32(t[: weight.size])
    _take_logarithm_in_float32(R[: weight.size])
    for i in range(weight.size):
        t[i] /= R[i]
    return False


@compiled
def _take_logarithm_in_float32(x: Floats) -> None:
    """Natural logarithm of positive normal numbers, in place: x = 2^e·(1 + f)."""
    bits = x.view(np.int32)
    for i in range(x.size):
        e = np.int32(np.int32(bits[i] - SQRT_HALF_FLOAT32) >> 23)
        f = np.int32(bits[i] - np.int32(e << 23)).view(np.float32) - np.float32(1)
        high = A5 + f * (A6 + f * (A7 + f * A8))
        series = A0 + f * (A1 + f * (A2 + f * (A3 + f * (A4 + f * high))))
        x[i] = np.float32(e) * LN_2_FLOAT32 + f * series


@compiled
def _bins_of(t: Floats, bins_per_unit: float, last_bin: int, index: Indices) -> None:
    scale, margin, last = np.float32(bins_per_unit), np.float32(MARGIN), np.float32(last_bin)
    for i in range(t.size):
        at = t[i] * scale + margin
        at = at if at > 0 else np.float32(0)
        at = at if at < last else last
        index[i] |= np.int32(np.int32(at) << CLUSTER)


@compiled
def _count_at_most(values: Floats, bound: float) -> int:
    count = np.int32(0)
    for i in range(values.size):
        count = np.int32(count + np.int32(values[i] <= bound))
    return int(count)


@compiled
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
    """t = ln(c₊ / 2c₀) / ln(R + 1e-12) of up to a block of weights, as in `ecqx.assignment.assign`.

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


@compiled
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


@compiled
def _bin_of(t: float, bins_per_unit: float, last_bin: int) -> Any:
    """Bin of a t, never falling as t grows; NaN, which belongs to no zero set, comes last."""
    at = t * bins_per_unit + MARGIN
    at = at if at < last_bin else float(last_bin)
    return np.int32(max(at, 0.0))


@compiled
def bin_of(t: float, bins_per_unit: float, last_bin: int) -> int:
    """Bin of one t."""
    return int(_bin_of(t, bins_per_unit, last_bin))


@compiled
def places_between(index: Indices, lowest: int, highest: int, places: NDArray[np.int64]) -> None:
    """Write where bins from ``lowest`` to ``highest`` stand; there are as many as places."""
    # One comparison for both sides: what is below the first bin becomes a large number.
    found, first, span = (
        0,
        np.uint32(lowest << CLUSTER),
        np.uint32((highest - lowest + 1) << CLUSTER),
    )
    for start in range(0, index.size, FEW):
        block = index[start : start + FEW]
        here = np.int32(0)
        for i in range(block.size):
            here = np.int32(here + np.int32(np.uint32(np.uint32(block[i]) - first) < span))
        if here == 0:
            continue
        for i in range(block.size):
            if np.uint32(np.uint32(block[i]) - first) < span:
                places[found] = start + i
                found += 1


@compiled
def settle(index: Indices, edge_bin: int, zero: int) -> None:
    """Leave the zero cluster where the bin lies below ``edge_bin``, the cluster alone elsewhere."""
    value, edge, mask = np.int32(zero), np.int32(edge_bin), np.int32((1 << CLUSTER) - 1)
    for i in range(index.size):
        index[i] = value if (index[i] >> CLUSTER) < edge else index[i] & mask
