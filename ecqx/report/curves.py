"""What the figures of curves share: quantities, curves with deviation bars, the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecqx.report.records import METHODS, Evidence, Method, Setting
from ecqx.report.selection import flat, over_seeds
from ecqx.report.statistics import Estimate
from ecqx.report.style import (
    COLOURS,
    LINES,
    MARKERS,
    NEUTRAL,
    Style,
    method_handle,
    stretched_axis,
)

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


def subtitle(evidence: Evidence, settings: Sequence[Setting]) -> str:
    seeds = sorted({len(setting.runs) for setting in settings})
    if seeds == [1]:
        return f"suite {evidence.suite}, one seed"
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"suite {evidence.suite}, mean ± standard deviation over {count} seeds"


def curve(
    axes: Axes,
    settings: Sequence[Setting],
    x: Quantity,
    y: Quantity,
    **style: Any,
) -> tuple[float, float]:
    """Draw means with deviation bars along Λ; return the range of the ordinate."""
    xs, ys = [x(s) for s in settings], [y(s) for s in settings]
    dx, dy = [e.sd or 0.0 for e in xs], [e.sd or 0.0 for e in ys]
    axes.errorbar(
        [e.mean for e in xs],
        [e.mean for e in ys],
        xerr=dx if any(dx) else None,
        yerr=dy if any(dy) else None,
        elinewidth=0.9,
        capsize=2,
        **style,
    )
    low = min(e.mean - d for e, d in zip(ys, dy, strict=True))
    high = max(e.mean + d for e, d in zip(ys, dy, strict=True))
    return low, high


def method_style(method: Method) -> Style:
    return {"color": COLOURS[method], "marker": MARKERS[method], "linestyle": LINES[method]}


def reference_line(axes: Axes, settings: Sequence[Setting]) -> tuple[float, float]:
    """Draw the full-precision line with its band; return the band."""
    full = over_seeds(flat(settings), "accuracy_fp32").scaled(100)
    low, high = full.mean - (full.sd or 0.0), full.mean + (full.sd or 0.0)
    if high > low:
        axes.axhspan(low, high, color=NEUTRAL, alpha=0.15, linewidth=0)
    axes.axhline(full.mean, color=NEUTRAL, linestyle=":", linewidth=1.4)
    return low, high


def accuracy_axis(
    axes: Axes, evidence: Evidence, task: str, ranges: Sequence[tuple[float, float]]
) -> None:
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    stretched = stretched_axis(axes, low, high, top=100.0)
    note = ", stretched near 100" if stretched else ""
    axes.set_ylabel(f"{evidence.metric(task)} (%){note}")


def method_handles(settings: Sequence[Setting]) -> list[Line2D | Patch]:
    present = {setting.method for setting in settings}
    return [method_handle(method) for method in METHODS if method in present]


def in_words(evidence: Evidence, settings: Sequence[Setting], y: Quantity, unit: str) -> str:
    """Where the curves of one panel begin and end, for the alternative text."""
    parts = []
    for method in METHODS:
        along = [s for s in settings if s.method == method]
        if along:
            first, last = along[0], along[-1]
            parts.append(
                f"{method} from {y(first).mean:.1f}{unit} at Λ {first.lam:g} "
                f"to {y(last).mean:.1f}{unit} at Λ {last.lam:g}"
            )
    where = f"{evidence.title(settings[0].task)}, {settings[0].bits} bit"
    return f"{where}: {'; '.join(parts)}."
