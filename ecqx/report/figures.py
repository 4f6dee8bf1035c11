"""The figures of curves: accuracy, sparsity and file size of every setting, a panel a task.

Ordinates of accuracy cover the same number of points in all panels of a figure, so that slopes can
be compared; what lies further below is out of sight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecqx.report.charts import FRONTS, RUNS, SPREAD, Axis, Chart, Row, curves, short
from ecqx.report.columns import ACCURACY, MEASURES, RATIO, SIZE, SPARSITY, measures
from ecqx.report.comparison import Comparison
from ecqx.report.evidence import Evidence
from ecqx.report.records import (
    FIXED,
    GRID,
    GRID_METHODS,
    METHODS,
    PAPER_METHOD,
    TRAINED_METHODS,
    Record,
    Setting,
)
from ecqx.report.render import Figure, Panel
from ecqx.report.selection import flat, front, over_seeds, widths
from ecqx.report.statistics import Estimate
from ecqx.report.style import FRONT, FULL_PRECISION, PUBLISHED
from ecqx.report.sweeps import p_settings
from ecqx.report.yardstick import VERDICTS, Counterpart, Yardstick

# Points of accuracy below full precision that are in sight, or below the best setting if that is
# lower.
DEPTH = 10.0
# Methods that share a panel of the comparison, beside ECQx.
_FREE = tuple(m for m in METHODS if m not in (*GRID_METHODS, *TRAINED_METHODS, *FIXED, "torchao"))
GROUPS = (
    *(("ECQ",), TRAINED_METHODS[:2], TRAINED_METHODS[2:]),
    *(_FREE[:2], _FREE[2:], ("torchao", *FIXED)),
)
LABELS = {"setting": "setting", **{c.key: c.header for c in MEASURES}, "seeds": "seed"}


@dataclass(frozen=True)
class Quantity:
    """What an axis shows of a setting, and its title; "metric" stands for the task's own."""

    title: str
    of: Callable[[Setting], Estimate]
    top: float = math.inf


ACCURACIES = Quantity("metric (%)", lambda s: s.mean("accuracy").scaled(100), 100.0)
CHANGE = Quantity("change of metric (points)", lambda s: s.drop().negated().scaled(100))
SPARSITIES = Quantity("sparsity (%)", lambda s: s.mean("sparsity").scaled(100), 100.0)
SIZES = Quantity("file size (kB)", lambda s: s.mean("bytes").scaled(1e-3))
RATIOS = Quantity("compression ratio", lambda s: s.mean("compression_ratio"))
LAMBDA = Quantity("Λ", lambda s: Estimate(s.lam))


@dataclass(frozen=True)
class Case:
    """The settings of one panel, and what stands beside them."""

    title: str
    settings: list[Setting]
    published: Sequence[Yardstick] = ()
    front: Sequence[Setting] = ()


def build_curve_figures(evidence: Evidence, counterparts: Sequence[Counterpart]) -> list[Figure]:
    """All figures of the paper's sweeps that there are settings for."""
    made = [
        accuracy_against_sparsity(evidence),
        *(each_bit_width(evidence, task) for task in evidence.tasks),
        accuracy_against_size(evidence),
        influence_of_p(evidence),
        influence_of_batchnorm(evidence),
        along_lambda(evidence, "sparsity", SPARSITIES),
        along_lambda(evidence, "ratio", RATIOS),
        yardstick_figure(evidence, counterparts),
    ]
    return [figure for figure in made if figure is not None]


# -- figures ---------------------------------------------------------------------------------------


def accuracy_against_sparsity(evidence: Evidence) -> Figure | None:
    """One panel per task, at the bit width that stands for it."""
    cases = _each_task(evidence)
    title = f"{_titled(evidence.metric_of_all(_tasks(cases)))} against sparsity"
    return _figure(evidence, "accuracy_sparsity", title, _ALONG, cases, SPARSITIES, ACCURACIES)


_ALONG = "Each mark is one Λ; the larger, the further right."


def each_bit_width(evidence: Evidence, task: str) -> Figure | None:
    """One panel per bit width of a task that was measured at several."""
    bits = evidence.bits(task)
    cases = [Case(f"{width} bit", evidence.of(task, bits=width)) for width in bits]
    title = f"{_titled(evidence.metric_of_all([task]))} against sparsity: {evidence.tasks[task]}"
    name = f"accuracy_sparsity_{task}"
    return (
        _figure(evidence, name, title, _ALONG, cases, SPARSITIES, ACCURACIES)
        if len(bits) > 1
        else None
    )


def influence_of_p(evidence: Evidence) -> Figure | None:
    """Accuracy against sparsity, a panel for each p, with ECQ in all of them."""
    series = [(task, p_settings(evidence, task)) for task in evidence.tasks]
    tasks = [task for task, found in series if found]
    cases = []
    for task, found in series:
        reference = [setting for p, own in found if p is None for setting in own]
        for p, own in found:
            if p is not None:
                detail = f"p = {p:g}, {own[0].bits} bit"
                cases.append(Case(_heading(evidence, task, detail, tasks), [*reference, *own]))
    caption = f"ECQx may add at most p to the sparsity of ECQ. {_ALONG}"
    return _figure(
        evidence, "influence_of_p", "Influence of p", caption, cases, SPARSITIES, ACCURACIES
    )


def influence_of_batchnorm(evidence: Evidence) -> Figure | None:
    """Change of accuracy against sparsity, the same network without and with BatchNorm."""
    cases = []
    for pair in evidence.pairs():
        bits = evidence.reference_bits(pair[1])
        for task, word in zip(pair, ("without", "with"), strict=True):
            detail = f"{word} BatchNorm, {bits} bit"
            heading = _heading(evidence, pair[0], detail, pair)
            cases.append(Case(heading, evidence.of(task, GRID, bits=bits)))
    cases = [case for case in cases if case.settings]
    caption = "Change against the same network trained as long in full precision."
    return _figure(
        *(evidence, "influence_of_batchnorm", "Influence of BatchNorm"),
        *(f"{caption} {_ALONG}", cases, SPARSITIES, CHANGE),
    )


def along_lambda(evidence: Evidence, name: str, y: Quantity) -> Figure | None:
    """A quantity over Λ, one panel per task."""
    cases = [case for case in _each_task(evidence) if len({s.lam for s in case.settings}) > 1]
    title = f"{_titled(y.title.split(' (')[0])} along Λ"
    caption = (
        "Λ weighs information against distance: the larger, the sparser and smaller. The scale of "
        "Λ is logarithmic, and linear below the smallest positive one."
    )
    return _figure(evidence, f"{name}_lambda", title, caption, cases, LAMBDA, y)


def accuracy_against_size(evidence: Evidence) -> Figure | None:
    """Every setting of the grid and the Pareto fronts, chosen by validation accuracy."""
    tasks = [task for task in evidence.tasks if evidence.of(task)]
    cases = []
    for task in tasks:
        settings = evidence.of(task)
        detail = f"{settings[0].first.bytes_fp32 / 1000:,.0f} kB in 32 bit"
        cases.append(Case(_heading(evidence, task, detail, tasks), settings))
    title = f"{_titled(evidence.metric_of_all(tasks))} against file size"
    caption = (
        "Every setting of the grid. Lines join the settings of a method that no other one of it "
        "beats in both size and validation accuracy, the Pareto front; shown is their test "
        "accuracy, so that a line may fall."
    )
    return _figure(evidence, "accuracy_size", title, caption, cases, SIZES, ACCURACIES, fronts=True)


def yardstick_figure(evidence: Evidence, counterparts: Sequence[Counterpart]) -> Figure | None:
    """Accuracy against size of each task and bit width, with the published results in it."""
    theirs = list(dict.fromkeys(c.yardstick for c in counterparts))
    tasks = [one.task for one in theirs]
    cases = [
        Case(
            _heading(evidence, task, f"{bits} bit", tasks),
            evidence.of(task, GRID, bits=bits),
            [one for one in theirs if (one.task, one.bits) == (task, bits)],
        )
        for task, bits in dict.fromkeys((one.task, one.bits) for one in theirs)
    ]
    caption = (
        "Ours along Λ, and the results of the published algorithm as stars in the colour of their "
        "method. Further left and higher is better; what the sizes count stands with the table."
    )
    words = "; ".join(
        f"{evidence.name(c.yardstick.task)}, {c.yardstick.method}, Λ {c.yardstick.lam:g} "
        f"({c.ours}): {VERDICTS[c.best.grade]}"
        for c in counterparts
    )
    return _figure(
        *(evidence, "yardstick", "Beside the published algorithm", caption, cases),
        *(SIZES, ACCURACIES),
        more=f"Whether a point of ours is at least as good in both: {words}.",
    )


def comparison_figure(comparison: Comparison) -> Figure:
    """Accuracy against size of all methods, a few of them a panel, each beside ECQx."""
    evidence = comparison.evidence
    cases, words = [], []
    for task in comparison.tasks:
        every = comparison.of(task)
        best = front(every)
        measured = comparison.methods(task)
        for group in GROUPS:
            others = [method for method in group if method in measured]
            own = [s for s in every if s.method in (*others, PAPER_METHOD)]
            if others:
                detail = ", ".join(others)
                heading = _heading(evidence, task, detail, comparison.tasks)
                cases.append(Case(heading, own, front=best))
        methods = ", ".join(dict.fromkeys(trial.method for trial in best))
        ends = " to ".join(_place(setting) for setting in (best[0], best[-1]))
        words.append(f"{comparison.tasks[task]}: the Pareto front of all goes from {ends} ({methods}).")
    if not cases:
        cases = [
            Case(comparison.tasks[task], comparison.of(task), front=front(comparison.of(task)))
            for task in comparison.tasks
        ]
    caption = (
        "Every trial, a few methods a panel, ECQx in all of them. Lines join the trials of a method "
        "that no other trial of it beats in both mean size and mean validation accuracy; the wide "
        "band joins those that no trial of any method beats. Shown is the test accuracy, so that a "
        "line may fall. Further left and higher is better."
    )
    figure = _figure(
        *(evidence, "comparison", "Accuracy against file size: all methods", caption, cases),
        *(SIZES, ACCURACIES),
        fronts=True,
        more=" ".join(words),
    )
    assert figure is not None
    return figure


# -- their parts -----------------------------------------------------------------------------------


def _each_task(evidence: Evidence) -> list[Case]:
    """One case per task, at the bit width that stands for it."""
    chosen = {
        task: evidence.of(task, bits=bits)
        for task in evidence.tasks
        if (bits := evidence.reference_bits(task)) is not None
    }
    return [
        Case(_heading(evidence, task, f"{own[0].bits} bit", chosen), own)
        for task, own in chosen.items()
    ]


def _tasks(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(setting.task for case in cases for setting in case.settings))


def _figure(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    cases: Sequence[Case],
    x: Quantity,
    y: Quantity,
    *,
    fronts: bool = False,
    more: str = "",
) -> Figure | None:
    """A figure with one panel a case; None where there is no case."""
    if not cases:
        return None
    shown = [setting for case in cases for setting in case.settings]
    relative = y in (ACCURACIES, CHANGE)
    all_rows = [_rows(case, x, y, fronts) for case in cases]
    windows = _windows(cases, all_rows) if relative else [_span(all_rows, "y")] * len(cases)
    bits = [f"{width} bit" for width in widths(shown)] if fronts else []
    if any(setting.bits is None for setting in shown):
        bits = []
    series = [method for method in METHODS if any(s.method == method for s in shown)]
    series += [FULL_PRECISION] if relative else []
    series += [FRONT] if any(case.front for case in cases) else []
    series += [PUBLISHED] if any(case.published for case in cases) else []
    runs = any(row["kind"] == "run" for rows in all_rows for row in rows)
    hidden = (RUNS,) if runs else ()
    panels = []
    for case, rows, window in zip(cases, all_rows, windows, strict=True):
        metric = evidence.metric(case.settings[0].task)
        y_axis = Axis(y.title.replace("metric", metric), window, _scale(y))
        # Sizes of other tasks say nothing about one.
        alike = [
            own
            for other, own in zip(cases, all_rows, strict=True)
            if x is not SIZES or other.settings[0].task == case.settings[0].task
        ]
        chart = curves(
            *(rows, _axis(x, alike, window[0], case.settings), y_axis, series, LABELS),
            **{"widths": bits, "fronts": fronts, "hidden": hidden},
        )
        panels.append(Panel(case.title, chart))
    marks = [SPREAD, *([FRONTS] if fronts else []), *hidden]
    switches = {"Series": series, "Bit widths": bits if len(bits) > 1 else [], "Show": marks}
    tasks = _tasks(cases)
    notes = [_subtitle(evidence, shown), caption, evidence.notes(tasks)]
    if relative:
        notes[2:2] = [_reference_words(shown), _out_of_sight(all_rows, windows)]
    alt = f"Curves of {y.title.replace('metric', 'the metric')} over {x.title}. {more} "
    alt += " ".join(_in_words(case, y) for case in cases)
    return Figure(name, title, " ".join(filter(None, notes)), alt, panels, switches, hidden)


def _heading(evidence: Evidence, task: str, detail: str, among: Iterable[str]) -> str:
    """Title of a panel: task, its data where the figure's tasks differ in that, and the detail."""
    data, title = evidence.data_in_short(task), evidence.tasks[task]
    differ = evidence.common_data(among) is None and data not in title
    return f"{title}, {data}, {detail}" if differ else f"{title}, {detail}"


def _titled(text: str) -> str:
    return text[:1].upper() + text[1:]


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
        **{c.key: c.text(cell) for c, cell in zip(MEASURES, measures(setting), strict=True)},
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
    cells = {ACCURACY: run.accuracy, SPARSITY: run.sparsity, SIZE: run.bytes}
    return {
        "kind": "run",
        "series": setting.method,
        "width": f"{setting.bits} bit",
        "x": short(run.bytes / 1000),
        "y": short(100 * run.accuracy),
        "setting": f"{_words(setting)}, run {run.run_id}",
        **{column.key: column.text(cell) for column, cell in cells.items()},
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
        ACCURACY.key: ACCURACY.text(one.accuracy),
        SPARSITY.key: SPARSITY.text(one.sparsity),
        SIZE.key: SIZE.text(one.bytes),
    }


# -- scales ----------------------------------------------------------------------------------------


def _scale(quantity: Quantity) -> str:
    return "log" if quantity in (SIZES, RATIOS) else "linear"


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
    return Axis(x.title, _span(alike, "x", log=_scale(x) == "log"), _scale(x))


def _span(panels: Sequence[list[Row]], axis: str, log: bool = False) -> tuple[float, float]:
    """All marks of some panels, with a little room around them."""
    keys = (axis, f"{axis}0", f"{axis}1")
    values = [row[key] for rows in panels for row in rows for key in keys if key in row]
    low, high = min(values), max(values)
    if log:
        return low / 1.12, high * 1.12
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _windows(cases: Sequence[Case], panels: Sequence[list[Row]]) -> list[tuple[float, float]]:
    """Ordinates of the panels, all of the same length.

    The length is that of the panel that needs most, at most `DEPTH` below the line of full
    precision or below the best mark, whichever is lower. Panels of a task end at the same height,
    unless one is so low that half of it would be empty.
    """
    ends = [_needed(rows) for rows in panels]
    tops: dict[str, float] = {}
    for case, (_, high) in zip(cases, ends, strict=True):
        task = case.settings[0].task
        tops[task] = max(tops.get(task, high), high)
    placed = []
    for case, (low, high) in zip(cases, ends, strict=True):
        top = tops[case.settings[0].task]
        placed.append((low, top if top - high < DEPTH / 2 else high))
    length = max(high - low for low, high in placed) or 1.0
    room = 0.03 * length
    return [(high - length - room, high + room) for _, high in placed]


def _needed(rows: Sequence[Row]) -> tuple[float, float]:
    """From the lowest to the highest mark of a panel, as far as they shall be in sight."""
    full = next(row for row in rows if row["kind"] == "reference")
    marks = [row for row in rows if row["kind"] in ("point", "published")]
    best = max(row["y"] for row in marks)
    floor = min(full["y"], best) - DEPTH
    shown = [row for row in (*marks, full) if floor <= row["y"] <= best + DEPTH]
    low = min(row.get("y0", row["y"]) for row in shown)
    return max(floor, low), max(row.get("y1", row["y"]) for row in shown)


# -- words -----------------------------------------------------------------------------------------


def _subtitle(evidence: Evidence, settings: Sequence[Setting]) -> str:
    """Suite, data if all tasks have the same, and number of seeds."""
    seeds = sorted({len(setting.records) for setting in settings})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"mean ± deviation over {count} seeds" if seeds != [1] else "one seed, no deviation"
    return f"{suite_and_data(evidence, [s.task for s in settings])}, {spread}."


def suite_and_data(evidence: Evidence, tasks: Sequence[str]) -> str:
    """Suite, and data if all tasks have the same and their titles do not name it."""
    data = evidence.common_data(tasks)
    if data is None or all(data in evidence.tasks[task] for task in tasks):
        return f"Suite {evidence.suite}"
    return f"Suite {evidence.suite}, {data}"


def _reference_words(settings: Sequence[Setting]) -> str:
    several = any(len(setting.records) > 1 for setting in settings)
    band = ", its band the deviation over seeds" if several else ""
    return f"The dotted line is the same checkpoint trained as long in full precision{band}."


def _out_of_sight(panels: Sequence[list[Row]], windows: Sequence[tuple[float, float]]) -> str:
    """How many settings lie below the panels."""
    marks = [
        (row["setting"], row["y"] < window[0])
        for rows, window in zip(panels, windows, strict=True)
        for row in rows
        if row["kind"] == "point"
    ]
    below = sum(out for _, out in marks)
    if not below:
        return ""
    return (
        f"All panels cover as many points of accuracy; {below} of {len(marks)} marks lie further "
        f"down than {DEPTH:g} points below full precision, or below the best mark, out of sight."
    )


def _in_words(case: Case, y: Quantity) -> str:
    """Where the curves of one panel begin and end."""
    parts = []
    for method in METHODS:
        own = [s for s in case.settings if s.method == method]
        if own:
            ends = own if len(own) == 1 else (own[0], own[-1])
            parts.append(f"{method} from " + " to ".join(f"{y.of(s).mean:.1f} at {s.first.words}" for s in ends))
    return f"{case.title}: {'; '.join(parts)}."


def _place(setting: Setting) -> str:
    return f"{SIZES.of(setting).mean:.1f} kB with {ACCURACIES.of(setting).mean:.1f} %"
