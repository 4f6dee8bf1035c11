"""Results of the published algorithm, and what ours comes to beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ecqx.errors import InputError
from ecqx.report.columns import BITS, LAMBDA, METHOD, row, spread_in_words, table
from ecqx.report.dominance import BySeed, Grade, Point, best_point
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import ABLATION, GRID, Setting
from ecqx.report.selection import flat

VERDICTS = {
    Grade.AS_GOOD: "yes",
    Grade.WITHIN_DEVIATION: "yes, within one deviation",
    Grade.WORSE: "no",
}

SIZES = (
    "What is counted: ours is the whole file, header, names, steps and all other values as raw "
    "float32 included; published are NNCodec's integers, its lossy floats and 4 bytes a step. "
    "Whole files are compared, to our disadvantage; our integers alone stand beside them and are "
    "less than what the published sizes count."
)


@dataclass(frozen=True)
class Yardstick:
    """One result of the published algorithm; accuracy and sparsity are fractions of one."""

    task: str
    method: str
    bits: int
    lam: float
    accuracy: float
    sparsity: float
    bytes: int


@dataclass(frozen=True)
class Counterpart:
    """A result of the published algorithm beside ours.

    Attributes
    ----------
    yardstick : Yardstick
    ours : str
        What our settings are: those of the suite, or the name of an ablation's variant.
    settings : list of Setting
        Along Λ, one or more.
    best : Point
        The point of our curve that compares best; sizes in bytes.
    """

    yardstick: Yardstick
    ours: str
    settings: list[Setting]
    best: Point

    @property
    def same(self) -> Setting | None:
        """Ours at the same Λ, if it was measured."""
        return next((s for s in self.settings if s.lam == self.yardstick.lam), None)


def counterparts_of(evidence: Evidence, rows: Sequence[Mapping[str, Any]]) -> list[Counterpart]:
    """Compare each result with our curves of the same task, method and bit width.

    Parameters
    ----------
    evidence : Evidence
    rows : sequence of mapping
        Results of the published algorithm, with the keys of `Yardstick`.

    Returns
    -------
    list of Counterpart
        In the order of the rows; the suite's own settings before the variants of an ablation.

    Raises
    ------
    InputError
        If a row lacks a key, or none of our curves is there to compare it with.
    """
    return [counterpart for row in rows for counterpart in _counterparts(evidence, _read(row))]


def _read(row: Mapping[str, Any]) -> Yardstick:
    for field in fields(Yardstick):
        if field.name not in row:
            raise InputError(f"report.yardsticks: '{field.name}' is missing")
    return Yardstick(**{field.name: row[field.name] for field in fields(Yardstick)})


def _counterparts(evidence: Evidence, yardstick: Yardstick) -> Iterator[Counterpart]:
    curves: dict[str, list[Setting]] = {}
    for sweep in (GRID, ABLATION):
        for setting in evidence.of(yardstick.task, sweep, yardstick.method, yardstick.bits):
            curves.setdefault(setting.variant or "settings of the suite", []).append(setting)
    if not curves:
        raise InputError(
            f"report.yardsticks: task {yardstick.task} has no {yardstick.method} runs of "
            f"{yardstick.bits} bit to compare; quantize.tasks must have them"
        )
    for ours, settings in curves.items():
        curve = [(setting.lam, _by_seed(setting)) for setting in settings]
        best = best_point(curve, yardstick.bytes, yardstick.accuracy)
        yield Counterpart(yardstick, ours, settings, best)


def _by_seed(setting: Setting) -> BySeed:
    return {run.seed: (run.bytes, run.accuracy) for run in setting.records}


def yardstick_table(evidence: Evidence, counterparts: Sequence[Counterpart]) -> Table:
    """The published numbers, ours at the same Λ, and the best point of our curve."""
    caption = (
        "Results of the published algorithm, repaired so that it trains on a CPU, and ours with "
        f"the same method, bit width and Λ. {spread_in_words(evidence)}. The last columns tell "
        "whether some point of our accuracy–size curve is at least as good in both numbers, by its "
        "means or else with one standard deviation over seeds in favour, and which: a measured Λ "
        "if there is one, else one between two neighbouring Λ, with size and accuracy of each seed "
        "interpolated linearly. Where none is, it is the most accurate point that is no larger, or "
        f"the smallest. {SIZES}"
    )
    columns = (
        *(METHOD, BITS, LAMBDA, Column("ours", "ours")),
        Column("published_accuracy_percent", "accuracy, published (%)", "number", 2, 100),
        Column("accuracy_percent", "accuracy (%)", "spread", 2, 100),
        Column("published_sparsity_percent", "sparsity, published (%)", "number", 1, 100),
        Column("sparsity_percent", "sparsity (%)", "spread", 1, 100),
        Column("published_size_kb", "size, published (kB)", "number", 2, 1e-3),
        Column("size_kb", "size (kB)", "spread", 2, 1e-3),
        Column("integers_kb", "integers alone (kB)", "spread", 2, 1e-3),
        Column("verdict", "as good in both"),
        Column("point", "by the point at Λ"),
        Column("point_accuracy_percent", "its accuracy (%)", "spread", 2, 100),
        Column("point_size_kb", "its size (kB)", "spread", 2, 1e-3),
    )
    rows = [_row(counterpart) for counterpart in counterparts]
    title = "Beside the published algorithm"
    return table(evidence, "yardstick", title, caption, columns, rows)


def _row(counterpart: Counterpart) -> Row:
    theirs, same, best = counterpart.yardstick, counterpart.same, counterpart.best
    names = ("accuracy", "sparsity", "bytes", "bytes_integers")
    ours: list[Cell] = [None] * len(names) if same is None else [same.mean(name) for name in names]
    cells = (
        *(theirs.method, theirs.bits, f"{theirs.lam:g}"),
        *(counterpart.ours, theirs.accuracy, ours[0], theirs.sparsity, ours[1]),
        *(theirs.bytes, ours[2], ours[3]),
        *(VERDICTS[best.grade], point_in_words(best), best.accuracy, best.size),
    )
    return row(flat(counterpart.settings), *cells)


def point_in_words(point: Point) -> str:
    """The Λ of a point, with its neighbours where it was not measured."""
    if point.between is None:
        return f"{point.lam:g}"
    low, high = point.between
    return f"{point.lam:.3g} (between {low:g} and {high:g})"
