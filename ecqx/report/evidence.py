"""The records of a suite, or of some of its sweeps, with titles and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ecqx.report.records import (
    GRID,
    METHODS_OF_SWEEP,
    Correct,
    Record,
    Setting,
    group_settings,
    read_records,
)
from ecqx.report.selection import widths
from ecqx.report.sources import describe, source_of

# Longer labels of data are cut where they have little room.
LABEL_LENGTH = 40


@dataclass(frozen=True)
class Evidence:
    """The sorted records of a suite, or of some of its sweeps, and these grouped by setting.

    ``tasks`` has the titles of the tasks that have records, in the order in which they are shown;
    ``paper`` are those that are experiments of the paper.
    """

    suite: str
    tasks: dict[str, str]
    records: list[Record]
    settings: list[Setting]
    paper: frozenset[str] = frozenset()

    @classmethod
    def collect(
        cls,
        suite: str,
        tasks: Mapping[str, str],
        entries: Iterable[Mapping[str, Any]],
        correct: Correct | None = None,
        paper: Iterable[str] = (),
    ) -> Evidence:
        """Read entries of ``metrics.json``.

        Experiments of the paper come first; tasks without a title are shown by their key, last.
        Where several tasks have the same title, each is followed by its data.
        """
        records = read_records(entries, correct)
        first = frozenset(paper)
        titles = {task: tasks[task] for task in sorted(tasks, key=lambda task: task not in first)}
        titles.update({r.task: r.task for r in records if r.task not in tasks})
        found = cls(suite, titles, records, [], first).sweeps(*METHODS_OF_SWEEP)
        times = Counter(found.tasks.values())
        distinct = {
            t: found.name(t) if times[title] > 1 else title for t, title in found.tasks.items()
        }
        return replace(found, tasks=distinct)

    def sweeps(self, *names: str) -> Evidence:
        """The records of some sweeps only."""
        records = [record for record in self.records if record.sweep in names]
        measured = {record.task for record in records}
        titles = {task: title for task, title in self.tasks.items() if task in measured}
        return replace(self, tasks=titles, records=records, settings=group_settings(records))

    @property
    def deciding(self) -> list[str]:
        """The tasks that decide claims: experiments of the paper, or all if none is named."""
        return [task for task in self.tasks if not self.paper or task in self.paper]

    def of(
        self, task: str, sweep: str = GRID, method: str | None = None, bits: int | None = None
    ) -> list[Setting]:
        """Settings of a task and sweep, sorted by bits, method, variant, p and Λ."""
        return [
            setting
            for setting in self.settings
            if (setting.task, setting.sweep) == (task, sweep)
            and method in (None, setting.method)
            and bits in (None, setting.bits)
        ]

    def bits(self, task: str, sweep: str = GRID) -> list[int]:
        """Bit widths that a task was measured at, ascending."""
        return widths(self.of(task, sweep))

    def reference_bits(self, task: str) -> int | None:
        """The bit width to show where only one is shown: 4, or else the largest."""
        bits = self.bits(task)
        return None if not bits else 4 if 4 in bits else bits[-1]

    def of_task(self, task: str) -> list[Record]:
        """All records of a task."""
        return [record for record in self.records if record.task == task]

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of tasks without and with BatchNorm: X and X_bn."""
        return [(task, f"{task}_bn") for task in self.tasks if f"{task}_bn" in self.tasks]

    def metric_of_all(self, tasks: Iterable[str]) -> str:
        """One name for the metrics of some tasks: "accuracy" for every kind of accuracy."""
        metrics = {self.of_task(task)[0].metric for task in tasks}
        if all(metric.endswith("accuracy") for metric in metrics):
            return "accuracy"
        return metrics.pop() if len(metrics) == 1 else "test metric"

    def data(self, task: str, short: bool = False) -> str:
        """The data that a task was measured on; ``short`` cuts a long label off."""
        data = self.of_task(task)[0].dataset
        for mark in (" (", ", "):
            if short and len(data) > LABEL_LENGTH:
                data = data.split(mark)[0]
        return data

    def name(self, task: str) -> str:
        """Title of a task that names its data."""
        data, title = self.data(task, short=True), self.tasks[task]
        return title if data in title else f"{title} on {data}"

    def notes(self, tasks: Iterable[str]) -> list[str]:
        """What some tasks were measured on, one sentence for all that were measured alike."""
        return describe((self.tasks[task], source_of(self.of_task(task))) for task in tasks)
