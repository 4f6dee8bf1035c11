"""Panels of curves: what each setting is drawn as, and the scales that panels of a figure share.

Ordinates of accuracy cover the same number of points in all panels of a figure, so that slopes can
be compared; what lies further below is out of sight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ecqx.report.charts import FRONTS, RUNS, SPREAD, Axis, Row, curves, short
from ecqx.report.columns import ACCURACY, MEASURES, SIZE, SPARSITY
from ecqx.report.records import METHODS, Record, Setting
from ecqx.report.render import Panel
from ecqx.report.selection import flat, over_seeds, widths
from ecqx.report.statistics import Estimate
from ecqx.report.style import FRONT, FULL_PRECISION, PUBLISHED
from ecqx.report.yardstick import Yardstick

# Points of accuracy below full precision that are in sight, or below the best setting if that is
# lower.
DEPTH = 10.0
LABELS = {"setting": "setting", **{c.key: c.header for c in MEASURES}, "seeds": "seed"}
Window = tuple[float, float]


@dataclass(frozen=True)
class Quantity:
    """What an axis shows of a setting, and its title; "metric" stands for the task's own."""

    title: str
    of: Callable[[Setting], Estimate]
    top: float = math.inf
    scale: Literal["linear", "log"] = "linear"


ACCURACIES = Quantity("metric (%)", lambda s: s.mean("accuracy").scaled(100), 100.0)
CHANGE = Quantity("change of metric (points)", lambda s: s.mean("drop").scaled(-100))
SPARSITIES = Quantity("sparsity (%)", lambda s: s.mean("sparsity").scaled(100), 100.0)
SIZES = Quantity("file size (kB)", lambda s: s.mean("bytes").scaled(1e-3), scale="log")
RATIOS = Quantity("compression ratio", lambda s: s.mean("compression_ratio"), scale="log")
LAMBDA = Quantity("Λ", lambda s: Estimate(s.lam))


@dataclass(frozen=True)
class Case:
    """The settings of one panel, all of one task, and what stands beside them."""

    title: str
    settings: list[Setting]
    published: Sequence[Yardstick] = ()
    front: Sequence[Setting] = ()

    @property
    def task(self) -> str:
        """The task of all its settings."""
        return self.settings[0].task


class Curves(NamedTuple):
    """The panels of a figure, what a reader can hide, and how many marks are out of sight."""

    panels: list[Panel]
    switches: dict[str, list[str]]
    hidden: tuple[str, ...]
    below: int
    marks: int


def draw(cases: Sequence[Case], x: Quantity, y: Quantity, fronts: bool = False) -> Curves:
    """One panel a case; with ``fronts`` lines join Pareto-optimal settings, else all along Λ."""
    settings = [setting for case in cases for setting in case.settings]
    every = [_rows(case, x, y, fronts) for case in cases]
    relative = y in (ACCURACIES, CHANGE)
    windows = _windows(cases, every) if relative else [_span(every, "y")] * len(cases)
    numbered = fronts and all(setting.bits is not None for setting in settings)
    bits = [f"{width} bit" for width in widths(settings)] if numbered else []
    series = [method for method in METHODS if any(s.method == method for s in settings)]
    series += [FULL_PRECISION] if relative else []
    series += [FRONT] if any(case.front for case in cases) else []
    series += [PUBLISHED] if any(case.published for case in cases) else []
    panels = []
    for case, rows, window in zip(cases, every, windows, strict=True):
        # Sizes of other tasks say nothing about one.
        alike = [
            other
            for one, other in zip(cases, every, strict=True)
            if x is not SIZES or one.task == case.task
        ]
        across = _axis(x, alike, window[0], case.settings)
        up = Axis(y.title.replace("metric", case.settings[0].first.metric), window, y.scale)
        chart = curves(rows, across, up, series, LABELS, widths=bits, fronts=fronts)
        panels.append(Panel(case.title, chart))
    hidden = (RUNS,) if any(row["kind"] == "run" for rows in every for row in rows) else ()
    switches = {
        "Series": series,
        "Bit widths": bits if len(bits) > 1 else [],
        "Show": [SPREAD, *([FRONTS] if fronts else []), *hidden],
    }
    below = sum(
        row["y"] < window[0]
        for rows, window in zip(every, windows, strict=True)
        for row in rows
        if row["kind"] == "point"
    )
    return Curves(panels, switches, hidden, below, len(settings))


# -- rows ------------------------------------------------------------------------------------------


def _rows(case: Case, x: Quantity, y: Quantity, fronts: bool) -> list[Row]:
    """What a panel draws, as rows of `curves`."""
    rows = [_point(setting, x, y) for setting in case.settings]
    rows += [_front_row(setting, x, y) for setting in case.front]
    rows += [_published_row(one) for one in case.published]
    if fronts and not case.front:
        rows += [_run_row(setting, run) for setting in case.settings for run in setting.records]
    if y is CHANGE:
        rows.append({"kind": "reference", "series": FULL_PRECISION, "y": 0.0, "y0": 0.0, "y1": 0.0})
    elif y is ACCURACIES:
        full = over_seeds(flat(case.settings), "accuracy_fp32").scaled(100)
        rows.append({"kind": "reference", "series": FULL_PRECISION, **_spread("y", full, 100.0)})
    return rows


def _point(setting: Setting, x: Quantity, y: Quantity) -> Row:
    return {
        "kind": "point",
        "series": setting.method,
        "width": f"{setting.bits} bit",
        **_spread("x", x.of(setting), x.top),
        **_spread("y", y.of(setting), y.top),
        "order": None if math.isnan(setting.lam) else setting.lam,
        "bytes": short(setting.mean("bytes").mean, 9),
        "validation": short(setting.mean("accuracy_validation").mean, 9),
        "setting": _words(setting),
        **{column.key: column.text(column.of(setting)) for column in MEASURES},
        "seeds": ", ".join(str(run.seed) for run in setting.records),
    }


def _words(setting: Setting) -> str:
    """Method, bit width, Λ, p and variant, as far as a setting has them."""
    p = f", p {setting.p:g}" if setting.p is not None else ""
    return f"{setting.method}, {setting.first.words}{p}"


def _spread(axis: str, value: Estimate, top: float) -> Row:
    """The mean, and one standard deviation to both sides as far as the quantity goes."""
    deviation = value.sd or 0.0
    low, high = value.mean - deviation, min(value.mean + deviation, top)
    return {axis: short(value.mean), f"{axis}0": short(low), f"{axis}1": short(high)}


def _run_row(setting: Setting, run: Record) -> Row:
    return {
        "kind": "run",
        "series": setting.method,
        "width": f"{setting.bits} bit",
        "x": short(run.bytes / 1000),
        "y": short(100 * run.accuracy),
        "setting": f"{_words(setting)}, run {run.run_id}",
        **_tips(run),
        "seeds": str(run.seed),
    }


def _front_row(setting: Setting, x: Quantity, y: Quantity) -> Row:
    place = {"x": short(x.of(setting).mean), "y": short(y.of(setting).mean)}
    return {"kind": "front", "series": FRONT, "order": place["x"], **place}


def _published_row(one: Yardstick) -> Row:
    return {
        **{"kind": "published", "series": one.method, "width": f"{one.bits} bit"},
        **{"x": one.bytes / 1000, "y": short(100 * one.accuracy)},
        "setting": f"{PUBLISHED} {one.method}, {one.bits} bit, Λ {one.lam:g}",
        **_tips(one),
    }


def _tips(one: Record | Yardstick) -> Row:
    cells = {ACCURACY: one.accuracy, SPARSITY: one.sparsity, SIZE: one.bytes}
    return {column.key: column.text(cell) for column, cell in cells.items()}


# -- scales ----------------------------------------------------------------------------------------


def _axis(x: Quantity, alike: Sequence[list[Row]], low: float, settings: Sequence[Setting]) -> Axis:
    """The abscissa of a panel, the same for all panels that are ``alike``."""
    if x is LAMBDA:
        every = {row["x"] for rows in alike for row in rows if row["kind"] == "point"}
        if any(lam > 0 for lam in every):
            ticks = sorted({setting.lam for setting in settings})
            least = min(lam for lam in every if lam > 0)
            domain = (min(every) - 0.1 * least, 1.1 * max(every))
            return Axis(x.title, domain, "symlog", ticks, least)
    if x is SIZES:
        alike = [[row for row in rows if row["y"] >= low] for rows in alike]
    return Axis(x.title, _span(alike, "x", log=x.scale == "log"), x.scale)


def _span(panels: Sequence[list[Row]], axis: str, log: bool = False) -> Window:
    """All marks of some panels, with a little room around them."""
    keys = (axis, f"{axis}0", f"{axis}1")
    values = [row[key] for rows in panels for row in rows for key in keys if key in row]
    low, high = min(values), max(values)
    if log:
        return low / 1.12, high * 1.12
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _windows(cases: Sequence[Case], panels: Sequence[list[Row]]) -> list[Window]:
    """Ordinates of the panels, all of the same length.

    The length is that of the panel that needs most, at most `DEPTH` below the line of full
    precision or below the best mark, whichever is lower. Panels of a task end at the same height,
    unless one is so low that half of it would be empty.
    """
    ends = [_needed(rows) for rows in panels]
    placed = []
    for case, (low, high) in zip(cases, ends, strict=True):
        of_task = (end for one, (_, end) in zip(cases, ends, strict=True) if one.task == case.task)
        top = max(of_task)
        placed.append((low, top if top - high < DEPTH / 2 else high))
    length = max(high - low for low, high in placed) or 1.0
    room = 0.03 * length
    return [(high - length - room, high + room) for _, high in placed]


def _needed(rows: Sequence[Row]) -> Window:
    """From the lowest to the highest mark of a panel, as far as they shall be in sight."""
    full = next(row for row in rows if row["kind"] == "reference")
    marks = [row for row in rows if row["kind"] in ("point", "published")]
    best = max(row["y"] for row in marks)
    floor = min(full["y"], best) - DEPTH
    shown = [row for row in (*marks, full) if floor <= row["y"] <= best + DEPTH]
    low = min(row.get("y0", row["y"]) for row in shown)
    return max(floor, low), max(row.get("y1", row["y"]) for row in shown)
