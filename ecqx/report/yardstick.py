"""Results of the published code (the published reference) beside ours.

Each is compared with our setting of the same Λ, and with the nearest point of our curve: the
accuracy at the published file size, interpolated linearly over file size between measured Λ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ecqx.errors import InputError
from ecqx.report import columns as col
from ecqx.report.columns import row, spread_in_words, table
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column, Row, Table
from ecqx.report.records import ABLATION, GRID, Setting
from ecqx.report.selection import by_seed, flat
from ecqx.report.statistics import Estimate, estimate, grouped
from ecqx.report.verdicts import MARGIN_TEXT, Verdict, judge_gain

SIZES = (
    "What is counted: ours is the whole file, header, names, steps and all other values as raw "
    "float32 included; published are NNCodec's integers, its lossy floats and 4 bytes a step. "
    "Whole files are compared, to our disadvantage; our integers alone stand beside them and are "
    "less than what the published sizes count."
)


@dataclass(frozen=True)
class Yardstick:
    """One result of the published code; accuracy and sparsity are fractions of one."""

    task: str
    method: str
    bits: int
    lam: float
    accuracy: float
    sparsity: float
    bytes: int


@dataclass(frozen=True)
class Counterpart:
    """A published result beside our settings along Λ: the suite's, or those of a variant."""

    yardstick: Yardstick
    ours: str
    settings: list[Setting]

    @property
    def same(self) -> Setting | None:
        """Ours at the same Λ, if it was measured."""
        return next((s for s in self.settings if s.lam == self.yardstick.lam), None)

    def nearest(self) -> list[tuple[float, float]]:
        """Size in bytes and accuracy of our curve's point nearest to the published size, by seed.

        It has the published size or, beyond the measured sizes, is the smallest or largest file.
        """
        points = []
        for runs in by_seed(flat(self.settings)).values():
            ours = np.array(sorted((run.bytes, run.accuracy) for run in runs)).T
            size = np.clip(self.yardstick.bytes, ours[0, 0], ours[0, -1])
            points.append((float(size), float(np.interp(size, *ours))))
        return points

    @property
    def difference(self) -> Estimate:
        """Accuracy of the nearest point minus the published one.

        The published result is one run, so its spread counts beside that of our mean: as if it were
        one run more of ours.
        """
        found = estimate(accuracy - self.yardstick.accuracy for _, accuracy in self.nearest())
        if found.low is None or found.high is None:
            return found
        half = (found.high - found.mean) * math.sqrt(found.n + 1)
        return replace(found, low=found.mean - half, high=found.mean + half)

    @property
    def verdict(self) -> Verdict:
        """Whether ours is at least as accurate at the published size.

        Inconclusive where the nearest point is better, but larger, or worse, but smaller.
        """
        verdict, theirs = judge_gain(self.difference), self.yardstick.bytes
        size = estimate(size for size, _ in self.nearest()).mean
        unfair = size > theirs if verdict is Verdict.HOLDS else size < theirs
        return Verdict.OPEN if unfair else verdict


def counterparts_of(evidence: Evidence, rows: Sequence[Mapping[str, Any]]) -> list[Counterpart]:
    """Our curves of the same task, method and bit width beside each published result.

    Raises
    ------
    InputError
        If a row lacks a key, or no run of ours can be compared with it.
    """
    return [counterpart for row in rows for counterpart in _counterparts(evidence, _read(row))]


def _read(row: Mapping[str, Any]) -> Yardstick:
    names = [field.name for field in fields(Yardstick)]
    for name in names:
        if name not in row:
            raise InputError(f"report.yardsticks: '{name}' is missing")
    return Yardstick(**{name: row[name] for name in names})


def _counterparts(evidence: Evidence, yardstick: Yardstick) -> Iterator[Counterpart]:
    of = (yardstick.task, yardstick.method, yardstick.bits)
    settings = [s for sweep in (GRID, ABLATION) for s in evidence.of(of[0], sweep, *of[1:])]
    if not settings:
        raise InputError(
            f"report.yardsticks: task {yardstick.task} has no {yardstick.method} runs of "
            f"{yardstick.bits} bit to compare; quantize.tasks must have them"
        )
    for variant, curve in grouped(settings, lambda setting: setting.variant).items():
        found = Counterpart(yardstick, variant or "settings of the suite", curve)
        # A variant that was measured at another Λ is no counterpart.
        if variant is None or found.same:
            yield found


def yardstick_table(evidence: Evidence, counterparts: Sequence[Counterpart]) -> Table:
    """The published numbers, ours at the same Λ, and ours at the published file size."""
    caption = (
        "Results of the published code, repaired so that it trains on a CPU, beside ours of the "
        "same method and bit width: at the same Λ, and at the published file size, where our "
        "accuracy is interpolated linearly over file size between measured Λ, per seed; beyond the "
        f"measured sizes our smallest or largest file is taken. {spread_in_words(evidence)}; the "
        "difference has its 95 % interval, in which the published run, of which there is one, "
        "scatters as ours do. The verdict is on ours being at least as accurate at "
        f"the published size: it holds if the interval lies above −{MARGIN_TEXT}, does not hold if "
        "it lies wholly below, and is otherwise inconclusive, as it is where our file is larger, "
        f"or smaller and less accurate. {SIZES}"
    )

    def published(column: Column) -> Column:
        header = column.header.replace(" (", ", published (")
        return replace(column, key=f"published_{column.key}", header=header, kind="number")

    columns = (
        *(col.METHOD, col.BITS, col.LAMBDA, Column("ours", "ours")),
        *(published(col.ACCURACY), col.ACCURACY),
        *(replace(column, paper="no") for column in (published(col.SPARSITY), col.SPARSITY)),
        *(published(col.SIZE), col.SIZE),
        replace(col.SIZE, key="integers_kb", header="integers alone (kB)", paper="no"),
        replace(col.SIZE, key="nearest_size_kb", header="nearest size (kB)"),
        replace(col.ACCURACY, key="nearest_accuracy_percent", header="accuracy there (%)"),
        Column("difference_points", "difference there (points)", "interval", 2, 100),
        Column("verdict", "at least as accurate"),
    )
    title = "Beside the published code"
    return table(evidence, "yardstick", title, caption, columns, map(_row, counterparts))


def _row(counterpart: Counterpart) -> Row:
    theirs, same = counterpart.yardstick, counterpart.same
    names = ("accuracy", "sparsity", "bytes", "bytes_integers")
    accuracy, sparsity, size, integers = (same.mean(name) if same else None for name in names)
    return row(
        flat(counterpart.settings),
        *(theirs.method, theirs.bits, f"{theirs.lam:g}", counterpart.ours),
        *(theirs.accuracy, accuracy, theirs.sparsity, sparsity, theirs.bytes, size, integers),
        *map(estimate, zip(*counterpart.nearest(), strict=True)),
        *(counterpart.difference, counterpart.verdict.value),
    )
