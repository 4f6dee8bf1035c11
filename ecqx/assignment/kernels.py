"""The loops over the weights of one layer, compiled for the CPU.

Each reads a layer in blocks that stay in the first-level cache, with simple loops over a block that
the compiler turns into vector instructions. The same on tensors of any device, step by step, is in
`ecqx.assignment.assign`; there stands the mathematics, too. Those of ECQx alone are in
`ecqx.assignment.thresholds`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecqx.assignment import registers
from ecqx.loops import Doubles, Floats, Indices, compiled

BLOCK = 512
# With so many bounds each is compared with where there is no look-up in registers: a search in a
# table in memory is slower.
FEW_BOUNDS = 40
# Cells that a table in memory has for each bound.
CELLS_PER_BOUND = 8
# Of a cell; with more of them a search by halves is taken instead.
MOST_STEPS = 8
# Counters that take turns: one that was just written cannot be read at once.
COUNTERS = 4

# -- which interval a weight lies in ---------------------------------------------------------------


class Cells(NamedTuple):
    """Where to begin the search for a weight among ascending bounds.

    The range of the bounds is cut into equal cells. Cells never fall as weights grow, so that all
    bounds of lower cells lie below a weight, none of higher cells does, and it has to be compared
    with those of its own cell alone.

    Attributes
    ----------
    first : int32, shape (cells,)
        How many different bounds lie in lower cells.
    bounds : float32
        The different bounds, and infinities behind them.
    below : int32
        How many of all bounds are among the first so many different ones.
    frame : float32, shape (2,)
        The cell of w is the whole part of ``(w - frame[0]) * frame[1]``, within those there are.
    steps : int
        How many different bounds a cell holds at most.
    repeated : bool
        Whether some bounds are equal.
    """

    first: Indices
    bounds: Floats
    below: Indices
    frame: Floats
    steps: int
    repeated: bool


@compiled
def cells_of(bounds: Floats) -> Cells:
    """Cut the range of ascending bounds, at least one, into cells."""
    few = bounds.size < registers.ENTRIES
    cells = registers.ENTRIES if few else CELLS_PER_BOUND * bounds.size
    first = np.zeros(cells, np.int32)
    size = max(registers.ENTRIES, bounds.size + 1)
    different, below = np.empty(size, np.float32), np.zeros(size, np.int32)
    for j in range(size):
        different[j] = np.inf
    low, high, found = np.float32(np.inf), np.float32(-np.inf), 0
    for j in range(bounds.size):
        bound = bounds[j]
        if np.isfinite(bound):
            low, high = min(low, bound), max(high, bound)
        if found == 0 or bound > different[found - 1]:
            different[found] = bound
            found += 1
        below[found] = j + 1
    # The outermost cells belong to what lies beyond the bounds.
    scale = np.float32(np.float32(cells - 2) / np.float32(high - low))
    if not (high > low and np.isfinite(scale)):
        low, scale = np.float32(0), np.float32(0)
    elif np.isfinite(low - np.float32(1) / scale):
        low = np.float32(low - np.float32(1) / scale)
    frame, steps = np.empty(2, np.float32), 0
    frame[0], frame[1] = low, scale
    for j in range(found):
        first[_cell(different[j], frame, cells)] += 1
    total = 0
    for cell in range(cells):
        here = first[cell]
        first[cell] = total
        total += here
        steps = max(steps, here)
    return Cells(first, different, below, frame, steps, found < bounds.size)


@compiled
def _cell(w: Any, frame: Floats, count: int) -> Any:
    at, last = (w - frame[0]) * frame[1], np.float32(count - 1)
    at = at if at > 0 else np.float32(0)
    return np.int32(at if at < last else last)


@compiled
def lookup(weight: Floats, bounds: Floats, index: Indices) -> None:
    """Write how many of the ascending ``bounds``, at least one, lie below each weight."""
    cells = cells_of(bounds)
    for start in range(0, weight.size, BLOCK):
        place(weight[start : start + BLOCK], bounds, cells, index[start : start + BLOCK])


@compiled
def place_by_comparing(weight: Floats, bounds: Floats, cells: Cells, index: Indices) -> None:
    """Compare with five bounds for one read of the weights; the first ones write, others add."""
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
            index[i] += weight[i] > bound
        j += 1


@compiled
def _write_one(weight: Floats, bound: float, index: Indices) -> None:
    for i in range(weight.size):
        index[i] = weight[i] > bound


@compiled
def _write_five(weight: Floats, bounds: Floats, index: Indices) -> None:
    a, b, c, d, e = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    for i in range(weight.size):
        w = weight[i]
        two, more = np.int32(w > a) + np.int32(w > b), np.int32(w > c) + np.int32(w > d)
        index[i] = two + more + np.int32(w > e)


@compiled
def _add_five(weight: Floats, bounds: Floats, index: Indices) -> None:
    a, b, c, d, e = bounds[0], bounds[1], bounds[2], bounds[3], bounds[4]
    for i in range(weight.size):
        w = weight[i]
        two, more = np.int32(w > a) + np.int32(w > b), np.int32(w > c) + np.int32(w > d)
        index[i] += two + more + np.int32(w > e)


@compiled
def place_in_registers(weight: Floats, bounds: Floats, cells: Cells, index: Indices) -> None:
    """Look cells and bounds up in vector registers, sixteen weights at a time."""
    first, different, below, frame, steps, repeated = cells
    if bounds.size >= registers.ENTRIES or steps > MOST_STEPS:
        place_by_search(weight, bounds, cells, index)
        return
    whole, low, scale = weight.size - weight.size % registers.LANES, frame[0], frame[1]
    if steps <= 1 and not repeated:
        for i in range(0, whole, registers.LANES):
            registers.place_1(weight, i, first, different, below, low, scale, index)
    elif steps <= 2 and not repeated:
        for i in range(0, whole, registers.LANES):
            registers.place_2(weight, i, first, different, below, low, scale, index)
    elif steps <= 2:
        for i in range(0, whole, registers.LANES):
            registers.place_repeated_2(weight, i, first, different, below, low, scale, index)
    else:
        for i in range(0, whole, registers.LANES):
            registers.place_repeated_8(weight, i, first, different, below, low, scale, index)
    if whole < weight.size:
        place_by_comparing(weight[whole:], bounds, cells, index[whole:])


@compiled
def place_by_search(weight: Floats, bounds: Floats, cells: Cells, index: Indices) -> None:
    """Look cells and bounds up in memory; by halves where a cell holds many bounds."""
    first, different, below, frame, steps, repeated = cells
    if steps > MOST_STEPS:
        for i in range(weight.size):
            index[i] = _bisected(bounds, weight[i])
        return
    for i in range(weight.size):
        index[i] = first[np.uint32(_cell(weight[i], frame, first.size))]
    for _ in range(steps):
        for i in range(weight.size):
            index[i] += weight[i] > different[np.uint32(index[i])]
    if repeated:
        for i in range(weight.size):
            index[i] = below[np.uint32(index[i])]


@compiled
def _bisected(bounds: Floats, w: Any) -> int:
    begin, end = 0, bounds.size
    while begin < end:
        middle = (begin + end) // 2
        if bounds[middle] < w:
            begin = middle + 1
        else:
            end = middle
    return begin


@compiled
def place_plainly(weight: Floats, bounds: Floats, cells: Cells, index: Indices) -> None:
    """For processors without look-ups in registers."""
    if bounds.size > FEW_BOUNDS:
        place_by_search(weight, bounds, cells, index)
    else:
        place_by_comparing(weight, bounds, cells, index)


# How many of the bounds lie below each weight of a block; int32 or uint8.
place = place_in_registers if registers.AVAILABLE else place_plainly


# -- what a first look finds -----------------------------------------------------------------------


@compiled
def occupancy(weight: Floats, middles: Floats, counts: Doubles, extremes: Floats) -> None:
    """Write how many weights lie between neighbouring middles, and the extreme weights.

    Parameters
    ----------
    weight : float32, shape (n,)
    middles : float32, shape (K - 1,)
        Ascending; each belongs to the lower side.
    counts : float64, shape (K,)
    extremes : float32, shape (2,)
        The lowest and the highest; where there is a NaN one of them is NaN.
    """
    cells, nearest = cells_of(middles), np.empty(BLOCK, np.uint8)
    found = np.zeros((COUNTERS, 256), np.int64)
    ends = extremes.view(np.int32)
    ends[0], ends[1] = 2**31 - 1, -(2**31)
    for start in range(0, weight.size, BLOCK):
        block = weight[start : start + BLOCK]
        place(block, middles, cells, nearest)
        count(nearest[: block.size], counts.size, found)
        _widen(ends, block.view(np.int32))
    for j in range(counts.size):
        counts[j] = 0
        for row in range(COUNTERS):
            counts[j] += found[row, j]
    ends[0], ends[1] = _ordered(ends[0]), _ordered(ends[1])


@compiled
def _widen(ends: Indices, bits: Indices) -> None:
    """Lowest and highest of float32 numbers, given as bits, in the order of `_ordered`."""
    low, high = ends[0], ends[1]
    for i in range(bits.size):
        key = _ordered(bits[i])
        low = np.int32(min(low, key))
        high = np.int32(max(high, key))
    ends[0], ends[1] = low, high


@compiled
def _ordered(bits: int) -> Any:
    """Bits of a float32 as whole numbers in the same order, NaN beyond all; and back."""
    return np.int32(bits ^ np.int32(np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))


@compiled
def count_plainly(values: NDArray[np.uint8], clusters: int, found: NDArray[np.int64]) -> None:
    """Add to ``found``, row by row in turn, how often each cluster stands in a block."""
    whole = values.size - values.size % COUNTERS
    for i in range(0, whole, COUNTERS):
        for row in range(COUNTERS):
            found[row, values[i + row]] += 1
    for i in range(whole, values.size):
        found[0, values[i]] += 1


@compiled
def count_in_registers(values: NDArray[np.uint8], clusters: int, found: NDArray[np.int64]) -> None:
    """The same, comparing 64 values at a time with each cluster, if there are few."""
    if clusters > registers.ENTRIES or values.size % registers.BYTES > 0:
        count_plainly(values, clusters, found)
        return
    rest = values.size
    for cluster in range(clusters - 1):
        total = 0
        for i in range(0, values.size, registers.BYTES):
            total += registers.count_bytes(values, i, cluster)
        found[0, cluster] += total
        rest -= total
    found[0, clusters - 1] += rest


count = count_in_registers if registers.AVAILABLE else count_plainly
