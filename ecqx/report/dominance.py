"""Whether a curve of accuracy over file size has a point at least as good as a given result.

A *point* of the curve is one Λ, measured or between two neighbouring measured ones. Between them
every seed's size and accuracy are taken to change linearly with the share t ∈ [0, 1] of the way:
x_s(t) = a_s + t d_s. The mean over seeds is then linear in t, and the variance (n − 1) quadratic:
Var d t² + 2 Cov(a, d) t + Var a. With one seed it is zero.

Against a goal (size B, accuracy A) a point is

- *as good*: mean size ≤ B and mean accuracy ≥ A;
- *within one deviation*: mean size − its deviation ≤ B and mean accuracy + its deviation ≥ A.

Each condition changes from true to false only where it holds with equality: at the root of a linear
equation for the first, of a quadratic one, deviation² = (goal − mean)², for the second. If a point
between two Λ meets both, then so does one of the two Λ or one of these roots; so no other point
needs to be looked at, and nothing is missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from ecqx.report.statistics import Estimate, Floats, estimate

# Seed → (size, accuracy) of one Λ.
BySeed = Mapping[int, tuple[float, float]]
# A root is a number of floating point: the equality that defines it holds to this relative error.
TOLERANCE = 1e-9


class Grade(IntEnum):
    """How a point compares with a goal; the larger the better."""

    WORSE = 0
    WITHIN_DEVIATION = 1
    AS_GOOD = 2


@dataclass(frozen=True)
class Point:
    """A point of the curve.

    Attributes
    ----------
    lam : float
        Its Λ.
    between : (float, float) or None
        The neighbouring measured Λ where it was not measured itself.
    size, accuracy : Estimate
        Over the seeds.
    grade : Grade
    """

    lam: float
    between: tuple[float, float] | None
    size: Estimate
    accuracy: Estimate
    grade: Grade


def best_point(curve: Sequence[tuple[float, BySeed]], size: float, accuracy: float) -> Point:
    """The point of a curve that compares best with a goal.

    Parameters
    ----------
    curve : sequence of (float, mapping)
        At least one Λ, ascending, with size and accuracy of each seed.
    size, accuracy : float
        The goal, in the curve's units.

    Returns
    -------
    Point
        Of the best grade that occurs. Of several: a measured one, then one whose mean size is
        within the goal's, then the most accurate. If all are worse: the most accurate one whose
        mean size is within the goal's, or the smallest.
    """
    points = [
        _graded(lam, between, values, size, accuracy)
        for lam, between, values in _candidates(curve, size, accuracy)
    ]
    best = max(point.grade for point in points)
    small = [point for point in points if _at_most(point.size.mean, size)]
    if best is not Grade.WORSE:
        of_grade = [point for point in points if point.grade is best]
        return max(of_grade, key=lambda p: (p.between is None, p in small, p.accuracy.mean))
    if small:
        return max(small, key=lambda p: (p.accuracy.mean, p.between is None))
    return min(points, key=lambda p: p.size.mean)


def _graded(
    lam: float, between: tuple[float, float] | None, values: Floats, size: float, accuracy: float
) -> Point:
    own_size, own_accuracy = (estimate(row) for row in values)
    grade = Grade.WORSE
    for slack, better in ((1.0, Grade.WITHIN_DEVIATION), (0.0, Grade.AS_GOOD)):
        smallest = own_size.mean - slack * (own_size.sd or 0.0)
        largest = own_accuracy.mean + slack * (own_accuracy.sd or 0.0)
        if _at_most(smallest, size) and _at_most(accuracy, largest):
            grade = better
    return Point(lam, between, own_size, own_accuracy, grade)


def _at_most(value: float, bound: float) -> bool:
    return value <= bound or math.isclose(value, bound, rel_tol=TOLERANCE)


def _candidates(
    curve: Sequence[tuple[float, BySeed]], size: float, accuracy: float
) -> Iterator[tuple[float, tuple[float, float] | None, Floats]]:
    """Λ, its neighbours and the values, shape (2, seeds), of all points to be looked at."""
    for lam, by_seed in curve:
        yield lam, None, np.array([by_seed[seed] for seed in sorted(by_seed)]).T
    for (lam, by_seed), (next_lam, next_by_seed) in pairwise(curve):
        seeds = sorted(by_seed.keys() & next_by_seed.keys())
        if not seeds:
            continue
        start = np.array([by_seed[seed] for seed in seeds]).T
        way = np.array([next_by_seed[seed] for seed in seeds]).T - start
        for t in sorted(
            {*_crossings(start[0], way[0], size), *_crossings(start[1], way[1], accuracy)}
        ):
            yield lam + t * (next_lam - lam), (lam, next_lam), start + t * way


def _crossings(start: Floats, way: Floats, goal: float) -> Iterator[float]:
    """Shares of the way where the mean, or the mean ± its deviation, equals the goal."""
    left, slope = goal - float(start.mean()), float(way.mean())
    covariance = np.cov(start, way) if len(start) > 1 else np.zeros((2, 2))
    (variance, mixed), (_, of_way) = covariance.tolist()
    linear = [-slope, left]
    # deviation² − (left − slope t)², by descending power of t.
    quadratic = [of_way - slope**2, 2 * (mixed + slope * left), variance - left**2]
    for polynomial in (linear, quadratic):
        for root in np.roots(polynomial).tolist():
            if abs(root.imag) < TOLERANCE and 0 < root.real < 1:
                yield float(root.real)
