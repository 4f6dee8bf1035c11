"""All methods compared on each task by the same rules: area under the curve, and small files.

Everything is chosen by validation accuracy; every number that is shown is of the test set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.records import COMPARISON, FIXED, METHODS, Record, Setting
from ecqx.report.rules import Rules
from ecqx.report.selection import ROUNDING, by_seed, flat
from ecqx.report.statistics import Estimate, estimate, pareto_front


@dataclass(frozen=True)
class Comparison:
    """The records of sweep "comparison" and their rules; a setting is a trial of its method."""

    evidence: Evidence
    rules: Rules

    @classmethod
    def collect(cls, evidence: Evidence, rules: Rules) -> Comparison:
        """Take the records of the comparison and check that they keep to the rules.

        Raises
        ------
        InputError
            If there are none, a task has no rules, or the files of a task cannot be compared: they
            differ in parameters or seeds, or a method has more or fewer trials than the rules say.
        """
        comparison = cls(evidence.sweeps(COMPARISON), rules)
        if not comparison.tasks:
            raise InputError("report.comparison has rules, but no run is of sweep 'comparison'")
        for task in comparison.tasks:
            comparison._check(task)
        return comparison

    @property
    def tasks(self) -> Mapping[str, str]:
        """Titles of the tasks that are compared on, in the order in which they are shown."""
        return self.evidence.tasks

    def of(self, task: str, method: str | None = None) -> list[Setting]:
        """Trials of a task, or of one of its methods."""
        return self.evidence.of(task, COMPARISON, method)

    def records(self, task: str, method: str) -> list[Record]:
        """Records of a method's trials."""
        return flat(self.of(task, method))

    def methods(self, task: str) -> list[str]:
        """Methods that a task was measured with, in the order in which they are shown."""
        present = {trial.method for trial in self.of(task)}
        return [method for method in METHODS if method in present]

    def ranges_in_words(self) -> str:
        """The range of compression ratios that each task's area is taken over."""
        ranges = (self.rules.tasks[task].ratios for task in self.tasks)
        return f"from {self._each(f'{low:g} to {high:g}' for low, high in ranges)}"

    def trials_in_words(self) -> str:
        """How many trials each method had."""
        return f"{self._each(str(self.rules.tasks[task].trials) for task in self.tasks)} trials"

    def _each(self, words: Iterable[str]) -> str:
        """One text for each task; a single one where all are equal."""
        texts = list(words)
        if len(set(texts)) == 1:
            return texts[0]
        return ", ".join(f"{w} ({t})" for w, t in zip(texts, self.tasks.values(), strict=True))

    def _check(self, task: str) -> None:
        if task not in self.rules.tasks:
            raise InputError(f"task {task}: report.comparison names no ratios and trials for it")
        records = self.evidence.of_task(task)
        sizes = sorted({record.parameters for record in records})
        if len(sizes) > 1:
            raise InputError(
                f"task {task}: files are of models with {sizes[0]} and {sizes[-1]} parameters, "
                "not of one model"
            )
        seeds = by_seed(records).keys()
        for trial in self.of(task):
            missing = sorted(seeds - by_seed(trial.records).keys())
            if missing:
                words = f"{trial.method} ({trial.first.words})"
                raise InputError(f"task {task}: {words} has no run with seed {missing[0]}")
        for method in self.methods(task):
            expected = 1 if method in FIXED else self.rules.tasks[task].trials
            count = len(self.of(task, method))
            if count != expected:
                raise InputError(f"task {task}: {method} has {count} trials, not {expected}")


def area_terms(files: Sequence[Record], ratios: tuple[float, float]) -> list[tuple[float, Record]]:
    """The files of one method and seed that make its area under the curve, with their weights.

    A budget of bytes chooses the file of highest validation accuracy that fits. With A(r) the test
    accuracy of the file that the budget of compression ratio r chooses, the area is
    ∫ A(r) d log2 r from ``low`` to ``high``, over log2(high / low). A is a step function, so the
    integral is the sum of the steps' areas: of the files' accuracies times these weights. They add
    up to 1 where a file fits every budget.
    """
    low, high = ratios
    front = pareto_front([(float(file.bytes), file.accuracy_validation) for file in files])
    chosen = [files[index] for index in front]
    # A file is chosen from its own ratio down to that of the next larger one.
    ends = [*(file.compression_ratio for file in chosen[1:]), low]
    found = []
    for file, end in zip(chosen, ends, strict=True):
        top, bottom = min(file.compression_ratio, high), max(end, low)
        if top > bottom:
            found.append((math.log2(top / bottom) / math.log2(high / low), file))
    return found


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

    ``seeds`` is the number of seeds that the method was run with.
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
