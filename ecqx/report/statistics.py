"""The statistics of the report: pure functions of numbers, without runs, tables or figures.

Means over seeds carry their standard deviation (n - 1) and a two-sided 95 % interval of
Student's t distribution. An interval needs a spread: three accuracies on 450 images often agree,
and an interval of width zero would call any difference certain. Values that agree to `RESOLUTION`
therefore have no interval of their own; `with_pooled_spread` gives them one from estimates of the
same kind, if any of these has a spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Curve = Sequence[tuple[float, float]]

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
    sd, n = stdev(numbers), len(numbers)
    return _with_interval(Estimate(fmean(numbers), sd, n), sd, n - 1)


def _with_interval(value: Estimate, deviation: float, freedom: int) -> Estimate:
    """The t interval of a deviation with its degrees of freedom; none without deviation."""
    if deviation <= RESOLUTION:
        return value
    error = deviation / math.sqrt(value.n)
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=value.mean, scale=error)
    return replace(value, low=float(low), high=float(high))


def with_pooled_spread(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """Estimates of the same kind, with intervals where all seeds agree.

    Only those without a spread take the pooled deviation, s² = Σ (nᵢ − 1) sᵢ² / Σ (nᵢ − 1), with
    its degrees of freedom: one setting that collapses would otherwise widen all intervals.
    Settings of a single seed, and all settings where none has a spread, stay without interval.
    """
    known = [(e.n - 1, e.sd) for e in estimates if e is not None and e.sd is not None]
    freedom = sum(n for n, _ in known)
    pooled = math.sqrt(sum(n * sd**2 for n, sd in known) / freedom) if freedom else 0.0
    return [
        _with_interval(e, pooled, freedom) if e and e.n > 1 and e.low is None else e
        for e in estimates
    ]


def paired_difference(first: Mapping[K, float], second: Mapping[K, float]) -> Estimate:
    """Mean of ``first - second`` over the keys (seeds) that both have; ValueError without one.

    What a seed decides for both (order of the batches, start of the training) cancels out, so the
    interval is narrower than that of two independent means.
    """
    return estimate(first[key] - second[key] for key in first if key in second)


def interpolate_at_equal_sparsity(first: Curve, second: Curve) -> tuple[float, float, float] | None:
    """Average of ``first - second`` at equal sparsity, and the range that both cover, if any.

    Both curves, in any order, are interpolated linearly over sparsity; accuracies at the same
    sparsity are averaged. Their difference is linear between neighbouring points of either, so the
    trapezoids between these give its exact mean.

    Returns
    -------
    (float, float, float) or None
        The difference and the ends of the range of sparsity; None without a common range.
    """
    if not first or not second:
        return None
    (x1, y1), (x2, y2) = _sorted_curve(first), _sorted_curve(second)
    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if low >= high:
        return None
    knots = np.unique(np.clip(np.concatenate([x1, x2]), low, high))
    difference = np.interp(knots, x1, y1) - np.interp(knots, x2, y2)
    area = integrate.trapezoid(difference, knots)
    return float(area / (high - low)), float(low), float(high)


def _sorted_curve(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Abscissae, ascending and without repetition, and the mean ordinate at each."""
    points = np.array(curve, dtype=np.float64)
    x, place = np.unique(points[:, 0], return_inverse=True)
    return x, np.bincount(place, weights=points[:, 1]) / np.bincount(place)


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
