"""The figure of the comparison: accuracy against file size for every method, one panel a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ecqx.report.comparison import Comparison
from ecqx.report.curves import size, subtitle
from ecqx.report.records import METHODS, Setting
from ecqx.report.selection import front
from ecqx.report.size_figures import logarithmic_ticks, size_axis
from ecqx.report.style import (
    NEUTRAL,
    Picture,
    Style,
    canvas,
    finish,
    heading,
    legend_below,
    reference_handle,
)

PANEL_WIDTH, PANEL_HEIGHT, LEGEND_HEIGHT = 5.6, 4.3, 1.5
# Points below full precision that are still in sight.
DEPTH = 10.0
# Times that the largest file in sight is as large as the smallest, at least.
LEAST_SPAN = 4.0
HALO = "#F7D774"


def _own(colour: str, marker: str, size: float, filled: bool) -> Style:
    return {
        "color": colour,
        "marker": marker,
        "linestyle": "-",
        "markersize": size,
        "markerfacecolor": colour if filled else "white",
        "linewidth": 1.7,
        "zorder": 4,
    }


def _rival(colour: str, marker: str, line: Any) -> Style:
    return {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.3, "zorder": 3}


# Our own family: solid lines in strong colours, one hue a quantizer, filled with relevance. Rivals:
# dashes in quieter colours. No two share a marker, so that none is recognized by colour alone.
STYLES: dict[str, Style] = {
    "ECQ": _own("#DD8500", "s", 5, False),
    "ECQx": _own("#00508C", "o", 6, True),
    "EC2T": _own("#D65CA8", "v", 6, False),
    "EC2Tx": _own("#8A1560", "^", 6, True),
    "FantastIC4": _own("#35A886", "d", 6, False),
    "FantastIC4x": _own("#005C45", "D", 5, True),
    "NNCodec uniform": _rival("#777777", "x", (0, (5, 2))),
    "NNCodec dependent": _rival("#222222", "+", (0, (5, 1.5, 1, 1.5))),
    "pruning": _rival("#8C510A", "<", (0, (1, 1.3))),
    "LSQ": _rival("#6A51A3", ">", (0, (3, 1.5))),
    "torchao": _rival("#2B9BD6", "*", (0, (7, 2, 1, 2, 1, 2))),
    "fp16": _rival("#222222", "h", "none"),
    "int8": _rival("#777777", "p", "none"),
}


@dataclass(frozen=True)
class Seen:
    """What of a panel is in sight, sizes in kB and accuracies in percent."""

    sizes: tuple[float, float]
    low: float
    high: float
    hidden: int


def comparison_figure(comparison: Comparison) -> Picture:
    """The curve of every method and the Pareto front of all, chosen by validation accuracy."""
    figure, all_axes = _panels(len(comparison.tasks))
    hidden = {
        title: _panel(axes, comparison, task)
        for axes, (task, title) in zip(all_axes, comparison.tasks.items(), strict=True)
    }
    title = "Accuracy against file size: all methods"
    heading(figure, title, subtitle(comparison.evidence, comparison.evidence.settings))
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(wspace=0.05, hspace=0.05)
    present = {trial.method for trial in comparison.evidence.settings}
    handles = [Line2D([], [], label=m, **STYLES[m]) for m in METHODS if m in present]
    halo = Line2D([], [], color=HALO, linewidth=8, label="Pareto front")
    legend_below(figure, [*handles, halo, reference_handle("full precision")], columns=5)
    return finish(figure, "comparison", title, _caption(hidden), _alt(comparison))


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Large panels, two side by side; one alone is wider, for the legend's sake."""
    columns = min(count, 2)
    rows = -(-count // columns)
    width = PANEL_WIDTH * columns if columns > 1 else 1.4 * PANEL_WIDTH
    figure = canvas(width, PANEL_HEIGHT * rows + LEGEND_HEIGHT, "constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _panel(axes: Axes, comparison: Comparison, task: str) -> tuple[int, int]:
    """Draw one task; return how many points of the curves are out of sight, and of how many."""
    every = comparison.of(task)
    curves = [front(comparison.of(task, method)) for method in comparison.methods(task)]
    full = 100 * comparison.full_precision(task).mean
    points = [trial for curve in curves for trial in curve]
    seen = _seen(points, full)
    best = front(every)
    # One trial alone has a dot of the same width.
    axes.plot(
        [size(t).mean for t in best],
        [_accuracy(t) for t in best],
        color=HALO,
        linewidth=9,
        solid_capstyle="round",
        solid_joinstyle="round",
        zorder=1,
    )
    axes.axhline(full, color=NEUTRAL, linestyle=":", linewidth=1.4, zorder=2)
    for curve in curves:
        _curve(axes, curve)
    size_axis(axes, seen.sizes)
    axes.set_ylim(seen.low, seen.high)
    axes.set_ylabel(f"{every[0].first.metric} (%)")
    _ratio_axis(axes, 4 * every[0].first.parameters / 1000)
    shared = comparison.evidence.common_data(comparison.tasks) is not None
    axes.set_title(comparison.tasks[task] if shared else comparison.evidence.name(task))
    return seen.hidden, len(points)


def _curve(axes: Axes, curve: Sequence[Setting]) -> None:
    lower = [_deviation(trial) for trial in curve]
    upper = [_top(trial) - _accuracy(trial) for trial in curve]
    axes.errorbar(
        [size(trial).mean for trial in curve],
        [_accuracy(trial) for trial in curve],
        yerr=(lower, upper) if any(lower) else None,
        elinewidth=0.8,
        capsize=1.5,
        **STYLES[curve[0].method],
    )


def _accuracy(trial: Setting) -> float:
    return 100 * trial.mean("accuracy").mean


def _deviation(trial: Setting) -> float:
    return 100 * (trial.mean("accuracy").sd or 0.0)


def _top(trial: Setting) -> float:
    """Upper end of the deviation bar, which goes no further than an accuracy does."""
    return min(_accuracy(trial) + _deviation(trial), 100.0)


def _seen(trials: Sequence[Setting], full: float) -> Seen:
    """Limits that leave out what lies far below full precision, or below the best if that is less.

    The best trial is thus in sight, however bad all of them are.
    """
    floor = min(full, max(_accuracy(trial) for trial in trials)) - DEPTH
    shown = [trial for trial in trials if _accuracy(trial) >= floor]
    low = max(floor, min(full, *(_accuracy(trial) - _deviation(trial) for trial in shown)))
    high = max(full, *(_top(trial) for trial in shown))
    pad = max(0.05 * (high - low), 0.05)
    sizes = _widened([size(trial).mean for trial in shown])
    return Seen(sizes, low - pad, high + pad, len(trials) - len(shown))


def _widened(sizes: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest, moved apart where a curve would leave the panel at once."""
    low, high = min(sizes), max(sizes)
    room = max(1.0, math.sqrt(LEAST_SPAN * low / high))
    return low / room, high * room


def _ratio_axis(axes: Axes, full: float) -> None:
    """A second scale above the panel: ``full``, the size in 32 bit in kB, over the file's size."""

    def other(values: Any) -> Any:
        # The scale is asked about 0, which no file has.
        return full / np.maximum(np.asarray(values, dtype=float), 1e-9)

    above = axes.secondary_xaxis("top", functions=(other, other))
    above.set_xlabel("compression ratio", fontsize=9, color=NEUTRAL)
    above.tick_params(colors=NEUTRAL)
    logarithmic_ticks(above.xaxis, *axes.get_xlim())


def _caption(hidden: Mapping[str, tuple[int, int]]) -> str:
    left = [f"{few} of {many} ({title})" for title, (few, many) in hidden.items() if few]
    below = "All points of the curves are in sight. "
    if left:
        below = (
            f"The panels end {DEPTH:g} points below full precision (or below the best trial where "
            f"that is worse); not shown are the points further down: {', '.join(left)}. "
        )
    return (
        "Each curve joins the trials of a method that no other trial of that method dominates in "
        "mean size and mean validation accuracy; its markers are their mean test accuracies, so a "
        "curve may fall. The wide band joins the trials that no trial of any method dominates, the "
        "Pareto front. Solid lines are the family of ECQx, with filled markers where relevance "
        "plays a part; dashes are other methods; one without anything to choose is a single "
        "marker. "
        f"Further left and higher is better. {below}The dotted line is the same checkpoint trained "
        "as long in full precision."
    )


def _alt(comparison: Comparison) -> str:
    """Who is on the front of each task, from the smallest file to the largest."""
    parts = []
    for task, title in comparison.tasks.items():
        best = front(comparison.of(task))
        methods = ", ".join(dict.fromkeys(trial.method for trial in best))
        first, last = best[0], best[-1]
        parts.append(
            f"{title}: the Pareto front goes from {size(first).mean:.1f} kB with "
            f"{_accuracy(first):.1f} % to {size(last).mean:.1f} kB with {_accuracy(last):.1f} %, "
            f"with trials of {methods}."
        )
    return f"Curves of accuracy over file size on a logarithmic axis. {' '.join(parts)}"
