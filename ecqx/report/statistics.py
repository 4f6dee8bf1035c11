"""The statistics of the report: pure functions of numbers, without runs, tables or figures.

Means over seeds carry their standard deviation (n - 1) and a two-sided 95 % interval of
Student's t distribution. An interval needs a spread: an interval of width zero would call any
difference certain, so values that agree to `RESOLUTION` have none. Differences of accuracy have
the intervals of `ecqx.report.contrasts`, over seeds and test samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CONFIDENCE = 0.95
# A smaller deviation counts as none: 0.001 points of accuracy, one sample of 100,000.
RESOLUTION = 1e-5


@dataclass(frozen=True)
class Estimate:
    """Mean of n values, their standard deviation, and the ends of the mean's 95 % interval.

    A single value has no deviation; where no spread is known there is no interval.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The estimate of the values times a factor."""
        ends = (self.low, self.high) if factor > 0 else (self.high, self.low)
        low, high = (None if end is None else factor * end for end in ends)
        sd = None if self.sd is None else abs(factor) * self.sd
        return Estimate(factor * self.mean, sd, self.n, low, high)

    def lies_below(self, bound: float) -> bool:
        """Whether the whole interval is known and lies below ``bound``."""
        return self.high is not None and self.high < bound

    def lies_above(self, bound: float) -> bool:
        """Whether the whole interval is known and lies above ``bound``."""
        return self.low is not None and self.low > bound


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key; keys and items in the order in which they first appear."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, standard deviation and t interval of values, one per seed; ValueError without one."""
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("an estimate needs at least one value")
    if len(numbers) == 1:
        return Estimate(numbers[0])
    mean, sd, n = fmean(numbers), stdev(numbers), len(numbers)
    if sd <= RESOLUTION:
        return Estimate(mean, sd, n)
    low, high = stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=sd / math.sqrt(n))
    return Estimate(mean, sd, n, float(low), float(high))


def equal_sparsity_weights(
    first: Sequence[float], second: Sequence[float], *others: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float] | None:
    """How the mean difference of two curves at equal sparsity follows from their points.

    Both curves, in any order, are interpolated linearly over sparsity; points at the same sparsity
    are averaged. Their difference is linear between neighbouring points of either, so the
    trapezoids between these give its exact mean.

    Parameters
    ----------
    first, second : sequence of float
        Sparsity of each point.
    *others : sequence of float
        Sparsity of each point of further curves, which must cover the range of sparsity as well.

    Returns
    -------
    (ndarray, ndarray, float, float) or None
        Weights of the points' ordinates: the mean difference is ``weights1 @ y1 - weights2 @ y2``;
        and the ends of the range of sparsity. None without a common range.
    """
    curves = (first, second, *others)
    if not all(curves):
        return None
    low, high = max(map(min, curves)), min(map(max, curves))
    if low >= high:
        return None
    knots = np.unique(np.clip(np.concatenate([first, second]), low, high))
    widths = np.diff(knots) / (high - low)
    trapezoids = (np.append(widths, 0) + np.insert(widths, 0, 0)) / 2
    own, other = (trapezoids @ _interpolation(x, knots) for x in (first, second))
    return own, other, float(low), float(high)


def _interpolation(x: Sequence[float], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix from ordinates at ``x`` to their linear interpolation at knots."""
    places, place = np.unique(x, return_inverse=True)
    at_places = np.stack([np.interp(knots, places, unit) for unit in np.eye(len(places))], axis=1)
    return np.asarray(at_places[:, place] / np.bincount(place)[place])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, gain) that no other point beats, by ascending cost.

    Of equal points it has the first one.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def sample_stride(n: int, at_most: int) -> int:
    """Smallest stride that leaves at most ``at_most`` of ``n`` elements and is coprime with n.

    A stride that shares a factor with a tensor's shape would visit some of its columns only.
    """
    stride = max(1, math.ceil(n / at_most))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride
