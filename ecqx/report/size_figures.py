"""The figures of file size, and of what Λ does."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ecqx.report.curves import (
    Quantity,
    accuracy,
    accuracy_axis,
    accuracy_curve,
    curve,
    full_precision_handle,
    in_words,
    method_handles,
    method_style,
    panel_title,
    ratio,
    reference_line,
    size,
    sparsity,
    subtitle,
    titled,
)
from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID, GRID_METHODS, Setting
from ecqx.report.selection import front, widths
from ecqx.report.statistics import Estimate
from ecqx.report.style import (
    COLOURS,
    LINES,
    NEUTRAL,
    Picture,
    Style,
    finish,
    heading,
    legend_below,
    panels,
)

BIT_MARKERS = {2: "v", 3: "D", 4: "o", 5: "s", 6: "^", 7: "P", 8: "X"}


def build_size_figures(evidence: Evidence) -> list[Picture]:
    """All figures of file size and Λ for which there are runs."""
    made = [
        accuracy_against_size(evidence),
        along_lambda(evidence, "sparsity", sparsity, "sparsity (%)"),
        along_lambda(evidence, "ratio", ratio, "compression ratio (times)"),
    ]
    return [picture for picture in made if picture is not None]


def accuracy_against_size(evidence: Evidence) -> Picture | None:
    """Every setting of the grid and the Pareto fronts, chosen by validation accuracy."""
    tasks = [task for task in evidence.tasks if evidence.of(task)]
    if not tasks:
        return None
    figure, all_axes = panels(len(tasks))
    for axes, task in zip(all_axes, tasks, strict=True):
        settings = evidence.of(task)
        ranges = [reference_line(axes, settings)]
        for method in GRID_METHODS:
            of_method = [s for s in settings if s.method == method]
            if of_method:
                ranges += _cloud(axes, method, of_method)
        accuracy_axis(axes, evidence, task, ranges)
        size_axis(axes, [size(s).mean for s in settings])
        full = settings[0].records[0].bytes_fp32 / 1000
        detail = f"full precision: {full:,.0f} kB"
        axes.set_title(panel_title(evidence, task, detail, tasks, break_line=True))
    shown = [s for task in tasks for s in evidence.of(task)]
    title = f"{titled(evidence.metric_of_all(tasks))} against file size"
    heading(figure, title, subtitle(evidence, shown))
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=COLOURS[m],
            linestyle=LINES[m],
            linewidth=2,
            marker="o",
            markerfacecolor=_face(m),
            label=f"{m}, line: Pareto front",
        )
        for m in GRID_METHODS
        if any(s.method == m for s in shown)
    ]
    handles += [
        Line2D([], [], color=NEUTRAL, marker=BIT_MARKERS[b], linestyle="", label=f"{b} bit")
        for b in widths(shown)
    ]
    legend_below(figure, [*handles, full_precision_handle(shown)], columns=4)
    return finish(
        figure,
        "accuracy_size",
        title,
        "Every setting of the grid: shape is the bit width, filled is ECQx, hollow is ECQ. The "
        "fronts join the settings that no other one beats in both size and validation accuracy; "
        f"shown is their test accuracy. {evidence.notes(tasks)}",
        "Accuracy over file size on a logarithmic axis. "
        + " ".join(f"{evidence.name(task)}: {_front_words(evidence, task)}." for task in tasks),
    )


def _face(method: str) -> str:
    """Markers of ECQ are hollow, as their shape already tells the bit width."""
    return COLOURS[method] if method == "ECQx" else "white"


def _cloud(axes: Axes, method: str, settings: list[Setting]) -> list[tuple[float, float]]:
    """All settings of a method, hollow for ECQ, and the line through its Pareto front."""
    best = front(settings)
    axes.plot(
        [size(s).mean for s in best],
        [accuracy(s).mean for s in best],
        color=COLOURS[method],
        linestyle=LINES[method],
        linewidth=2,
    )
    ranges = []
    for bits in widths(settings):
        style: Style = {
            "color": COLOURS[method],
            "marker": BIT_MARKERS[bits],
            "linestyle": "none",
            "markerfacecolor": _face(method),
            "markersize": 5,
        }
        of_width = [s for s in settings if s.bits == bits]
        ranges.append(accuracy_curve(axes, of_width, size, **style))
    return ranges


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """File sizes in kB on a logarithmic axis."""
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.15, max(sizes) * 1.15)
    logarithmic_ticks(axes.xaxis, min(sizes), max(sizes))
    axes.set_xlabel("file size (kB)")


def logarithmic_ticks(axis: Axis, low: float, high: float) -> None:
    """Round numbers as ticks of a logarithmic axis, the more the shorter its range is."""
    span = high / low
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 8 else (1.0, 2.0, 5.0) if span < 60 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _front_words(evidence: Evidence, task: str) -> str:
    texts = []
    for method in GRID_METHODS:
        best = front(evidence.of(task, GRID, method))
        if best:
            small, large = best[0], best[-1]
            texts.append(
                f"front of {method} from {accuracy(small).mean:.1f} % at {size(small).mean:.1f} kB "
                f"to {accuracy(large).mean:.1f} % at {size(large).mean:.1f} kB"
            )
    return "; ".join(texts)


def along_lambda(evidence: Evidence, name: str, y: Quantity, label: str) -> Picture | None:
    """A quantity over Λ, one panel per task."""
    chosen = [
        (task, evidence.of(task, bits=bits))
        for task in evidence.tasks
        if (bits := evidence.reference_bits(task)) is not None
    ]
    chosen = [(task, s) for task, s in chosen if len({setting.lam for setting in s}) > 1]
    if not chosen:
        return None
    tasks = [task for task, _ in chosen]
    figure, all_axes = panels(len(chosen))
    for axes, (task, settings) in zip(all_axes, chosen, strict=True):
        for method in GRID_METHODS:
            of_method = [s for s in settings if s.method == method]
            if of_method:
                curve(axes, of_method, lambda s: Estimate(s.lam), y, **method_style(method))
        _lambda_axis(axes, sorted({s.lam for s in settings}))
        axes.set_ylabel(label)
        axes.set_title(panel_title(evidence, task, f"{settings[0].bits} bit", tasks))
    shown = [s for _, settings in chosen for s in settings]
    title = f"{titled(label.split(' (')[0])} along Λ"
    heading(figure, title, subtitle(evidence, shown))
    legend_below(figure, method_handles(shown))
    unit = " %" if "%" in label else ""
    return finish(
        figure,
        f"{name}_lambda",
        title,
        "Λ weighs information against distance: the larger, the sparser and smaller. "
        f"{evidence.notes(tasks)}",
        f"Curves of {label} over Λ. "
        + " ".join(in_words(evidence, settings, y, unit) for _, settings in chosen),
    )


def _lambda_axis(axes: Axes, lambdas: Sequence[float]) -> None:
    """Λ on a logarithmic axis that is linear below the smallest one, ticks at the values."""
    positive = [lam for lam in lambdas if lam > 0]
    if not positive or max(positive) / min(positive) < 4:
        axes.set_xlabel("Λ")
        return
    axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    to_axis = axes.xaxis.get_transform().transform
    ends = to_axis([lambdas[0], lambdas[-1]])
    ticks: list[float] = []
    for lam in lambdas:
        # Labels closer than a tenth of the axis would run into each other.
        if not ticks or to_axis([lam])[0] - to_axis([ticks[-1]])[0] > 0.1 * (ends[1] - ends[0]):
            ticks.append(lam)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("Λ (logarithmic)")
