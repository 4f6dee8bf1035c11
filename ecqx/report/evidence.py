"""The records of a suite, or of some of its sweeps, with titles and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ecqx.report.records import GRID, Record, Setting, group_settings, read_records
from ecqx.report.selection import widths
from ecqx.report.sources import describe, source_of

# Longer labels of data are shown without what they have in brackets.
LABEL_LENGTH = 40


@dataclass(frozen=True)
class Evidence:
    """The sorted records of a suite, or of some of its sweeps, and these grouped by setting.

    ``tasks`` has the titles of the tasks that have records, in the order in which they are shown.
    """

    suite: str
    tasks: dict[str, str]
    records: list[Record]
    settings: list[Setting]

    @classmethod
    def collect(
        cls, suite: str, tasks: Mapping[str, str], entries: Iterable[Mapping[str, Any]]
    ) -> Evidence:
        """Read entries of ``metrics.json``; tasks without a title are shown by their key, last."""
        return cls._of(suite, tasks, read_records(entries))

    @classmethod
    def _of(cls, suite: str, tasks: Mapping[str, str], records: list[Record]) -> Evidence:
        measured = list(dict.fromkeys(record.task for record in records))
        shown = {key: title for key, title in tasks.items() if key in measured}
        shown.update({key: key for key in measured if key not in shown})
        return cls(suite, shown, records, group_settings(records))

    def sweeps(self, *names: str) -> Evidence:
        """The records of some sweeps only."""
        return self._of(self.suite, self.tasks, [r for r in self.records if r.sweep in names])

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

    def metric(self, task: str) -> str:
        """Name of the metric that is the task's accuracy."""
        return self.of_task(task)[0].metric

    def metric_of_all(self, tasks: Iterable[str]) -> str:
        """One name for the metrics of some tasks: "accuracy" for every kind of accuracy."""
        metrics = {self.metric(task) for task in tasks}
        if all(metric.endswith("accuracy") for metric in metrics):
            return "accuracy"
        return metrics.pop() if len(metrics) == 1 else "test metric"

    def other_metrics(self) -> list[str]:
        """Names of the metrics that some task has beside its accuracy."""
        return list(dict.fromkeys(name for r in self.records for name in r.other_metrics))

    def data(self, task: str) -> str:
        """The data that a task was measured on."""
        return self.of_task(task)[0].dataset

    def data_in_short(self, task: str) -> str:
        """The same; a long label without what it has in brackets."""
        data = self.data(task)
        return data if len(data) <= LABEL_LENGTH else data.split(" (")[0]

    def common_data(self, tasks: Iterable[str]) -> str | None:
        """The data of some tasks, shortened, if it is the same for all of them."""
        labels = {self.data_in_short(task) for task in tasks}
        return labels.pop() if len(labels) == 1 else None

    def name(self, task: str) -> str:
        """Title of a task that names its data."""
        data, title = self.data_in_short(task), self.tasks[task]
        return title if data in title else f"{title} on {data}"

    def seeds_per_setting(self) -> list[int]:
        """The distinct numbers of seeds that settings have, ascending."""
        return sorted({len(setting.records) for setting in self.settings})

    def notes(self, tasks: Iterable[str]) -> str:
        """What some tasks were measured on, one sentence for all that were measured alike."""
        return " ".join(describe((self.tasks[t], source_of(self.of_task(t))) for t in tasks))
