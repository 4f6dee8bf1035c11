"""The interactive charts of single layers: sparsity, entropy and size, ECQ beside ECQx."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ecqx.report.charts import COLOURS, Chart, Key, Panel, Spec, axis, short
from ecqx.report.evidence import Evidence
from ecqx.report.records import GRID_METHODS

Record = Mapping[str, Any]
QUANTITIES: tuple[tuple[str, Callable[[Record], float]], ...] = (
    ("sparsity (%)", lambda layer: 100 * float(layer["sparsity"])),
    ("entropy (bit/weight)", lambda layer: float(layer["entropy_bits_per_weight"])),
    ("size (kB)", lambda layer: float(layer["bytes"]) / 1000),
)


def build_layer_charts(evidence: Evidence, layers: Sequence[Record]) -> list[Chart]:
    """One chart per task that has records of its layers."""
    charts = []
    for task in evidence.tasks:
        own = [layer for layer in layers if layer["task"] == task]
        if own:
            charts.append(_chart(evidence, task, own))
    return charts


def _chart(evidence: Evidence, task: str, layers: Sequence[Record]) -> Chart:
    methods = [m for m in GRID_METHODS if any(layer["method"] == m for layer in layers)]
    first = layers[0]
    run = f"{first['bits']} bit, Λ {first['lam']:g}, seed {first['seed']}"
    panels = [
        Panel(
            title,
            [_bars(m, [la for la in layers if la["method"] == m], title, value) for m in methods],
            {"xaxis": axis("", type="category"), "yaxis": axis(title), "barmode": "group"},
        )
        for title, value in QUANTITIES
    ]
    return Chart(
        f"layers_{task}",
        f"Layer by layer: {evidence.tasks[task]}",
        f"One run of each method ({run}). Size is that of the coded integers; entropy is of first "
        f"order. Data: {evidence.data(task)}.",
        "Bars of sparsity, entropy and size for "
        f"{len({layer['layer'] for layer in layers})} layers; the values stand in the table "
        "“Layer by layer”.",
        panels,
        [Key(method, COLOURS[method], "square") for method in methods],
        "strips",
    )


def _bars(
    method: str, layers: Sequence[Record], title: str, value: Callable[[Record], float]
) -> Spec:
    return {
        "type": "bar",
        "name": method,
        "x": [layer["layer"] for layer in layers],
        "y": [short(value(layer)) for layer in layers],
        "customdata": [layer["elements"] for layer in layers],
        "hovertemplate": (
            f"<b>%{{x}}</b>, {method}, {layers[0]['bits']} bit<br>{title}: %{{y:.4g}}<br>"
            "%{customdata:,} weights<extra></extra>"
        ),
        "marker": {"color": COLOURS["ECQ" if method == "ECQ" else "ECQx"]},
    }
