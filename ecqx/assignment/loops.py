"""The loops over the weights of a layer, compiled for the CPU.

Each works through blocks that stay in the first-level cache, by simple loops that the compiler
turns into vector instructions. ``np.int32`` keeps a sum at 32 bits, where numba would widen it to
64; ``np.uint32`` saves numba's test for a negative index.

`ecqx.assignment.assign` and `ecqx.assignment.zero_set` say what is computed, and do the same with
tensor operations on other devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.loops import Doubles, Floats, Indices, compiled

# Weights in a block.
BLOCK = 512
# Bins in [0, 1) of the histogram that a t of a given rank is looked up in (`zero_thresholds`).
BINS = 4096

MANTISSA_BITS = np.uint64(52)
# Bit patterns of √½, 1 and 2^52 as float64.
SQRT_HALF, ONE = np.uint64(0x3FE6A09E667F3BCD), np.uint64(0x3FF0000000000000)
TWO_TO_52 = np.uint64(0x4330000000000000)
EXPONENT_BIAS = 1023
LN_2 = 0.6931471805599453
SMALLEST, LARGEST = 2.3e-308, 1.7e308  # about the normal float64 numbers, as the logarithm needs
NEARLY_ZERO = 1e-300


@compiled
def count_above(weight: Floats, bounds: Floats, counts: NDArray[np.int64]) -> None:
    """Write how many weights lie above each bound."""
    for b in range(bounds.size):
        counts[b] = 0
    for start in range(0, weight.size, BLOCK):
        block = weight[start : start + BLOCK]
        for b in range(bounds.size):
            bound, above = bounds[b], np.int32(0)
            for i in range(block.size):
                above = np.int32(above + np.int32(block[i] > bound))
            counts[b] += above


@compiled
def are_selected(bits: Indices, values: Indices, index: Indices) -> bool:
    """Whether ``bits`` are ``values[index]``, without a stop at the first that is not."""
    different = np.int32(0)
    for i in range(bits.size):
        different |= bits[i] ^ values[np.uint32(index[i])]
    return bool(different == 0)


@compiled
def lookup(weight: Floats, bounds: Floats, index: Indices) -> None:
    """Write the number of bounds below each weight; four bounds at a time."""
    padded = np.full((bounds.size + 3) // 4 * 4, np.float32(np.inf))
    padded[: bounds.size] = bounds
    for start in range(0, weight.size, BLOCK):
        block, below = weight[start : start + BLOCK], index[start : start + BLOCK]
        for i in range(block.size):
            below[i] = 0
        for b in range(0, padded.size, 4):
            b0, b1, b2, b3 = padded[b], padded[b + 1], padded[b + 2], padded[b + 3]
            for i in range(block.size):
                w = block[i]
                below[i] += (
                    np.int32(w > b0) + np.int32(w > b1) + np.int32(w > b2) + np.int32(w > b3)
                )


@compiled
def sum_of_relevance(relevance: Floats, scale: Any, unit: float) -> int:
    """Sum of R = |r| / scale in units of 1/unit: of integers, whose order does not matter.

    `ecqx.assignment.zero_set.relevance_unit` gives the unit.
    """
    total = np.int64(0)
    for i in range(relevance.size):
        total += np.int64(np.float64(np.float32(abs(relevance[i]) / scale)) * unit)
    return int(total)


@compiled
def take_logarithm(x: Doubles) -> None:
    """Natural logarithm of positive normal numbers, in place; relative error below 1e-10.

    x = 2^e·m with m in [√½, √2), and ln m = 2·artanh((m - 1) / (m + 1)) by its series.
    """
    bits = x.view(np.uint64)
    for i in range(x.size):
        # The shift lets the exponent step at √½·2^e, not at 2^e.
        biased = (bits[i] + (ONE - SQRT_HALF)) >> MANTISSA_BITS
        m = np.uint64(bits[i] + ONE - (biased << MANTISSA_BITS)).view(np.float64)
        # As the mantissa of 2^52, because AVX2 cannot convert 64-bit integers to float64.
        e = np.uint64(biased | TWO_TO_52).view(np.float64) - (2.0**52 + EXPONENT_BIAS)
        s = (m - 1.0) / (m + 1.0)
        z = s * s
        series = 1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11)))))
        x[i] = e * LN_2 + 2.0 * s * series


@compiled
def zero_thresholds(
    weight: Floats,
    relevance: Floats,
    scale: Any,
    epsilon: float,
    nonzero: Indices,
    values: Doubles,
    cost: Doubles,
    zero: int,
    t: Doubles,
    histogram: NDArray[np.int64],
) -> None:
    """Write t = ln(c₊ / 2c₀) / ln(R + ε) of each weight, and their histogram.

    c₀ and c₊ are the costs of the zero cluster and of the best other one; with an exponent β > t
    of its relevance the weight goes to zero (`ecqx.assignment.zero_set`).

    Parameters
    ----------
    weight, relevance : float32, shape (n,)
    scale : float32
        R = |r| / scale.
    epsilon : float
    nonzero : int32, shape (n,)
        Best non-zero cluster of each weight.
    values, cost : float64, shape (K,)
        Centroids and λ·I.
    zero : int
        Index of the zero cluster.
    t : float64, shape (n,)
    histogram : int64, shape (BINS + 2,)
        Of t: one bin below 0, BINS equal ones from 0 to 1, and one above.
    """
    value, info, at_zero = np.ones(BLOCK), np.ones(BLOCK), cost[zero]
    ratio, R, bins = np.ones(BLOCK), np.ones(BLOCK), np.empty(BLOCK, np.int32)
    histogram[:] = 0
    for start in range(0, weight.size, BLOCK):
        stop = min(start + BLOCK, weight.size)
        w, r, chosen = weight[start:stop], relevance[start:stop], nonzero[start:stop]
        out = t[start:stop]
        for i in range(w.size):
            value[i] = values[np.uint32(chosen[i])]
            info[i] = cost[np.uint32(chosen[i])]
        for i in range(w.size):
            x = np.float64(w[i])
            distance = x - value[i]
            quotient = (distance * distance + info[i]) / (2.0 * (x * x + at_zero))
            ratio[i] = min(max(quotient, SMALLEST), LARGEST)
            R[i] = np.float64(np.float32(abs(r[i]) / scale)) + epsilon
        take_logarithm(ratio)
        take_logarithm(R)
        # Both hold logarithms now; ln(R + ε) is kept below zero, also for R = 1.
        for i in range(w.size):
            out[i] = ratio[i] / min(R[i], -NEARLY_ZERO)
            inner = min(max(out[i] * BINS, 0.0), float(BINS))
            bins[i] = np.int32(inner) + np.int32(out[i] >= 0)
        for i in range(w.size):
            histogram[np.uint32(bins[i])] += 1


@compiled
def count_below(t: Doubles, edge: float) -> int:
    """Number of t below an edge."""
    count = np.int64(0)
    for i in range(t.size):
        count += np.int64(t[i] < edge)
    return int(count)


@compiled
def collect(t: Doubles, low: float, high: float, found: Doubles) -> None:
    """Write the t in [low, high) to ``found``, which has room for all; most blocks hold none."""
    count = 0
    for start in range(0, t.size, 32):
        block, here = t[start : start + 32], np.int64(0)
        for i in range(block.size):
            here += np.int64((block[i] >= low) & (block[i] < high))
        if here:
            for i in range(block.size):
                if low <= block[i] < high:
                    found[count] = block[i]
                    count += 1


@compiled
def move_to_zero(t: Doubles, edge: float, zero: int, index: Indices) -> None:
    """Put the weights with t below the edge into the zero cluster."""
    cluster = np.int32(zero)
    for i in range(t.size):
        index[i] = cluster if t[i] < edge else index[i]
