"""What methods are compared by: accuracy at a budget of bytes, the area under it, and fronts.

Everything is chosen by validation accuracy; every number that is shown is of the test set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecqx.report.comparison_records import File, Trial
from ecqx.report.statistics import Estimate, estimate, pareto_front

# Equal fractions may differ at rounding.
ROUNDING = 1e-12


def by_seed(files: Iterable[File]) -> dict[int, list[File]]:
    """Files per seed."""
    seeds: dict[int, list[File]] = {}
    for file in files:
        seeds.setdefault(file.seed, []).append(file)
    return seeds


def staircase(files: Sequence[File]) -> list[File]:
    """The files that some budget chooses.

    Parameters
    ----------
    files : sequence of File
        Of one method and seed.

    Returns
    -------
    list of File
        By ascending bytes and validation accuracy. At a budget of B bytes the last one of at most
        B bytes is chosen: of all that fit the one of highest validation accuracy, and of equally
        accurate ones the smallest.
    """
    points = [(float(file.bytes), file.accuracy_validation) for file in files]
    return [files[index] for index in pareto_front(points)]


def area(files: Sequence[File], ratios: tuple[float, float]) -> float:
    """Mean test accuracy over budgets, which are spread evenly on a scale of ratios' logarithm.

    With A(r) the test accuracy of the file that the budget 4 · parameters / r chooses, and 0 where
    no file fits, this is ∫ A(r) d log2 r from ``low`` to ``high``, over log2(high / low). A is a
    step function, so the integral is the sum of the steps' areas, without any sampling.

    Parameters
    ----------
    files : sequence of File
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
    ends = [*(file.ratio for file in chosen[1:]), low]
    total = 0.0
    for file, end in zip(chosen, ends, strict=True):
        top, bottom = min(file.ratio, high), max(end, low)
        if top > bottom:
            total += file.accuracy * math.log2(top / bottom)
    return total / math.log2(high / low)


def areas(files: Iterable[File], ratios: tuple[float, float]) -> dict[int, float]:
    """Area under the curve of one method, per seed."""
    return {seed: area(own, ratios) for seed, own in by_seed(files).items()}


def smallest_within(files: Iterable[File], loss: float) -> File | None:
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
    files : mapping of int to File
    seeds : int
        Seeds that the method was run with.
    """

    files: Mapping[int, File]
    seeds: int

    @property
    def complete(self) -> bool:
        """Whether every seed has such a file; without one a mean would leave out the worst."""
        return len(self.files) == self.seeds

    @property
    def coverage(self) -> str:
        """How many of the seeds have such a file."""
        return f"{len(self.files)} of {self.seeds}"

    def mean(self, quantity: Callable[[File], float]) -> Estimate | None:
        """Estimate over seeds; None where some seed has no such file."""
        return estimate(quantity(file) for file in self.files.values()) if self.complete else None

    def chosen(self) -> str | None:
        """The trials that the files are of, with their number of seeds unless one has all."""
        counts = Counter(file.words for file in self.files.values())
        if not counts or self.seeds in counts.values():
            return next(iter(counts), None)
        return "; ".join(
            f"{words} ({count} seed{'s' if count > 1 else ''})" for words, count in counts.items()
        )


def kept(files: Iterable[File], loss: float) -> Kept:
    """The smallest file within ``loss`` of each seed of a method."""
    seeds = by_seed(files)
    found = {seed: smallest_within(own, loss) for seed, own in seeds.items()}
    return Kept({seed: file for seed, file in found.items() if file}, len(seeds))


def undominated(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other one dominates in mean bytes and mean validation accuracy.

    A trial dominates another if it is no worse in both and better in one, so equal ones stay
    together.

    Returns
    -------
    list of Trial
        By ascending size.
    """
    points = [(t.mean("bytes").mean, t.mean("accuracy_validation").mean) for t in trials]
    best = {points[index] for index in pareto_front(points)}
    front = [index for index, point in enumerate(points) if point in best]
    return [trials[index] for index in sorted(front, key=lambda index: points[index])]
