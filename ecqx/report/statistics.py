"""The statistics of the report: pure functions of numbers, without runs, tables or figures.

Means over seeds carry their standard deviation (n - 1) and a two-sided 95 % interval of
Student's t distribution. Where only one seed was measured there is neither.

An interval needs a spread: a few seeds that happen to agree (three accuracies on 450 images often
do) say nothing about chance, and an interval of width zero would call any difference certain. So
values that agree to `RESOLUTION` have no interval of their own. `with_pooled_spread` gives them
one from estimates of the same kind; where none of these has a spread either, no interval is known.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]

CONFIDENCE = 0.95
# A smaller deviation counts as none: 0.001 points of accuracy, one sample of 100,000.
RESOLUTION = 1e-5


@dataclass(frozen=True)
class Estimate:
    """A mean with its spread.

    Attributes
    ----------
    mean : float
    sd : float or None
        Standard deviation of the values; None where there is one value only.
    n : int
        Number of values.
    low, high : float or None
        Ends of the 95 % interval of the mean; None where no spread is known.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit, by a positive factor."""
        sd, low, high = (None if v is None else factor * v for v in (self.sd, self.low, self.high))
        return Estimate(factor * self.mean, sd, self.n, low, high)

    def negated(self) -> Estimate:
        """The estimate of the negated values."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.mean, self.sd, self.n, low, high)

    def lies_below(self, bound: float) -> bool:
        """Whether the whole interval is known and lies below ``bound``."""
        return self.high is not None and self.high < bound

    def lies_above(self, bound: float) -> bool:
        """Whether the whole interval is known and lies above ``bound``."""
        return self.low is not None and self.low > bound


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, standard deviation and t interval of values, one per seed.

    Parameters
    ----------
    values : iterable of float
        At least one value.

    Returns
    -------
    Estimate
        Without interval where there is one value only, or all of them agree to `RESOLUTION`.
    """
    numbers = [float(value) for value in values]
    n = len(numbers)
    if n == 0:
        raise ValueError("an estimate needs at least one value")
    mean = fmean(numbers)
    if n == 1:
        return Estimate(mean)
    sd = stdev(numbers)
    return _with_interval(Estimate(mean, sd, n), sd, n - 1)


def _with_interval(value: Estimate, deviation: float, freedom: int) -> Estimate:
    """The t interval by a deviation with so many degrees of freedom; none without deviation."""
    if deviation <= RESOLUTION:
        return value
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    half = quantile * deviation / math.sqrt(value.n)
    return replace(value, low=value.mean - half, high=value.mean + half)


def with_pooled_spread(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """Estimates of the same kind, with intervals where all seeds agree.

    Only those without a spread take the pooled deviation, s² = Σ (nᵢ − 1) sᵢ² / Σ (nᵢ − 1), with
    its degrees of freedom: deviations differ much between settings, so that one setting that
    collapses would widen all intervals. Settings of a single seed stay without interval.

    Parameters
    ----------
    estimates : sequence of Estimate or None
        Of one task: its settings, or its comparisons.

    Returns
    -------
    list of Estimate or None
        In the same order; without interval where no estimate has a spread.
    """
    known = [(e.n - 1, e.sd) for e in estimates if e is not None and e.sd is not None]
    freedom = sum(n for n, _ in known)
    pooled = math.sqrt(sum(n * sd**2 for n, sd in known) / freedom) if freedom else 0.0
    return [
        _with_interval(e, pooled, freedom) if e and e.n > 1 and e.low is None else e
        for e in estimates
    ]


def group_means(pairs: Iterable[tuple[K, float]]) -> dict[K, Estimate]:
    """Estimate per group.

    Parameters
    ----------
    pairs : iterable of (key, value)

    Returns
    -------
    dict
        Keys in the order in which they first appear.
    """
    groups: dict[K, list[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: estimate(values) for key, values in groups.items()}


def paired_difference(first: Mapping[K, float], second: Mapping[K, float]) -> Estimate:
    """Mean of ``first - second`` over the keys (seeds) that both have.

    What a seed decides for both (order of the batches, start of the training) cancels out, so the
    interval is narrower than that of two independent means.

    Raises
    ------
    ValueError
        If no key is in both.
    """
    return estimate(first[key] - second[key] for key in first if key in second)


@dataclass(frozen=True)
class EqualSparsity:
    """Mean difference of two curves over the range of sparsity that both cover."""

    difference: float
    low: float
    high: float


def interpolate_at_equal_sparsity(first: Curve, second: Curve) -> EqualSparsity | None:
    """Average of ``first - second`` at equal sparsity.

    Both curves are interpolated linearly over sparsity. Their difference is linear between
    neighbouring points of either, so the trapezoids between all of these give its exact mean.

    Parameters
    ----------
    first, second : sequence of (sparsity, accuracy)
        In any order; accuracies at the same sparsity are averaged.

    Returns
    -------
    EqualSparsity or None
        None where the curves have no range of sparsity in common.
    """
    if not first or not second:
        return None
    x1, y1 = _sorted_curve(first)
    x2, y2 = _sorted_curve(second)
    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if low >= high:
        return None
    knots = np.union1d(x1, x2)
    knots = np.concatenate([[low], knots[(knots > low) & (knots < high)], [high]])
    difference = np.interp(knots, x1, y1) - np.interp(knots, x2, y2)
    area = float((np.diff(knots) * (difference[:-1] + difference[1:]) / 2).sum())
    return EqualSparsity(area / float(high - low), float(low), float(high))


def _sorted_curve(curve: Curve) -> tuple[Floats, Floats]:
    """Abscissae, ascending and without repetition, and the mean ordinate at each."""
    means = group_means(curve)
    x = np.array(sorted(means), dtype=np.float64)
    return x, np.array([means[value].mean for value in x.tolist()])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats.

    Parameters
    ----------
    points : sequence of (cost, gain)
        Less cost and more gain are better.

    Returns
    -------
    list of int
        By ascending cost; of equal points the first one stays.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def pearson(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Linear correlation of all elements; NaN where one array is constant."""
    if x.min() == x.max() or y.min() == y.max():
        return math.nan
    return float(_correlations(x.reshape(1, -1), y.reshape(1, -1))[0])


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Rank correlation (equal values share their mean rank); NaN where one array is constant."""
    return pearson(stats.rankdata(x.ravel()), stats.rankdata(y.ravel()))


def _correlations(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Pearson correlation of each row of x with the same row of y."""
    x = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    y = y.astype(np.float64) - y.mean(axis=1, keepdims=True, dtype=np.float64)
    norm = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / norm)


def sample_stride(n: int, at_most: int) -> int:
    """Smallest stride that leaves at most ``at_most`` of ``n`` elements and is coprime with n.

    A stride that shares a factor with a tensor's shape would visit some of its columns only.
    """
    stride = max(1, math.ceil(n / at_most))
    while math.gcd(stride, n) != 1:
        stride += 1
    return stride


def spearman_interval(
    x: NDArray[Any], y: NDArray[Any], seed: int = 0, resamples: int = 500, at_most: int = 2000
) -> Estimate:
    """Rank correlation of all elements with a bootstrap interval.

    The interval comes from resamples of a fixed-stride subsample, moved to the correlation of all
    elements; it is therefore wider than that of all elements would be.

    Parameters
    ----------
    x, y : ndarray
        Equally many elements, two or more.
    seed : int
        Seed of the resampling.
    resamples : int
        Number of resamples.
    at_most : int
        Elements of the subsample.

    Returns
    -------
    Estimate
        Without interval where the correlation is undefined (a constant array).
    """
    x, y = x.ravel(), y.ravel()
    rho = spearman(x, y)
    stride = sample_stride(x.size, at_most)
    x, y = x[::stride], y[::stride]
    centre = spearman(x, y)
    if math.isnan(rho) or math.isnan(centre):
        return Estimate(rho)
    picks = np.random.default_rng(seed).integers(x.size, size=(resamples, x.size))
    ranks = [stats.rankdata(values[picks], axis=1) for values in (x, y)]
    drawn = _correlations(ranks[0], ranks[1])
    ends = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) + (rho - centre)
    low, high = np.clip(ends, -1.0, 1.0).tolist()
    return Estimate(rho, float(np.nanstd(drawn, ddof=1)), x.size, low, high)
