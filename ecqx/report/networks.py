"""The figures of single networks' weights: relevance against magnitude, relevance maps, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecqx.report.charts import Axis, Row, bars, counts, scatter, shaded, short
from ecqx.report.correlations import Correlation, Relevance
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column
from ecqx.report.records import GRID_METHODS
from ecqx.report.render import Figure, Panel
from ecqx.report.samples import AFTER, BEFORE, CELLS, Bytes, Floats, Records, picture_row, pool
from ecqx.report.statistics import sample_stride
from ecqx.report.style import LETTER, SHADES

# Name of a layer, network (BEFORE or AFTER), magnitudes of its weights, their relative relevance.
Layer = tuple[str, str, Floats, Floats]

# Bins of a histogram along each axis; dots of a scatter plot, at most.
BINS, DOTS = 32, 600
# Of the weights with relevance, the share that may lie below the lower end of the axis of R.
HIDDEN_SHARE = 0.002
# Relative relevance up to which a map has the lightest shade.
LEAST = 1e-4


# -- relevance of weights --------------------------------------------------------------------------


def build_relevance_figures(
    evidence: Evidence,
    relevance: Relevance,
    decoded: Relevance,
    correlations: Sequence[Correlation],
) -> list[Figure]:
    """For each task, relevance against magnitude and relevance place by place.

    ``relevance`` is that of the checkpoint in full precision, ``decoded`` that of the model decoded
    from its file. A layer whose relevance is zero throughout has nothing to draw.
    """
    figures = []
    for task in evidence.tasks:
        layers: list[Layer] = []
        for layer in relevance.get(task, {}):
            for kind, arrays in ((BEFORE, relevance[task]), (AFTER, decoded.get(task, {}))):
                if layer in arrays and np.any(arrays[layer][1]):
                    w, r = (np.abs(values).astype(np.float64) for values in arrays[layer])
                    layers.append((layer, kind, w, r / r.max()))
        if layers:
            found = {c.layer: c for c in correlations if c.task == task}
            figures.append(_against_magnitude(evidence, task, layers, found))
            figures.append(_weight_maps(evidence, task, layers))
    return figures


def _against_magnitude(
    evidence: Evidence, task: str, layers: Sequence[Layer], correlations: Mapping[str, Correlation]
) -> Figure:
    """For each layer a row: scatter plot in full precision, then a 2-D histogram per network."""
    x, y, edges = _axes(layers)
    fields = [_fields(weight, share, *edges) for *_, weight, share in layers]
    most = max(row["count"] for rows in fields for row in rows)
    panels, words = [], []
    for (layer, kind, weight, share), rows in zip(layers, fields, strict=True):
        if kind == BEFORE:
            dots = scatter(_dots(weight, share, x, y), x, y, {"x": "|w|", "y": "R"})
            panels.append(Panel(f"{layer}, single weights", dots, 120.0))
            words.append(_layer_words(layer, weight, share, correlations.get(layer)))
        panels.append(Panel(f"{layer}, {kind}", counts(rows, x, y, most, _FIELD), 120.0))
    return Figure(
        f"relevance_{task}",
        f"Relevance against magnitude: {evidence.tasks[task]}",
        f"Suite {evidence.suite}. First and last layer: at most {DOTS} weights in "
        "full precision, evenly strided, with histograms of both axes over all weights; and all "
        "weights, counted, in full precision and, with few distinct magnitudes, as decoded from "
        "the file. R is |relevance| over the largest of its layer; weights with R = 0 have no "
        f"place on the logarithmic axis. {' '.join(words)} Data: {evidence.data(task)}.",
        f"Scatter plots and two-dimensional histograms. {' '.join(words)}",
        panels,
        columns=max(sum(name == layers[0][0] for name, *_ in layers) + 1, 2),
    )


# Tooltips of a two-dimensional histogram; the second "to" has a space, since titles must differ.
_FIELD = {"x": "|w| from", "x2": "to", "y": "R from", "y2": "to ", "count": "weights"}


def _layer_words(layer: str, weight: Floats, share: Floats, found: Correlation | None) -> str:
    words = f"{layer}: {weight.size:,} weights, R = 0 for {100 * np.mean(share == 0):.1f} %"
    if found:
        number = Column("", "", "number", 2)
        words += f", Pearson {number.text(found.pearson)}, Spearman {number.text(found.spearman)}"
    return f"{words}."


def _axes(layers: Sequence[Layer]) -> tuple[Axis, Axis, tuple[Floats, Floats]]:
    """Axes of all panels, which end a little above the largest value, and the edges of the bins."""
    shares = np.concatenate([share[share > 0] for *_, share in layers])
    bottom = min(math.floor(math.log10(float(np.quantile(shares, HIDDEN_SHARE)))), -1)
    x = Axis("magnitude |w|", (0.0, 1.02 * max(float(weight.max()) for *_, weight, _ in layers)))
    powers = [10.0**power for power in range(bottom, 1)]
    y = Axis("relative relevance R", (10.0**bottom, 10**0.1), "log", powers, format="~e")
    return x, y, (np.linspace(*x.domain, BINS + 1), np.geomspace(*y.domain, BINS + 1))


def _fields(weight: Floats, share: Floats, x_edges: Floats, y_edges: Floats) -> list[Row]:
    """Cells of a two-dimensional histogram that are not empty."""
    bins: Any = (x_edges, y_edges)
    numbers = np.histogram2d(weight.ravel(), share.ravel(), bins=bins)[0]
    across, up = ([short(edge, 4) for edge in edges.tolist()] for edges in bins)
    return [
        {"x": across[i], "x2": across[i + 1], "y": up[j], "y2": up[j + 1], "count": int(number)}
        for (i, j), number in np.ndenumerate(numbers)
        if number
    ]


def _dots(magnitude: Floats, share: Floats, x: Axis, y: Axis) -> list[Row]:
    """Some weights as dots; histograms of all as boxes in the upper and the right 15 %."""
    magnitude, share = magnitude.ravel(), share.ravel()
    stride = sample_stride(magnitude.size, DOTS)
    dots = zip(magnitude[::stride].tolist(), share[::stride].tolist(), strict=True)
    rows: list[Row] = [{"x": short(w, 4), "y": short(r, 4)} for w, r in dots if r >= y.domain[0]]
    right, (bottom, top) = x.domain[1], y.domain
    decades = math.log10(top / bottom)
    for count, low, high in _boxes(magnitude, x.domain):
        rows.append({"x": low, "x2": high, "y": short(top / 10 ** (0.15 * decades * count))})
        rows[-1]["y2"] = top
    for count, low, high in _boxes(
        np.log10(share[share > 0]), (math.log10(bottom), math.log10(top))
    ):
        place = {"y": short(10**low), "y2": short(10**high)}
        rows.append({"x": short(right * (1 - 0.15 * count)), "x2": short(right), **place})
    return rows


def _boxes(values: Floats, domain: tuple[float, float]) -> list[tuple[float, float, float]]:
    """Height, relative to the highest, and ends of the bins that are not empty."""
    numbers, edges = np.histogram(values, BINS, domain)
    heights = (numbers / numbers.max()).tolist()
    boxes = zip(heights, edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [(short(h, 4), short(low), short(high)) for h, low, high in boxes if h]


def _weight_maps(evidence: Evidence, task: str, layers: Sequence[Layer]) -> Figure:
    """Relative relevance of each weight at its place in the layer."""
    panels = []
    for layer in dict.fromkeys(name for name, *_ in layers):
        maps = [(kind, _shades(share)) for name, kind, _, share in layers if name == layer]
        panels.append(picture_row(layer, maps))
    return Figure(
        f"relevance_map_{task}",
        f"Relevance of weights, place by place: {evidence.tasks[task]}",
        "A row is an output of the layer, a column one of its inputs, kernels row by row; means "
        f"over neighbours where there are more than {CELLS}. R, |relevance| over the largest of "
        f"its layer, goes by its logarithm from light ({LEAST:g} and less) to dark (1); white is "
        f"R = 0. Data: {evidence.data(task)}.",
        f"Maps of {', '.join(panel.title for panel in panels)}.",
        panels,
        columns=1,
    )


def _shades(share: Floats) -> Bytes:
    """Shades by the logarithm of relevance from LEAST to 1; white where it is zero."""
    pooled = pool(share.reshape(share.shape[0], -1))
    with np.errstate(divide="ignore"):
        decades = np.log10(pooled) / -math.log10(LEAST)
    return shaded(np.where(pooled > 0, np.clip(1 + decades, 0, 1), np.nan), SHADES)


# -- layers ----------------------------------------------------------------------------------------


def build_layer_figures(evidence: Evidence, layers: Records) -> list[Figure]:
    """Sparsity, entropy and size of each layer, ECQ beside ECQx, per task that has records."""
    return [
        _layers(evidence, task, own)
        for task in evidence.tasks
        if (own := [layer for layer in layers if layer["task"] == task])
    ]


def _layers(evidence: Evidence, task: str, layers: Records) -> Figure:
    methods = [m for m in GRID_METHODS if any(layer["method"] == m for layer in layers)]
    names = list(dict.fromkeys(_layer_name(layer["layer"]) for layer in layers))
    margin = MARGIN_OF_NAMES + LETTER * min(max(map(len, names)), 24)  # longer names are cut
    first = layers[0]
    panels = []
    for title, key, factor in QUANTITIES:
        rows = [
            {
                "series": layer["method"],
                "name": _layer_name(layer["layer"]),
                "value": short(factor * float(layer[key]), 5),
                "elements": f"{layer['elements']:,}",
            }
            for layer in layers
        ]
        labels = {"series": "method", "name": "layer", "value": title, "elements": "weights"}
        chart = bars(rows, names, methods, labels)
        panels.append(Panel(title, chart, 11.0 * len(names), margin))
    return Figure(
        f"layers_{task}",
        f"Layer by layer: {evidence.tasks[task]}",
        f"One run of each method ({first['bits']} bit, Λ {first['lam']:g}, seed {first['seed']}). "
        "Size is that of the coded integers; entropy is of first order. "
        f"Data: {evidence.data(task)}.",
        f"Bars of sparsity, entropy and size for {len(names)} layers; the values stand in the "
        "table “Layer by layer”.",
        panels,
        {"Series": methods},
    )


# Title, key of a layer's record, factor.
QUANTITIES = (
    ("sparsity (%)", "sparsity", 100),
    ("entropy (bit/weight)", "entropy_bits_per_weight", 1),
    ("size (kB)", "bytes", 1e-3),
)
# What stands left of bars beside the names of the layers, in points.
MARGIN_OF_NAMES = 10.0


def _layer_name(parameter: str) -> str:
    """Name of the module that a weight belongs to; one that has a number only is "module N"."""
    name = parameter.removesuffix(".weight")
    return f"module {name}" if name.isdigit() else name
