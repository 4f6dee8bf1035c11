"""The records of all methods, compared on each task by the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.records import COMPARISON, FIXED, METHODS, Record, Setting
from ecqx.report.rules import Fairness, Rules
from ecqx.report.selection import flat
from ecqx.report.statistics import Estimate


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

    def records(self, task: str, method: str | None = None) -> list[Record]:
        """Records of these trials."""
        return flat(self.of(task, method))

    def methods(self, task: str) -> list[str]:
        """Methods that a task was measured with, in the order in which they are shown."""
        present = {trial.method for trial in self.of(task)}
        return [method for method in METHODS if method in present]

    def fairness(self, task: str) -> Fairness:
        """What a task's methods are compared by."""
        return self.rules.tasks[task]

    def full_precision(self, task: str) -> Estimate:
        """Test accuracy in full precision over seeds."""
        return self.of(task)[0].mean("accuracy_fp32")

    def ranges_in_words(self) -> str:
        """The range of compression ratios that each task's area is taken over."""
        ranges = (self.fairness(task).ratios for task in self.tasks)
        return f"from {self._each(f'{low:g} to {high:g}' for low, high in ranges)}"

    def trials_in_words(self) -> str:
        """How many trials each method had."""
        return f"{self._each(str(self.fairness(task).trials) for task in self.tasks)} trials"

    def _each(self, words: Iterable[str]) -> str:
        """One text for each task; a single one where all are equal."""
        texts = list(words)
        if len(set(texts)) == 1:
            return texts[0]
        return ", ".join(f"{w} ({t})" for w, t in zip(texts, self.tasks.values(), strict=True))

    def _check(self, task: str) -> None:
        if task not in self.rules.tasks:
            raise InputError(f"task {task}: report.comparison names no ratios and trials for it")
        sizes = sorted({record.parameters for record in self.records(task)})
        if len(sizes) > 1:
            raise InputError(
                f"task {task}: files are of models with {sizes[0]} and {sizes[-1]} parameters, "
                "not of one model"
            )
        seeds = {record.seed for record in self.records(task)}
        for trial in self.of(task):
            missing = sorted(seeds - {record.seed for record in trial.records})
            if missing:
                words = f"{trial.method} ({trial.first.words})"
                raise InputError(f"task {task}: {words} has no run with seed {missing[0]}")
        for method in self.methods(task):
            expected = 1 if method in FIXED else self.fairness(task).trials
            count = len(self.of(task, method))
            if count != expected:
                raise InputError(f"task {task}: {method} has {count} trials, not {expected}")
