"""The figures of accuracy against sparsity: ECQ beside ECQx, influence of p and of BatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ecqx.report.curves import (
    accuracy,
    accuracy_axis,
    accuracy_curve,
    change,
    curve,
    full_precision_handle,
    in_words,
    method_handles,
    method_style,
    panel_title,
    reference_line,
    sparsity,
    subtitle,
    titled,
)
from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID, GRID_METHODS, Setting
from ecqx.report.style import (
    NEUTRAL,
    Picture,
    Style,
    finish,
    heading,
    legend_below,
    method_handle,
    panels,
    reference_handle,
    stretched_axis,
)
from ecqx.report.sweeps import p_settings

P_MARKERS = "oD^vPX<>"


def build_figures(evidence: Evidence) -> list[Picture]:
    """All figures made of curves for which there are runs."""
    made = [
        accuracy_against_sparsity(evidence),
        *(each_bit_width(evidence, task) for task in evidence.tasks),
        influence_of_p(evidence),
        influence_of_batchnorm(evidence),
    ]
    return [picture for picture in made if picture is not None]


def _accuracy_panel(axes: Axes, settings: list[Setting]) -> list[tuple[float, float]]:
    """One panel of accuracy against sparsity, ECQ beside ECQx; return the ranges drawn."""
    ranges = [reference_line(axes, settings)]
    for method in GRID_METHODS:
        of_method = [s for s in settings if s.method == method]
        if of_method:
            ranges.append(accuracy_curve(axes, of_method, sparsity, **method_style(method)))
    return ranges


def accuracy_against_sparsity(evidence: Evidence) -> Picture | None:
    """One panel per task, at the bit width that stands for it."""
    chosen = [
        (task, evidence.of(task, bits=bits))
        for task in evidence.tasks
        if (bits := evidence.reference_bits(task)) is not None
    ]
    tasks = [task for task, _ in chosen]
    return _sparsity_figure(
        evidence,
        chosen,
        "accuracy_sparsity",
        f"{titled(evidence.metric_of_all(tasks))} against sparsity",
        lambda task, settings: panel_title(evidence, task, f"{settings[0].bits} bit", tasks),
        alike=False,
    )


def each_bit_width(evidence: Evidence, task: str) -> Picture | None:
    """One panel per bit width of a task that was measured at several."""
    widths = evidence.bits(task)
    if len(widths) < 2:
        return None
    return _sparsity_figure(
        evidence,
        [(task, evidence.of(task, bits=bits)) for bits in widths],
        f"accuracy_sparsity_{task}",
        f"{titled(evidence.metric_of_all([task]))} against sparsity: {evidence.tasks[task]}",
        lambda _, settings: f"{settings[0].bits} bit",
        alike=True,
    )


def _sparsity_figure(
    evidence: Evidence,
    chosen: Sequence[tuple[str, list[Setting]]],
    name: str,
    title: str,
    label: Callable[[str, list[Setting]], str],
    alike: bool,
) -> Picture | None:
    if not chosen:
        return None
    figure, all_axes = panels(len(chosen))
    ranges = [
        _accuracy_panel(axes, settings)
        for axes, (_, settings) in zip(all_axes, chosen, strict=True)
    ]
    every = [span for own in ranges for span in own]
    for axes, (task, settings), own in zip(all_axes, chosen, ranges, strict=True):
        # Panels that are to be compared have the same axes.
        accuracy_axis(axes, evidence, task, every if alike else own)
        axes.set_xlabel("sparsity (%)")
        axes.set_title(label(task, settings))
    if alike:
        limits = [axes.get_xlim() for axes in all_axes]
        for axes in all_axes:
            axes.set_xlim(min(left for left, _ in limits), max(right for _, right in limits))
    shown = [setting for _, settings in chosen for setting in settings]
    heading(figure, title, subtitle(evidence, shown))
    legend_below(figure, [*method_handles(shown), full_precision_handle(shown)])
    lambdas = ", ".join(f"{lam:g}" for lam in sorted({s.lam for s in shown}))
    return finish(
        figure,
        name,
        title,
        f"Each marker is one Λ ({lambdas}); larger Λ lie further right. The dotted line is the "
        f"same checkpoint trained as long in full precision{_band(shown)}. "
        f"{evidence.notes(dict.fromkeys(task for task, _ in chosen))}",
        "Curves of accuracy over sparsity. "
        + " ".join(in_words(evidence, settings, accuracy, " %") for _, settings in chosen),
    )


def _band(settings: Sequence[Setting]) -> str:
    several = any(len(setting.records) > 1 for setting in settings)
    return ", its band the deviation over seeds" if several else ""


def influence_of_p(evidence: Evidence) -> Picture | None:
    """Accuracy against sparsity for each p, with ECQ as reference."""
    chosen = [(task, p_settings(evidence, task)) for task in evidence.tasks]
    chosen = [(task, series) for task, series in chosen if series]
    if not chosen:
        return None
    values = sorted({p for _, series in chosen for p, _ in series if p is not None})
    tasks = [task for task, _ in chosen]
    styles = {p: _p_style(i, len(values)) for i, p in enumerate(values)}
    figure, all_axes = panels(len(chosen))
    for axes, (task, series) in zip(all_axes, chosen, strict=True):
        shown = [setting for _, settings in series for setting in settings]
        ranges = [reference_line(axes, shown)]
        for p, settings in series:
            style = method_style("ECQ") if p is None else styles[p]
            ranges.append(accuracy_curve(axes, settings, sparsity, **style))
        accuracy_axis(axes, evidence, task, ranges)
        axes.set_xlabel("sparsity (%)")
        axes.set_title(panel_title(evidence, task, f"{shown[-1].bits} bit", tasks))
    every = [s for _, series in chosen for _, settings in series for s in settings]
    title = "Influence of p"
    heading(figure, title, subtitle(evidence, every))
    handles: list[Line2D | Patch] = []
    if any(setting.method == "ECQ" for setting in every):
        handles.append(method_handle("ECQ"))
    handles += [Line2D([], [], label=f"ECQx, p = {p:g}", **styles[p]) for p in values]
    legend_below(figure, [*handles, full_precision_handle(every)], columns=3)
    return finish(
        figure,
        "influence_of_p",
        title,
        "ECQx may add at most p to the sparsity of ECQ, which is drawn for comparison. Each "
        f"marker is one Λ. {evidence.notes(tasks)}",
        "Curves of accuracy over sparsity, one for each p: "
        + ", ".join(f"{p:g}" for p in values)
        + ", beside ECQ. "
        + " ".join(f"{evidence.name(task)}." for task, _ in chosen),
    )


def _p_style(index: int, count: int) -> Style:
    """From light to dark in the colour of ECQx."""
    share = 0.45 + 0.55 * (index / max(count - 1, 1))
    colour = matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](share))
    return {"color": colour, "marker": P_MARKERS[index % len(P_MARKERS)], "linestyle": "-"}


def influence_of_batchnorm(evidence: Evidence) -> Picture | None:
    """Change of accuracy against sparsity, the same network without and with BatchNorm."""
    cases = [
        (pair, bits, method)
        for pair in evidence.pairs()
        for bits in [evidence.reference_bits(pair[1])]
        for method in GRID_METHODS
        if all(evidence.of(task, GRID, method, bits) for task in pair)
    ]
    if not cases:
        return None
    figure, all_axes = panels(len(cases))
    shown: list[Setting] = []
    ranges = []
    tasks = [task for pair, _, _ in cases for task in pair]
    for axes, (pair, bits, method) in zip(all_axes, cases, strict=True):
        for task, filled in zip(pair, (True, False), strict=True):
            settings = evidence.of(task, GRID, method, bits)
            shown += settings
            style = method_style(method) | (_FILLED if filled else _HOLLOW)
            ranges.append(curve(axes, settings, sparsity, change, **style))
        axes.axhline(0, color=NEUTRAL, linestyle=":", linewidth=1.4)
        axes.set_xlabel("sparsity (%)")
        axes.set_title(f"{method}: {panel_title(evidence, pair[0], f'{bits} bit', tasks)}")
    low, high = min(0.0, *(r[0] for r in ranges)), max(0.0, *(r[1] for r in ranges))
    for axes, (pair, _, _) in zip(all_axes, cases, strict=True):
        note = ", stretched near 0" if stretched_axis(axes, low, high, top=0.0) else ""
        axes.set_ylabel(f"change of {evidence.metric(pair[0])}\n(points{note})")
    title = "Influence of BatchNorm"
    heading(figure, title, subtitle(evidence, shown))
    without = Line2D([], [], color=NEUTRAL, label="without BatchNorm", marker="o", **_FILLED)
    with_bn = Line2D([], [], color=NEUTRAL, label="with BatchNorm", marker="o", **_HOLLOW)
    legend_below(figure, [without, with_bn, reference_handle("full precision")])
    return finish(
        figure,
        "influence_of_batchnorm",
        title,
        "Change against the same network trained as long in full precision; each marker is one Λ. "
        f"{evidence.notes(dict.fromkeys(tasks))}",
        "Curves of the change of accuracy over sparsity, without and with BatchNorm. "
        + " ".join(
            in_words(evidence, evidence.of(task, GRID, method, bits), change, " points")
            for pair, bits, method in cases
            for task in pair
        ),
    )


_FILLED: Style = {"linestyle": "-", "markersize": 5}
_HOLLOW: Style = {
    "linestyle": "-.",
    "markerfacecolor": "white",
    "markersize": 6.5,
    "linewidth": 1.2,
}
