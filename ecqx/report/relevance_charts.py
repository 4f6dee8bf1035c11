"""The interactive charts of relevance: of weights and of inputs, before and after quantization."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecqx.report.charts import Chart, Panel, Spec, axis, short, static_files
from ecqx.report.correlations import Relevance
from ecqx.report.evidence import Evidence
from ecqx.report.style import Picture

Floats = NDArray[np.float64]
Samples = Mapping[str, NDArray[Any]]

BINS = 32
SHOWN_SHARE = 0.002
# Cells of a map, each way; neighbours are averaged where a layer or an input has more.
CELLS = 64
PIXELS = 128
BEFORE, AFTER = "full precision", "decoded"
# Of the relative relevance; less is drawn alike.
LEAST = 1e-4


def build_relevance_charts(
    evidence: Evidence,
    relevance: Relevance,
    decoded: Relevance,
    samples: Samples,
    classes: Mapping[str, Sequence[str]],
    pictures: Sequence[Picture],
) -> list[Chart]:
    """For each task: relevance against magnitude, maps of weights, maps of inputs.

    Parameters
    ----------
    evidence : Evidence
    relevance, decoded : Relevance
        Of the checkpoint in full precision and of the model decoded from its file.
    samples : mapping of str to ndarray
        ``TASK/input``, ``TASK/relevance KIND``, ``TASK/label`` and ``TASK/label KIND``, where KIND
        is "full precision" or "decoded".
    classes : mapping of str to sequence of str
        Task → names of the classes.
    pictures : sequence of Picture
        The static figures, to name their files.
    """
    charts = []
    files = {picture.name: static_files(picture) for picture in pictures}
    for task in evidence.tasks:
        layers = [
            (layer, kind, *arrays[layer])
            for layer in relevance.get(task, {})
            for kind, arrays in ((BEFORE, relevance[task]), (AFTER, decoded.get(task, {})))
            if layer in arrays and np.any(arrays[layer][1])
        ]
        if layers:
            name = f"relevance_{task}"
            charts.append(_joint_chart(evidence, task, layers, files.get(name, ())))
            charts.append(_weight_maps(evidence, task, layers))
        if f"{task}/input" in samples:
            charts.append(_input_maps(evidence, task, samples, classes.get(task, ())))
    return charts


Layer = tuple[str, str, NDArray[Any], NDArray[Any]]


def _joint_chart(
    evidence: Evidence, task: str, layers: Sequence[Layer], files: tuple[str, ...]
) -> Chart:
    """Counts of weights over magnitude and relative relevance."""
    panels = []
    for layer in dict.fromkeys(name for name, *_ in layers):
        own = [entry for entry in layers if entry[0] == layer]
        points = [(np.abs(w).ravel().astype(float), _relative(r).ravel()) for *_, w, r in own]
        edges = _edges(points)
        panels += [
            _joint_panel(f"{layer}, {kind}", *pair, *edges)
            for (_, kind, *_), pair in zip(own, points, strict=True)
        ]
    return Chart(
        f"relevance_{task}",
        f"Relevance against magnitude: {evidence.tasks[task]}",
        "All weights of the first and the last layer, counted; in full precision and, with few "
        "distinct magnitudes, as decoded from the file. R is |relevance| over the largest of its "
        "layer; weights with R = 0 have no place on the logarithmic axis. "
        f"Data: {evidence.data(task)}.",
        "Two-dimensional histograms of the weights of " + "; ".join(p.title for p in panels) + ".",
        panels,
        files=files,
    )


def _relative(relevance: NDArray[Any]) -> Floats:
    magnitude = np.abs(relevance).astype(np.float64)
    return np.asarray(magnitude / magnitude.max())


def _edges(points: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Edges of the bins of all panels of a layer; below the lowest lies hardly any weight."""
    shares = np.concatenate([share[share > 0] for _, share in points])
    bottom = min(math.floor(math.log10(float(np.quantile(shares, SHOWN_SHARE)))), -1)
    largest = 1.02 * max(float(magnitude.max()) for magnitude, _ in points)
    return np.linspace(0, largest, BINS + 1), np.linspace(bottom, 0.1, BINS + 1)


def _joint_panel(
    title: str, magnitude: Floats, share: Floats, x_edges: Floats, y_edges: Floats
) -> Panel:
    shown = share > 0
    counts = np.histogram2d(
        magnitude[shown], np.log10(share[shown]), bins=(x_edges.tolist(), y_edges.tolist())
    )[0].T.astype(int)
    words = f"{title}: {magnitude.size:,} weights, R = 0 for {100 * np.mean(~shown):.1f} %"
    trace = {
        "type": "heatmap",
        "x": _middles(x_edges),
        "y": [short(10**y) for y in (y_edges[:-1] + y_edges[1:]) / 2],
        # The page draws the logarithm of counts.
        "z": counts.tolist(),
        "meta": "counts",
        "hovertemplate": "|w| %{x:.3g}, R %{y:.2g}: %{customdata} weights<extra></extra>",
        "colorscale": [[0, "var(--shade-0)"], [1, "var(--shade-1)"]],
        "colorbar": {
            "title": {"text": "weights", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }
    layout = {
        "xaxis": axis("magnitude |w|"),
        "yaxis": axis("relative relevance R", type="log", dtick=1, exponentformat="power"),
    }
    return Panel(words, [trace], layout)


def _middles(edges: Floats) -> list[float]:
    return [short(x) for x in (edges[:-1] + edges[1:]) / 2]


def _weight_maps(evidence: Evidence, task: str, layers: Sequence[Layer]) -> Chart:
    """Relative relevance of each weight at its place in the layer."""
    panels = [_weight_panel(f"{name}, {kind}", relevance) for name, kind, _, relevance in layers]
    return Chart(
        f"relevance_map_{task}",
        f"Relevance of weights, place by place: {evidence.tasks[task]}",
        "A row is an output of the layer, a column one of its inputs, kernels row by row; means "
        f"over neighbours where there are more than {CELLS}. Colour is the logarithm of R, "
        "|relevance| over the largest of its layer; empty: R = 0. "
        f"Data: {evidence.data(task)}.",
        "Heat maps of " + "; ".join(panel.title for panel in panels) + ".",
        panels,
    )


def _weight_panel(title: str, relevance: NDArray[Any]) -> Panel:
    share = _relative(relevance)
    flat = share.reshape(share.shape[0], -1)
    pooled = pool(flat)
    steps = [math.ceil(n / m) for n, m in zip(flat.shape, pooled.shape, strict=True)]
    trace = {
        "type": "heatmap",
        "y0": 0,
        "dy": steps[0],
        "x0": 0,
        "dx": steps[1],
        "z": [
            [None if cell == 0 else round(max(math.log10(cell), -9.0), 2) for cell in row]
            for row in pooled.tolist()
        ],
        "zmin": math.log10(LEAST),
        "zmax": 0,
        "hovertemplate": "output %{y}, input %{x}: log₁₀ R = %{z}<extra></extra>",
        "colorscale": [[0, "var(--shade-0)"], [1, "var(--shade-1)"]],
        "colorbar": {
            "title": {"text": "log₁₀ R", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }
    down = {"autorange": "reversed", "showgrid": False}
    return Panel(
        title,
        [trace],
        {"xaxis": axis("input", showgrid=False), "yaxis": axis("output", **down)},
    )


def pool(values: NDArray[Any], cells: int = CELLS) -> Floats:
    """Means over blocks, so that no side is longer than ``cells``; the last blocks may be cut."""
    pooled = np.asarray(values, dtype=np.float64)
    for side in (0, 1):
        length = pooled.shape[side]
        step = math.ceil(length / cells)
        starts = np.arange(0, length, step)
        widths = np.diff([*starts, length])
        sums = np.add.reduceat(pooled, starts, axis=side)
        pooled = sums / (widths[:, None] if side == 0 else widths)
    return pooled


def _input_maps(evidence: Evidence, task: str, samples: Samples, classes: Sequence[str]) -> Chart:
    """Test samples with the relevance of their inputs, side by side."""
    kinds = [kind for kind in (BEFORE, AFTER) if f"{task}/relevance {kind}" in samples]
    panels = [
        _input_panel(
            _labels(task, samples, classes, i, kinds),
            samples[f"{task}/input"][i],
            [(kind, samples[f"{task}/relevance {kind}"][i]) for kind in kinds],
        )
        for i in range(len(samples[f"{task}/input"]))
    ]
    labelled = f"{task}/label" in samples
    words = f"The first test samples{' of different classes' if labelled else ''}"
    return Chart(
        f"relevance_inputs_{task}",
        f"Relevance of inputs: {evidence.tasks[task]}",
        f"{words}, and how much each input speaks for (warm) or against (cold) what is true of "
        "them, by layer-wise relevance propagation (composite epsilon_plus): "
        f"{' and '.join(kinds)}. Both maps of a sample have the same scale. "
        f"Data: {evidence.data(task)}.",
        "Test samples with heat maps of the relevance of their inputs. "
        + " ".join(f"{panel.title}." for panel in panels),
        panels,
    )


def _labels(
    task: str, samples: Samples, classes: Sequence[str], index: int, kinds: Sequence[str]
) -> str:
    """True class of a sample, and what each network makes of it."""
    if f"{task}/label" not in samples:
        return f"Test sample {index + 1}"

    def named(key: str) -> str:
        label = int(samples[f"{task}/{key}"][index])
        return classes[label] if label < len(classes) else str(label)

    found = ", ".join(f"{kind}: {named(f'label {kind}')}" for kind in kinds)
    return f"True class {named('label')}; {found}"


def _input_panel(
    title: str, pixels: NDArray[Any], maps: Sequence[tuple[str, NDArray[Any]]]
) -> Panel:
    pooled = [(kind, pool(relevance)) for kind, relevance in maps]
    largest = max(float(np.abs(values).max()) for _, values in pooled) or 1.0
    traces = [_input_trace(pixels)]
    for kind, values in pooled:
        traces.append(
            {
                "type": "heatmap",
                "z": [[short(cell, 3) for cell in row] for row in values.tolist()],
                "zmin": -short(largest, 3),
                "zmax": short(largest, 3),
                "colorscale": [[0, "var(--cold)"], [0.5, "var(--middle)"], [1, "var(--warm)"]],
                "showscale": False,
                "hovertemplate": f"{kind}<br>row %{{y}}, column %{{x}}: %{{z}}<extra></extra>",
            }
        )
    return side_by_side(title, traces, ["input", *(kind for kind, _ in maps)], pixels.shape[-2:])


def _input_trace(pixels: NDArray[Any]) -> Spec:
    if pixels.ndim == 3:
        return picture_trace(pixels)
    values = pool(pixels)
    return {
        "type": "heatmap",
        "z": [[short(cell, 3) for cell in row] for row in values.tolist()],
        "colorscale": [[0, "#000000"], [1, "#ffffff"]],
        "showscale": False,
        "hovertemplate": "input<br>row %{y}, column %{x}: %{z}<extra></extra>",
    }


def picture_trace(pixels: NDArray[Any], largest: int = PIXELS) -> Spec:
    """An image of shape (C, H, W), uint8, no side longer than ``largest``."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).squeeze())
    image.thumbnail((largest, largest))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    source = base64.b64encode(stream.getvalue()).decode("ascii")
    return {
        "type": "image",
        "source": f"data:image/png;base64,{source}",
        "hovertemplate": "row %{y}, column %{x}: %{color}<extra></extra>",
    }


def side_by_side(
    title: str, traces: Sequence[Spec], names: Sequence[str], shape: tuple[int, ...]
) -> Panel:
    """Pictures of one ``shape`` (H, W) in a row, each with its name over it and square pixels."""
    count, gap = len(traces), 0.03
    width = (1 - gap * (count - 1)) / count
    placed, layout = [], Spec(margin={"l": 4, "r": 4, "t": 52, "b": 4}, annotations=[])
    for i, (trace, name) in enumerate(zip(traces, names, strict=True)):
        number = "" if i == 0 else str(i + 1)
        left = i * (width + gap)
        # A frame alone: masks may be white at their edges.
        frame = {"mirror": True, "ticks": "", "showticklabels": False, "showgrid": False}
        frame["constrain"] = "domain"
        layout[f"xaxis{number}"] = {**frame, "domain": [short(left), short(left + width)]}
        layout[f"yaxis{number}"] = {
            **frame,
            "autorange": "reversed",
            "anchor": f"x{number}",
            "scaleanchor": f"x{number}",
            "constraintoward": "top",
        }
        layout["annotations"].append(
            {
                **{"text": name, "showarrow": False, "xref": "paper", "yref": "paper"},
                **{"x": short(left + width / 2), "y": 1, "xanchor": "center", "yanchor": "bottom"},
            }
        )
        placed.append({**trace, "xaxis": f"x{number}", "yaxis": f"y{number}"})
    return Panel(title, placed, layout, short(count * shape[1] / shape[0], 3))
