"""The compiled loops, each way a processor may take, against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecqx.assignment import kernels, registers, thresholds

Floats = NDArray[np.float32]

needs_registers = pytest.mark.skipif(not registers.AVAILABLE, reason="needs AVX-512")
PLACES = [
    kernels.place_by_comparing,
    kernels.place_by_search,
    kernels.place_plainly,
    pytest.param(kernels.place_in_registers, marks=needs_registers),
]
FLOATS = st.floats(width=32, allow_nan=False)


def interval(weight: Floats, bounds: Floats) -> NDArray[np.int64]:
    return np.searchsorted(bounds, weight, side="left")


def beside(values: Floats) -> Floats:
    """Each number with its neighbours among the float32 numbers."""
    with np.errstate(over="ignore"):
        around = [np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([values, *around])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [np.int32, np.uint8])
@settings(max_examples=60)
@given(bounds=st.lists(FLOATS, min_size=1, max_size=255), others=st.lists(FLOATS, max_size=40))
def test_interval(
    place: Callable[..., None], kind: type, bounds: list[float], others: list[float]
) -> None:
    ends = np.sort(np.array(bounds, np.float32))
    weight = np.concatenate([beside(ends), np.array(others, np.float32)])
    weight = weight[np.isfinite(weight)]
    index = np.zeros(weight.size, kind)
    place(weight, ends, kernels.cells_of(ends), index)
    assert np.array_equal(index, interval(weight, ends))


@pytest.mark.parametrize("clusters", [3, 4, 16, 31, 32, 33, 64, 256])
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_interval_of_many_weights(clusters: int, spread: float) -> None:
    """Bounds that lie close together, far apart, twice, or infinitely far."""
    rng = np.random.default_rng(clusters)
    ends = np.sort(rng.normal(0, spread, clusters - 1).astype(np.float32))
    ends[:2], ends[-1] = -np.inf if clusters > 4 else ends[0], np.float32(3)
    weight = rng.normal(0, 1, 5000).astype(np.float32)
    index = np.zeros(weight.size, np.int32)
    kernels.lookup(weight, ends, index)
    assert np.array_equal(index, interval(weight, ends))


@pytest.mark.parametrize("n", [1, 63, 64, 512, 513, 3000])
@pytest.mark.parametrize("clusters", [4, 16, 32, 128])
def test_occupancy(n: int, clusters: int) -> None:
    rng = np.random.default_rng(n)
    weight = rng.normal(0, 1, n).astype(np.float32)
    middles = np.linspace(-2, 2, clusters - 1, dtype=np.float32)
    counts, extremes = np.zeros(clusters), np.zeros(2, np.float32)
    kernels.occupancy(weight, middles, counts, extremes)
    assert np.array_equal(counts, np.bincount(interval(weight, middles), minlength=clusters))
    assert extremes.tolist() == [weight.min(), weight.max()]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_extremes_show_what_is_not_finite(bad: float) -> None:
    weight, extremes = np.ones(700, np.float32), np.zeros(2, np.float32)
    weight[600] = bad
    kernels.occupancy(weight, np.zeros(1, np.float32), np.zeros(2), extremes)
    assert not np.isfinite(extremes).all()


@pytest.mark.parametrize("count", [kernels.count_plainly, kernels.count])
@given(values=st.lists(st.integers(0, 15), max_size=200))
def test_counting(count: Callable[..., None], values: list[int]) -> None:
    found = np.zeros((kernels.COUNTERS, 256), np.int64)
    count(np.array(values, np.uint8), 16, found)
    assert found.sum(0).tolist() == [values.count(k) for k in range(256)]


@pytest.mark.parametrize("select", [thresholds.select_plainly, thresholds.select])
@pytest.mark.parametrize("size", [32, 256])
def test_selection(select: Callable[..., None], size: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=size).astype(np.float32)
    index = rng.integers(0, size, 77).astype(np.int32)
    out = np.zeros(77, np.float32)
    select(table, index, out)
    assert np.array_equal(out, table[index])


@settings(max_examples=100)
@given(
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    information=st.sampled_from([1e-12, 1e-4, 0.1, 1e3]),
    tail=st.sampled_from([0.1, 1.0, 4.0]),
    beta=st.floats(0.01, 50),
    seed=st.integers(0, 1000),
)
def test_bins_in_float32_lie_beside_those_in_float64(
    scale: float, information: float, tail: float, beta: float, seed: int
) -> None:
    """What `ecqx.assignment.compiled` relies on: a bin is that of t, or one beside it."""
    rng = np.random.default_rng(seed)
    n, step = 1500, np.float32(0.3 * scale)
    weight = (rng.normal(0, scale, n)).astype(np.float32)
    relevance = np.exp(tail * rng.normal(size=n)).astype(np.float32)
    values = (np.arange(-8, 8) * step).astype(np.float32).astype(np.float64)
    cost = information * float(step) ** 2 * rng.uniform(1, 5, 16)
    cost[8] = cost.min() / 3
    without_zero = np.delete((values[1:] + values[:-1]) / 2, 7)
    nonzero = np.insert(without_zero, 7, without_zero[6]).astype(np.float32)
    bins, index = np.empty(thresholds.MARGIN * 4 + n, np.int64), np.empty(n, np.int32)
    per_unit = (bins.size - 1 - 2 * thresholds.MARGIN) / max(1.0, beta)
    _, exponent = np.frexp(np.abs(values).max())
    largest = np.float32(relevance.max())
    zero_interval = np.array([-np.inf, np.inf], np.float32)
    zeros = thresholds.bin_thresholds(
        *(weight, relevance, largest, nonzero, zero_interval, values, cost, 8),
        *(float(2.0**-exponent), per_unit, index, bins),
    )
    found, chosen = index >> thresholds.CLUSTER, index & 255
    R = (relevance / largest).astype(np.float64) + 1e-12
    w = weight.astype(np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        elsewhere = (w - values[chosen]) ** 2 + cost[chosen]
        t = np.log(elsewhere / (2 * (w**2 + cost[8]))) / np.minimum(np.log(R), -5e-324)
    exact = np.array([thresholds.bin_of(one, per_unit, bins.size - 1) for one in t])
    assert np.abs(found - exact).max() <= 1
    assert np.array_equal(bins, np.bincount(found, minlength=bins.size))
    assert zeros == n
    assert np.array_equal(chosen, interval(weight, nonzero))
