"""The figure of our accuracy–size curves with the results of the published algorithm in it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecqx.report.curves import (
    accuracy_axis,
    accuracy_curve,
    full_precision_handle,
    method_handles,
    method_style,
    panel_title,
    reference_line,
    size,
    subtitle,
    titled,
)
from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID, GRID_METHODS, Setting
from ecqx.report.size_figures import size_axis
from ecqx.report.style import (
    COLOURS,
    NEUTRAL,
    Picture,
    Style,
    finish,
    heading,
    legend_below,
    panels,
)
from ecqx.report.yardstick import Counterpart, Yardstick

STAR: Style = {"marker": "*", "linestyle": "none", "markersize": 13, "markeredgewidth": 1.4}


def yardstick_figure(evidence: Evidence, counterparts: Sequence[Counterpart]) -> Picture | None:
    """One panel per task and bit width: our grid, and a star for each published result."""
    cases = list(dict.fromkeys((c.yardstick.task, c.yardstick.bits) for c in counterparts))
    if not cases:
        return None
    figure, all_axes = panels(len(cases))
    tasks = [task for task, _ in cases]
    shown: list[Setting] = []
    for axes, (task, bits) in zip(all_axes, cases, strict=True):
        settings = evidence.of(task, GRID, bits=bits)
        theirs = [c.yardstick for c in counterparts]
        theirs = [y for y in dict.fromkeys(theirs) if (y.task, y.bits) == (task, bits)]
        _panel(axes, evidence, settings, theirs)
        axes.set_title(panel_title(evidence, task, f"{bits} bit", tasks))
        shown += settings
    title = "Beside the published algorithm"
    heading(figure, title, subtitle(evidence, shown))
    handles: list[Line2D | Patch] = [*method_handles(shown)]
    star = Line2D([], [], color=NEUTRAL, markerfacecolor="white", label="published", **STAR)
    legend_below(figure, [*handles, star, full_precision_handle(shown)])
    words = "; ".join(
        f"{evidence.name(c.yardstick.task)}, {c.yardstick.method}, Λ {c.yardstick.lam:g} "
        f"({c.ours}): {c.verdict.value}"
        for c in counterparts
    )
    metric = evidence.metric_of_all(tasks)
    return finish(
        figure,
        "yardstick",
        title,
        f"{titled(metric)} over file size: ours along Λ, and the results of the published "
        "algorithm as stars in the colour of their method. Further left and higher is better; "
        "what the sizes count stands with the table. "
        f"{evidence.notes(dict.fromkeys(tasks))}",
        f"Curves of {metric} over file size with published results beside them. Whether a point "
        f"of ours is at least as good in both: {words}.",
    )


def _panel(
    axes: Axes, evidence: Evidence, settings: Sequence[Setting], theirs: Sequence[Yardstick]
) -> None:
    ranges = [reference_line(axes, settings)]
    for method in GRID_METHODS:
        of_method = [s for s in settings if s.method == method]
        if of_method:
            ranges.append(accuracy_curve(axes, of_method, size, **method_style(method)))
    for one in theirs:
        x, y = one.bytes / 1000, 100 * one.accuracy
        colour = COLOURS[one.method]
        axes.plot([x], [y], color=colour, markerfacecolor="white", zorder=4, **STAR)
        ranges.append((y, y))
    accuracy_axis(axes, evidence, settings[0].task, ranges)
    size_axis(axes, [size(s).mean for s in settings] + [one.bytes / 1000 for one in theirs])
