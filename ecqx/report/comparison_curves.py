"""What methods are compared by: accuracy at a budget of bytes, the area under it, small files.

Everything is chosen by validation accuracy; every number that is shown is of the test set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecqx.report.records import Record
from ecqx.report.statistics import Estimate, estimate, pareto_front

# Equal fractions may differ at rounding.
ROUNDING = 1e-12


def by_seed(files: Iterable[Record]) -> dict[int, list[Record]]:
    """Records per seed."""
    seeds: dict[int, list[Record]] = {}
    for file in files:
        seeds.setdefault(file.seed, []).append(file)
    return seeds


def staircase(files: Sequence[Record]) -> list[Record]:
    """The files that some budget chooses.

    Parameters
    ----------
    files : sequence of Record
        Of one method and seed.

    Returns
    -------
    list of Record
        By ascending bytes and validation accuracy. At a budget of B bytes the last one of at most
        B bytes is chosen: of all that fit the one of highest validation accuracy, and of equally
        accurate ones the smallest.
    """
    points = [(float(file.bytes), file.accuracy_validation) for file in files]
    return [files[index] for index in pareto_front(points)]


def area(files: Sequence[Record], ratios: tuple[float, float]) -> float:
    """Mean test accuracy over budgets, which are spread evenly on a scale of ratios' logarithm.

    With A(r) the test accuracy of the file that the budget of ratio r chooses, and 0 where no file
    fits, this is ∫ A(r) d log2 r from ``low`` to ``high``, over log2(high / low). A is a step
    function, so the integral is the sum of the steps' areas, without any sampling.

    Parameters
    ----------
    files : sequence of Record
        Of one method and seed.
    ratios : (float, float)
        Ends ``low`` and ``high`` of the range, 0 < low < high.

    Returns
    -------
    float
        A fraction of one.
    """
    low, high = ratios
    chosen = staircase(files)
    # A file is chosen from its own ratio down to that of the next larger one on the stairs.
    ends = [*(file.compression_ratio for file in chosen[1:]), low]
    total = 0.0
    for file, end in zip(chosen, ends, strict=True):
        top, bottom = min(file.compression_ratio, high), max(end, low)
        if top > bottom:
            total += file.accuracy * math.log2(top / bottom)
    return total / math.log2(high / low)


def areas(files: Iterable[Record], ratios: tuple[float, float]) -> dict[int, float]:
    """Area under the curve of one method, per seed."""
    return {seed: area(own, ratios) for seed, own in by_seed(files).items()}


def smallest_within(files: Iterable[Record], loss: float) -> Record | None:
    """The smallest file whose validation accuracy is at most ``loss`` below full precision.

    Of equally small ones the one of highest validation accuracy; None where no file is as good.
    """
    kept = [
        file
        for file in files
        if file.accuracy_validation >= file.accuracy_fp32_validation - loss - ROUNDING
    ]
    return min(kept, key=lambda file: (file.bytes, -file.accuracy_validation), default=None)


@dataclass(frozen=True)
class Kept:
    """The smallest files of a method that keep the accuracy, by the seeds that have one.

    Attributes
    ----------
    files : mapping of int to Record
    seeds : int
        Seeds that the method was run with.
    """

    files: Mapping[int, Record]
    seeds: int

    @property
    def complete(self) -> bool:
        """Whether every seed has such a file; without one a mean would leave out the worst."""
        return len(self.files) == self.seeds

    @property
    def coverage(self) -> str:
        """How many of the seeds have such a file."""
        return f"{len(self.files)} of {self.seeds}"

    def mean(self, name: str) -> Estimate | None:
        """Estimate of an attribute over seeds; None where some seed has no such file."""
        values = [getattr(file, name) for file in self.files.values()]
        return estimate(values) if self.complete else None

    def chosen(self) -> str | None:
        """The trials that the files are of, with their number of seeds unless one has all."""
        counts = Counter(file.words for file in self.files.values())
        if not counts or self.seeds in counts.values():
            return next(iter(counts), None)
        return "; ".join(
            f"{words} ({count} seed{'s' if count > 1 else ''})" for words, count in counts.items()
        )


def kept(files: Iterable[Record], loss: float) -> Kept:
    """The smallest file within ``loss`` of each seed of a method."""
    seeds = by_seed(files)
    found = {seed: smallest_within(own, loss) for seed, own in seeds.items()}
    return Kept({seed: file for seed, file in found.items() if file}, len(seeds))
