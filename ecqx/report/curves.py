"""What the figures of curves share: quantities, curves with deviation bars, the reference."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID_METHODS, Setting
from ecqx.report.selection import flat, over_seeds
from ecqx.report.statistics import Estimate
from ecqx.report.style import (
    COLOURS,
    LINES,
    MARKERS,
    NEUTRAL,
    Style,
    method_handle,
    reference_handle,
    stretched_axis,
)

# Letters that fit over a panel.
LINE_LENGTH = 42

Quantity = Callable[[Setting], Estimate]


def accuracy(setting: Setting) -> Estimate:
    """Accuracy in percent."""
    return setting.mean("accuracy").scaled(100)


def sparsity(setting: Setting) -> Estimate:
    """Sparsity in percent."""
    return setting.mean("sparsity").scaled(100)


def size(setting: Setting) -> Estimate:
    """File size in kB."""
    return setting.mean("bytes").scaled(1e-3)


def change(setting: Setting) -> Estimate:
    """Accuracy minus that of full precision, in points."""
    return setting.drop().negated().scaled(100)


def ratio(setting: Setting) -> Estimate:
    """Compression ratio."""
    return setting.mean("compression_ratio")


def panel_title(
    evidence: Evidence, task: str, detail: str, among: Iterable[str], break_line: bool = False
) -> str:
    """Title of a panel: task, detail, and its data where the figure's tasks differ in that.

    Parameters
    ----------
    evidence : Evidence
    task : str
    detail : str
    among : iterable of str
        All tasks of the figure.
    break_line : bool
        Whether the detail has a line of its own in any case.
    """
    data, title = evidence.data_in_short(task), evidence.tasks[task]
    if evidence.common_data(among) is None and data not in title:
        return "\n".join([title, *textwrap.wrap(data, LINE_LENGTH), detail])
    return f"{title}\n{detail}" if break_line else f"{title}, {detail}"


def subtitle(evidence: Evidence, settings: Sequence[Setting]) -> str:
    """Suite, data if all tasks have the same, and number of seeds."""
    seeds = sorted({len(setting.records) for setting in settings})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"mean ± deviation over {count} seeds"
    if seeds == [1]:
        spread = "one seed, no deviation"
    return f"{suite_and_data(evidence, [s.task for s in settings])}, {spread}"


def suite_and_data(evidence: Evidence, tasks: Sequence[str]) -> str:
    """Suite, and data if all tasks have the same and their titles do not tell."""
    data = evidence.common_data(tasks)
    if data is None or all(data in evidence.tasks[task] for task in tasks):
        return f"suite {evidence.suite}"
    return f"suite {evidence.suite}, {data}"


def titled(text: str) -> str:
    """A text with a capital first letter."""
    return text[:1].upper() + text[1:]


def full_precision_handle(settings: Sequence[Setting]) -> Line2D:
    """Legend entry of the full-precision line, with its band if there is one."""
    several = any(len(setting.records) > 1 for setting in settings)
    return reference_handle("full precision ± deviation" if several else "full precision")


def curve(
    axes: Axes,
    settings: Sequence[Setting],
    x: Quantity,
    y: Quantity,
    top: float = math.inf,
    **style: Any,
) -> tuple[float, float]:
    """Draw means with deviation bars along Λ, none above ``top``; return the range drawn."""
    xs, ys = [x(s) for s in settings], [y(s) for s in settings]
    dx = [e.sd or 0.0 for e in xs]
    spans = [_span(e, top) for e in ys]
    bars = [[e.mean - span[i] for e, span in zip(ys, spans, strict=True)] for i in (0, 1)]
    lower, upper = bars[0], [-bar for bar in bars[1]]
    axes.errorbar(
        [e.mean for e in xs],
        [e.mean for e in ys],
        xerr=dx if any(dx) else None,
        yerr=(lower, upper) if any(lower) else None,
        elinewidth=0.9,
        capsize=2,
        **style,
    )
    return min(low for low, _ in spans), max(high for _, high in spans)


def accuracy_curve(
    axes: Axes, settings: Sequence[Setting], x: Quantity, **style: Any
) -> tuple[float, float]:
    """Draw accuracies; return the range drawn."""
    return curve(axes, settings, x, accuracy, top=100.0, **style)


def _span(value: Estimate, top: float) -> tuple[float, float]:
    """One standard deviation to both sides, as far as the quantity goes."""
    deviation = value.sd or 0.0
    return value.mean - deviation, min(value.mean + deviation, top)


def method_style(method: str) -> Style:
    """Colour, marker and line of a method."""
    return {"color": COLOURS[method], "marker": MARKERS[method], "linestyle": LINES[method]}


def reference_line(axes: Axes, settings: Sequence[Setting]) -> tuple[float, float]:
    """Draw the full-precision line with its band; return the band."""
    full = over_seeds(flat(settings), "accuracy_fp32").scaled(100)
    low, high = _span(full, 100.0)
    if high > low:
        axes.axhspan(low, high, color=NEUTRAL, alpha=0.15, linewidth=0)
    axes.axhline(full.mean, color=NEUTRAL, linestyle=":", linewidth=1.4)
    return low, high


def accuracy_axis(
    axes: Axes, evidence: Evidence, task: str, ranges: Sequence[tuple[float, float]]
) -> None:
    """Limits and label of the ordinate, so that all ranges drawn are in sight."""
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    stretched = stretched_axis(axes, low, high, top=100.0)
    note = "\nstretched near 100" if stretched else ""
    axes.set_ylabel(f"{evidence.metric(task)} (%){note}")


def method_handles(settings: Sequence[Setting]) -> list[Line2D | Patch]:
    """Legend entries of the methods shown."""
    present = {setting.method for setting in settings}
    return [method_handle(method) for method in GRID_METHODS if method in present]


def in_words(evidence: Evidence, settings: Sequence[Setting], y: Quantity, unit: str) -> str:
    """Where the curves of one panel begin and end, for the alternative text."""
    parts = []
    for method in GRID_METHODS:
        along = [s for s in settings if s.method == method]
        if along:
            first, last = along[0], along[-1]
            parts.append(
                f"{method} from {y(first).mean:.1f}{unit} at Λ {first.lam:g} "
                f"to {y(last).mean:.1f}{unit} at Λ {last.lam:g}"
            )
    where = f"{evidence.name(settings[0].task)}, {settings[0].bits} bit"
    return f"{where}: {'; '.join(parts)}."
