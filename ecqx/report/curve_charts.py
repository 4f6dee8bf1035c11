"""The interactive charts of curves: one marker a setting, with its values on hover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ecqx.report.charts import (
    COLOURS,
    DASHES,
    NEUTRAL,
    PAPER,
    SYMBOLS,
    Chart,
    Key,
    Panel,
    Spec,
    axis,
    chart_of,
    short,
)
from ecqx.report.columns import (
    ACCURACY,
    DROP,
    ENTROPY,
    RATIO,
    SIZE,
    SPARSITY,
    measures,
)
from ecqx.report.curves import Quantity, accuracy, change, panel_title, ratio, size, sparsity
from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID, GRID_METHODS, Setting
from ecqx.report.selection import flat, over_seeds
from ecqx.report.statistics import Estimate
from ecqx.report.style import Picture
from ecqx.report.sweeps import p_settings
from ecqx.report.yardstick import Counterpart

# A panel opens with no more than so many points below full precision; a double click shows all.
OPENED = 15.0
FULL_PRECISION = "full precision"


@dataclass(frozen=True)
class Look:
    """How one curve is drawn."""

    label: str
    colour: str
    symbol: str
    dash: str = "solid"
    hollow: bool = False

    @classmethod
    def of(cls, method: str) -> Look:
        """The look that a method has in every chart."""
        return cls(method, COLOURS[method], SYMBOLS[method], DASHES[method])

    def key(self) -> Key:
        """Entry of the chart's key."""
        return Key(
            self.label, self.colour, "square" if self.symbol == "square" else "circle", self.hollow
        )


Series = list[tuple[Look, list[Setting]]]


def by_method(settings: Sequence[Setting]) -> Series:
    """The curves of both methods."""
    every = [(Look.of(m), [s for s in settings if s.method == m]) for m in GRID_METHODS]
    return [(look, own) for look, own in every if own]


def build_curve_charts(
    evidence: Evidence, pictures: Sequence[Picture], counterparts: Sequence[Counterpart]
) -> list[Chart]:
    """A chart for each figure of curves, in the order of the figures."""
    named = {picture.name: picture for picture in pictures}
    made: dict[str, Callable[[Picture], Chart]] = {
        "yardstick": lambda picture: _yardstick(evidence, picture, counterparts),
        "accuracy_sparsity": lambda picture: _each_task(
            evidence, picture, "sparsity (%)", sparsity, accuracy
        ),
        **{
            f"accuracy_sparsity_{task}": partial(_each_width, evidence, task=task)
            for task in evidence.tasks
        },
        "influence_of_p": lambda picture: _influence_of_p(evidence, picture),
        "influence_of_batchnorm": lambda picture: _influence_of_batchnorm(evidence, picture),
        "sparsity_lambda": lambda picture: _each_task(evidence, picture, "Λ", lam, sparsity),
        "ratio_lambda": lambda picture: _each_task(evidence, picture, "Λ", lam, ratio),
    }
    return [make(named[name]) for name, make in made.items() if name in named]


def lam(setting: Setting) -> Estimate:
    """Λ, which has no deviation."""
    return Estimate(setting.lam)


LABELS: dict[Quantity, str] = {sparsity: "sparsity (%)", ratio: "compression ratio (times)"}


def _each_task(
    evidence: Evidence, picture: Picture, x_title: str, x: Quantity, y: Quantity
) -> Chart:
    """One panel per task, at the bit width that stands for it."""
    chosen = [
        (task, evidence.of(task, bits=bits))
        for task in evidence.tasks
        if (bits := evidence.reference_bits(task)) is not None
    ]
    if x is lam:
        chosen = [(task, own) for task, own in chosen if len({s.lam for s in own}) > 1]
    tasks = [task for task, _ in chosen]
    panels = [
        curve_panel(
            _title(evidence, task, f"{own[0].bits} bit", tasks),
            *(by_method(own), x_title, x),
            *(LABELS.get(y, f"{evidence.metric(task)} (%)"), y),
        )
        for task, own in chosen
    ]
    return chart_of(picture, panels, _keys([by_method(own) for _, own in chosen], y is accuracy))


def _each_width(evidence: Evidence, picture: Picture, task: str) -> Chart:
    """One panel per bit width of a task."""
    chosen = [evidence.of(task, bits=bits) for bits in evidence.bits(task)]
    label = f"{evidence.metric(task)} (%)"
    panels = [
        curve_panel(f"{own[0].bits} bit", by_method(own), "sparsity (%)", sparsity, label, accuracy)
        for own in chosen
    ]
    return chart_of(picture, panels, _keys([by_method(own) for own in chosen], True))


def _influence_of_p(evidence: Evidence, picture: Picture) -> Chart:
    chosen = [(task, p_settings(evidence, task)) for task in evidence.tasks]
    chosen = [(task, found) for task, found in chosen if found]
    values = sorted({p for _, found in chosen for p, _ in found if p is not None})
    looks = {p: _p_look(p, i, len(values)) for i, p in enumerate(values)}
    tasks = [task for task, _ in chosen]
    every: list[Series] = []
    panels = []
    for task, found in chosen:
        series = [(Look.of("ECQ") if p is None else looks[p], own) for p, own in found]
        every.append(series)
        title = _title(evidence, task, f"{found[-1][1][0].bits} bit", tasks)
        label = f"{evidence.metric(task)} (%)"
        panels.append(curve_panel(title, series, "sparsity (%)", sparsity, label, accuracy))
    return chart_of(picture, panels, _keys(every, True))


P_SYMBOLS = ("circle", "diamond", "triangle-up", "triangle-down", "cross", "x")


def _p_look(p: float, index: int, count: int) -> Look:
    """From faint to full in the colour of ECQx."""
    share = round(40 + 60 * index / max(count - 1, 1))
    colour = f"color-mix(in srgb, var(--ecqx) {share}%, var(--card))"
    return Look(f"ECQx, p = {p:g}", colour, P_SYMBOLS[index % len(P_SYMBOLS)])


def _influence_of_batchnorm(evidence: Evidence, picture: Picture) -> Chart:
    panels, every = [], []
    for pair in evidence.pairs():
        bits = evidence.reference_bits(pair[1])
        for method in GRID_METHODS:
            found = [evidence.of(task, GRID, method, bits) for task in pair]
            if not all(found):
                continue
            without = replace(Look.of(method), label="without BatchNorm", dash="solid")
            with_bn = replace(without, label="with BatchNorm", dash="dashdot", hollow=True)
            series = [(without, found[0]), (with_bn, found[1])]
            every.append(series)
            title = f"{method}: {_title(evidence, pair[0], f'{bits} bit', pair)}"
            label = f"change of {evidence.metric(pair[0])} (points)"
            panels.append(curve_panel(title, series, "sparsity (%)", sparsity, label, change))
    keys = [replace(key, colour=NEUTRAL, mark="circle") for key in _keys(every, False)]
    return chart_of(picture, panels, keys)


def _yardstick(evidence: Evidence, picture: Picture, counterparts: Sequence[Counterpart]) -> Chart:
    """Our curves of each task and bit width, and a star for each published result."""
    theirs = list(dict.fromkeys(c.yardstick for c in counterparts))
    cases = list(dict.fromkeys((y.task, y.bits) for y in theirs))
    tasks = [task for task, _ in cases]
    panels, every = [], []
    for task, bits in cases:
        series = by_method(evidence.of(task, GRID, bits=bits))
        every.append(series)
        title = _title(evidence, task, f"{bits} bit", tasks)
        label = f"{evidence.metric(task)} (%)"
        panel = curve_panel(title, series, "file size (kB)", size, label, accuracy)
        stars: list[Spec] = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": "published",
                "x": [y.bytes / 1000],
                "y": [short(100 * y.accuracy)],
                "text": [
                    f"<b>published {y.method}, {y.bits} bit, Λ {y.lam:g}</b><br>"
                    f"{evidence.metric(task)} {ACCURACY.text(y.accuracy)} %<br>"
                    f"sparsity {SPARSITY.text(y.sparsity)} %<br>size {SIZE.text(y.bytes)} kB"
                ],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "symbol": "star",
                    "size": 14,
                    "color": PAPER,
                    "line": {"color": COLOURS[y.method], "width": 2},
                },
            }
            for y in theirs
            if (y.task, y.bits) == (task, bits)
        ]
        layout = panel.layout | {
            "xaxis": axis("file size (kB)", type="log", dtick="D2", tickformat="~r")
        }
        panels.append(replace(panel, traces=[*panel.traces, *stars], layout=layout))
    keys = _keys(every, True)
    return chart_of(picture, panels, [*keys, Key("published", NEUTRAL, "star")])


def _title(evidence: Evidence, task: str, detail: str, among: Sequence[str]) -> str:
    return panel_title(evidence, task, detail, among).replace("\n", ", ")


def _keys(panels: Sequence[Series], reference: bool) -> list[Key]:
    """Every label once, in the order in which they come."""
    found = {look.label: look.key() for series in panels for look, _ in series}
    return [*found.values(), *([Key(FULL_PRECISION, NEUTRAL, "line")] if reference else [])]


def curve_panel(
    title: str, series: Series, x_title: str, x: Quantity, y_title: str, y: Quantity
) -> Panel:
    """Curves with deviation bars; accuracies with the line of full precision."""
    shown = [setting for _, own in series for setting in own]
    traces = [curve(look, own, x, y) for look, own in series]
    layout: Spec = {"xaxis": axis(x_title), "yaxis": axis(y_title)}
    if y is accuracy:
        full = over_seeds(flat(shown), "accuracy_fp32").scaled(100)
        traces.append(_reference(full, ACCURACY.text(full.scaled(0.01)), shown, x))
        layout["shapes"] = list(_band(full))
        layout["yaxis"] |= _opened(full.mean, [y(s) for s in shown])
    elif y is change:
        layout["shapes"] = [_line_at(0)]
        layout["yaxis"] |= _opened(0.0, [y(s) for s in shown])
    return Panel(title, traces, layout)


def curve(look: Look, settings: Sequence[Setting], x: Quantity, y: Quantity) -> Spec:
    """One curve along Λ."""
    xs, ys = [x(s) for s in settings], [y(s) for s in settings]
    trace: Spec = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": look.label,
        "x": [short(e.mean) for e in xs],
        "y": [short(e.mean) for e in ys],
        "text": [hover(setting) for setting in settings],
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {
            "symbol": look.symbol,
            "size": 8,
            "color": PAPER if look.hollow else look.colour,
            "line": {"color": look.colour, "width": 1.5},
        },
    }
    for name, values in (("error_x", xs), ("error_y", ys)):
        if any(e.sd for e in values):
            spread = [short(e.sd or 0.0) for e in values]
            trace[name] = {"array": spread, "color": look.colour, "thickness": 1, "width": 2}
    return trace


def hover(setting: Setting) -> str:
    """What a setting is and what came of it, rounded as in the tables."""
    columns = (ACCURACY, DROP, SPARSITY, SIZE, RATIO, ENTROPY)
    variant = f", p {setting.p:g}" if setting.method == "ECQx" and setting.p is not None else ""
    head = f"<b>{setting.method}, {setting.bits} bit, Λ {setting.lam:g}{variant}</b>"
    lines = [
        f"{column.header}: {column.text(cell)}"
        for column, cell in zip(columns, measures(setting), strict=True)
    ]
    seeds = ", ".join(str(run.seed) for run in setting.records)
    return "<br>".join([head, *lines, f"seeds: {seeds}"])


def _reference(full: Estimate, text: str, shown: Sequence[Setting], x: Quantity) -> Spec:
    ends = [x(setting).mean for setting in shown]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": FULL_PRECISION,
        "x": [short(min(ends)), short(max(ends))],
        "y": [short(full.mean)] * 2,
        "hovertemplate": f"{FULL_PRECISION}: {text} %<extra></extra>",
        "line": {"color": NEUTRAL, "dash": "dot", "width": 2},
    }


def _band(full: Estimate) -> Iterator[Spec]:
    if full.sd:
        yield {
            **{"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "layer": "below"},
            **{"y0": short(full.mean - full.sd), "y1": short(min(full.mean + full.sd, 100.0))},
            **{"fillcolor": NEUTRAL, "opacity": 0.15, "line": {"width": 0}},
        }


def _line_at(y: float) -> Spec:
    return {
        **{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y},
        **{"layer": "below", "line": {"color": NEUTRAL, "dash": "dot", "width": 1.5}},
    }


def _opened(reference: float, values: Sequence[Estimate]) -> dict[str, Any]:
    """Limits of the ordinate where some setting lies far below the others; else none."""
    lowest = min(e.mean - (e.sd or 0.0) for e in values)
    highest = max(reference, *(e.mean + (e.sd or 0.0) for e in values))
    if lowest >= reference - OPENED:
        return {}
    return {"range": [short(reference - OPENED), short(highest + 0.05 * OPENED)]}
