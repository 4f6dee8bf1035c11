"""Choosing among settings, by validation accuracy only, and comparing them at equal sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ecqx.report.contrasts import Contrast, Network, contrast, difference
from ecqx.report.records import Record, Setting
from ecqx.report.statistics import (
    Estimate,
    equal_sparsity_weights,
    estimate,
    grouped,
    pareto_front,
)

# How far below the best mean validation accuracy a small file may lie and still be chosen.
VALIDATION_SLACK = 0.01
# Equal fractions, and means of such, may differ at rounding.
ROUNDING = 1e-12


def flat(settings: Iterable[Setting]) -> list[Record]:
    """All records of some settings."""
    return [record for setting in settings for record in setting.records]


def by_seed(records: Iterable[Record]) -> dict[int, list[Record]]:
    """Records per seed."""
    return grouped(records, lambda record: record.seed)


def widths(settings: Iterable[Setting]) -> list[int]:
    """Bit widths of some settings, ascending."""
    return sorted({setting.bits for setting in settings if setting.bits is not None})


def over_seeds(records: Iterable[Record], name: str) -> Estimate:
    """Estimate over seeds of a number that belongs to the seed, such as ``accuracy_fp32``."""
    seeds = by_seed(records).values()
    return estimate(fmean(getattr(record, name) for record in own) for own in seeds)


def most_accurate(settings: Sequence[Setting]) -> Setting:
    """The setting of highest mean validation accuracy; of equals the smallest file."""
    return max(settings, key=lambda s: (_validation(s), -s.mean("bytes").mean))


def smallest_file(settings: Sequence[Setting]) -> Setting:
    """The smallest file whose mean validation accuracy is within a point of the best."""
    floor = _validation(most_accurate(settings)) - VALIDATION_SLACK
    near = [s for s in settings if _validation(s) >= floor - ROUNDING]
    return min(near, key=lambda s: (s.mean("bytes").mean, -_validation(s)))


def front(settings: Sequence[Setting]) -> list[Setting]:
    """Pareto-optimal settings by mean file size and mean validation accuracy, smallest first.

    Settings that are equal in both stay together.
    """
    points = [(s.mean("bytes").mean, _validation(s)) for s in settings]
    best = {points[index] for index in pareto_front(points)}
    kept = [index for index, point in enumerate(points) if point in best]
    return [settings[index] for index in sorted(kept, key=lambda index: points[index])]


def _validation(setting: Setting) -> float:
    return setting.mean("accuracy_validation").mean


@dataclass(frozen=True)
class Gain:
    """How much more accurate one method is than another at equal sparsity.

    Of the ``seeds`` of both methods those are ``compared`` whose curves have a range of sparsity in
    common; ``low`` and ``high`` are the mean ends of that range. None without such a seed.
    """

    difference: Contrast | None
    low: float
    high: float
    seeds: int
    compared: int

    @property
    def range_in_words(self) -> str:
        """The common range of sparsity, in percent."""
        if self.difference is None:
            return "no common range"
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


def drop_of(records: Iterable[Record]) -> Contrast | None:
    """Full-precision accuracy minus that of the files of a setting; positive is a loss."""
    own = {record.seed: record for record in records}
    reference = {seed: record.reference for seed, record in own.items()}
    return difference(reference, {seed: record.network for seed, record in own.items()})


def loses_at_most(setting: Setting, loss: float) -> bool:
    """Whether mean validation accuracy is at most ``loss``, a fraction, below full precision's."""
    reference = setting.mean("accuracy_fp32_validation").mean
    return reference - _validation(setting) <= loss + ROUNDING


def gain_at_equal_sparsity(
    first: Sequence[Setting], second: Sequence[Setting], *others: Sequence[Setting]
) -> Gain:
    """Accuracy of the first settings minus that of the second ones at equal sparsity along Λ.

    Only seeds that all curves have, the ``others`` included, and sparsities that all cover count.
    """
    curves = [by_seed(flat(settings)) for settings in (first, second, *others)]
    seeds = [seed for seed in curves[0] if all(seed in curve for curve in curves)]
    terms: dict[int, list[tuple[float, Network]]] = {}
    ranges = []
    for seed in seeds:
        own, compared, *_ = points = [curve[seed] for curve in curves]
        found = equal_sparsity_weights(*([run.sparsity for run in runs] for runs in points))
        if found is not None:
            weights, other_weights, *ends = found
            signed = (*weights, *(-other_weights))
            networks = (run.network for run in (*own, *compared))
            terms[seed] = list(zip(signed, networks, strict=True))
            ranges.append(ends)
    if not ranges:
        return Gain(None, math.nan, math.nan, len(seeds), 0)
    low, high = map(fmean, zip(*ranges, strict=True))
    return Gain(contrast(terms), low, high, len(seeds), len(ranges))
