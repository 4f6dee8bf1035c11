"""Differences of accuracy, with intervals over seeds and test samples.

A contrast is a sum of accuracies of networks with weights, for each seed: a file's accuracy minus
that of full precision, or points of one curve minus points of another. With d(s, i) the same sum
for seed s of whether test sample i is classified correctly, 0 or 1, its mean over S seeds and n
samples has the standard error

    SE² = σ² / S + Var_i(d̄(i)) / n,   d̄(i) the mean of d(s, i) over seeds.

σ is the deviation of the contrast over seeds, Var_i that over samples: other seeds, and other
samples of the same kind, would have given another mean. The noise of one network on one sample
counts in both terms, so that the interval is slightly too wide. σ is at least one sample, 1 / n:
seeds that happen to agree do not show that all seeds would.

The deviation is pooled over contrasts of the same kind and the same seeds where that is fair: where
Levene's test does not reject at 5 % that they have the same. Such contrasts share networks, for
instance the one in full precision of each seed, so that together they know less than as many
independent ones: `pooled_spread` counts the degrees of freedom accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ecqx.report.statistics import CONFIDENCE, RESOLUTION, Estimate

# Below this p-value of Levene's test deviations are not pooled.
UNFAIR = 0.05
NORMAL = stats.norm.ppf((1 + CONFIDENCE) / 2)
# More are not looked for.
MOST_SEEDS = 1000


class Network(NamedTuple):
    """Test accuracy of a network, a fraction of one, and which samples it classifies correctly.

    ``correct`` is of bool, shape (n,); None in tasks without a single label a sample.
    """

    accuracy: float
    correct: NDArray[np.bool_] | None


# Networks of one seed with their weights.
Terms = Iterable[tuple[float, Network]]


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrast by seed, and its mean over seeds by test sample, shape (n,), if it is known."""

    values: tuple[float, ...]
    by_sample: NDArray[np.float64] | None = None

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def one_sample(self) -> float:
        """What a single test sample counts; 0 where it is not known."""
        return 0.0 if self.by_sample is None else 1 / len(self.by_sample)

    @property
    def sample_variance(self) -> float:
        """Var_i(d̄(i)), the variance over test samples; 0 where it is not known."""
        return 0.0 if self.by_sample is None else float(self.by_sample.var(ddof=1))


class Spread(NamedTuple):
    """A deviation over seeds, and its degrees of freedom."""

    deviation: float
    freedom: float


def contrast(terms: Mapping[int, Terms]) -> Contrast | None:
    """The contrast of the terms of each seed; None without a seed."""
    values, samples = [], []
    for own in terms.values():
        weighted = list(own)
        values.append(sum(weight * network.accuracy for weight, network in weighted))
        bits = [w * network.correct for w, network in weighted if network.correct is not None]
        if len(bits) == len(weighted):
            samples.append(np.sum(bits, axis=0))
    if not values:
        return None
    is_known = len(samples) == len(values)
    return Contrast(tuple(values), np.mean(samples, axis=0) if is_known else None)


def difference(first: Mapping[int, Network], second: Mapping[int, Network]) -> Contrast | None:
    """First minus second over the seeds that both have."""
    return contrast({s: [(1.0, first[s]), (-1.0, second[s])] for s in first if s in second})


class Found(NamedTuple):
    """The mean of a contrast with its interval, and what would tell it from a bound."""

    value: Estimate
    would_take: str | None


def intervals(
    contrasts: Sequence[Contrast | None],
    bound: float = 0.0,
    alike: Callable[[Contrast], bool] = lambda one: True,
) -> list[Found | None]:
    """Means of contrasts with their intervals; deviations are pooled over those that are ``alike``.

    Of these only those of the most seeds are pooled, so that all are of the same seeds. There is no
    interval with one seed, nor where no spread is known: without test samples, if all seeds agree.
    """
    known = [one for one in contrasts if one is not None and alike(one)]
    seeds = max((len(one.values) for one in known), default=0)
    shared = [one for one in known if len(one.values) == seeds]
    pooled = pooled_spread(shared)

    def found(one: Contrast) -> Found:
        return _found(one, spread_of(one, pooled if one in shared else None), bound)

    return [None if one is None else found(one) for one in contrasts]


def interval(one: Contrast | None) -> Estimate | None:
    """The mean of a contrast alone with its interval."""
    (found,) = intervals([one])
    return found and found.value


def pooled_spread(contrasts: Sequence[Contrast]) -> Spread | None:
    """The root of the mean variance of contrasts of the same seeds; None where it is not fair.

    With K contrasts x(k, s) of S seeds, each without its mean, and Q the sum of their squares,

        σ² = Q / (K (S − 1)),   Q = Q_s + Q_r,   Q_s = K Σ_s x̄(s)²,

    Q_s is what all contrasts have in common at a seed, and Q_r the rest. Satterthwaite's degrees of
    freedom of σ² are (S − 1) Q² / (Q_s² + Q_r² / (K − 1)): S − 1 where all contrasts move together,
    and about K (S − 1) where they are independent.
    """
    groups = [one.values for one in contrasts if len(one.values) > 1]
    if not groups or not is_fair_to_pool(groups):
        return None
    own = np.array(groups)
    own -= own.mean(axis=1, keepdims=True)
    count, seeds = own.shape
    whole, common = np.sum(own**2), count * np.sum(own.mean(axis=0) ** 2)
    if whole == 0 or count == 1:
        return Spread(math.sqrt(whole / (count * (seeds - 1))), seeds - 1)
    rest = (whole - common) ** 2 / (count - 1)
    freedom = (seeds - 1) * whole**2 / (common**2 + rest)
    return Spread(math.sqrt(whole / (count * (seeds - 1))), float(freedom))


def is_fair_to_pool(groups: Sequence[Sequence[float]]) -> bool:
    """Whether Levene's test leaves it open that all groups have the same deviation."""
    if len(groups) < 2 or all(stdev(group) <= RESOLUTION for group in groups):
        return True
    if all(len(group) < 3 for group in groups):
        # Two values lie equally far from their mean, which tells nothing to compare deviations by.
        return False
    return not stats.levene(*groups, center="mean").pvalue < UNFAIR


def spread_of(one: Contrast, pooled: Spread | None) -> Spread | None:
    """The spread over seeds that an interval is drawn from; None where there is none."""
    if len(one.values) < 2:
        return None
    spread = pooled or Spread(stdev(one.values), len(one.values) - 1)
    least = one.one_sample or RESOLUTION
    if spread.deviation > least:
        return spread
    # The least deviation is no estimate, so it is as certain as the samples are many.
    return None if one.by_sample is None else Spread(least, len(one.by_sample) - 1)


def _found(one: Contrast, spread: Spread | None, bound: float) -> Found:
    return Found(_estimate(one, spread), would_take(one, spread, bound))


def _estimate(one: Contrast, spread: Spread | None) -> Estimate:
    count = len(one.values)
    sd = stdev(one.values) if count > 1 else None
    if spread is None:
        return Estimate(one.mean, sd, count)
    seeds, samples = spread.deviation**2 / count, one.sample_variance * one.one_sample
    # Welch and Satterthwaite's degrees of freedom of a sum of variances.
    freedom = (seeds + samples) ** 2 / (
        seeds**2 / spread.freedom + samples**2 * one.one_sample / (1 - one.one_sample)
    )
    error = math.sqrt(seeds + samples)
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=one.mean, scale=error)
    return Estimate(one.mean, sd, count, float(low), float(high))


def would_take(one: Contrast, spread: Spread | None, bound: float) -> str | None:
    """What would have told a contrast of this size from a bound: more seeds, or test samples.

    By the deviations found; test samples are named where no number of seeds is enough. None where
    nothing is known of the spread.
    """
    distance, count = abs(one.mean - bound), len(one.values)
    if spread is None:
        return None
    more = np.arange(count + 1, MOST_SEEDS + 1)
    of_seeds, of_samples = spread.deviation**2, one.sample_variance * one.one_sample
    errors = np.sqrt(of_seeds / more + of_samples)
    enough = more[stats.t.ppf((1 + CONFIDENCE) / 2, more - 1) * errors <= distance]
    if enough.size:
        return f"{enough[0]} seeds"
    wanted = (distance / NORMAL) ** 2 - of_seeds / MOST_SEEDS
    if of_samples and wanted > 0:
        samples = _two_digits(one.sample_variance / wanted)
        return f"{samples:,} test samples, and more seeds"
    return f"more than {MOST_SEEDS:,} seeds"


def _two_digits(value: float) -> int:
    """A number above 1 rounded up to two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
