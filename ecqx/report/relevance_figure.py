"""The figure of relevance against magnitude: first and last layer of one network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from ecqx.report.correlations import Correlation, Relevance
from ecqx.report.curves import suite_and_data
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column
from ecqx.report.statistics import sample_stride
from ecqx.report.style import HEADING_HEIGHT, Picture, canvas, finish, heading

Floats = NDArray[np.float64]
Layers = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]

# Neither method's colour: here nothing is quantized yet.
COLOUR = "#6A4C93"
LAYER_HEIGHT = 4.4
POINTS = 3000
BINS = 40
SHOWN_SHARE = 0.002


def build_relevance_figures(
    evidence: Evidence, relevance: Relevance, correlations: Sequence[Correlation]
) -> list[Picture]:
    """One figure per task; a layer whose relevance is zero throughout has nothing to draw."""
    pictures = []
    for task in evidence.tasks:
        drawn = [c for c in correlations if c.task == task and c.without_relevance < 1]
        if drawn:
            pictures.append(_figure(evidence, task, relevance[task], drawn))
    return pictures


def _figure(
    evidence: Evidence, task: str, layers: Layers, correlations: Sequence[Correlation]
) -> Picture:
    height = LAYER_HEIGHT * len(correlations) + HEADING_HEIGHT
    figure = canvas(10.4, height, None)
    for index, found in enumerate(correlations):
        top = 1 - (HEADING_HEIGHT + LAYER_HEIGHT * index) / height
        _layer(figure, top, LAYER_HEIGHT / height, found, *layers[found.layer])
    title = f"Relevance against magnitude: {evidence.tasks[task]}"
    where = suite_and_data(evidence, [task])
    subtitle = f"{where}, full-precision checkpoint, before quantization"
    heading(figure, title, subtitle)
    words = [f"{c.layer}: {_correlation_words(c)}." for c in correlations]
    return finish(
        figure,
        f"relevance_{task}",
        title,
        f"Left: at most {POINTS} weights, evenly strided, with histograms of both axes over all "
        "weights. Right: all weights, counted. R is |relevance| over the largest of its layer; "
        "weights with R = 0 have no place on the logarithmic axis. "
        f"Data: {evidence.data(task)}.",
        f"Scatter plots and two-dimensional histograms. {' '.join(words)}",
    )


def _correlation_words(found: Correlation) -> str:
    number = Column("", "", "number", 2)
    pearson, spearman = number.text(found.pearson), number.text(found.spearman)
    return f"Pearson {pearson}, Spearman {spearman}"


def _layer(
    figure: Figure,
    top: float,
    height: float,
    found: Correlation,
    weight: NDArray[Any],
    relevance: NDArray[Any],
) -> None:
    """Scatter with marginal histograms, and the joint histogram, of one layer."""
    magnitude = np.abs(weight).ravel().astype(np.float64)
    share = np.abs(relevance).ravel().astype(np.float64)
    share /= share.max()
    words = f"{found.layer}: {found.weights:,} weights, {_correlation_words(found)}"
    figure.text(
        0.5,
        top - 0.02 * height,
        f"{words}, R = 0 for {100 * found.without_relevance:.1f} %",
        ha="center",
        va="top",
        size=10.5,
    )
    grid = figure.add_gridspec(
        2,
        5,
        left=0.07,
        right=0.94,
        top=top - 0.1 * height,
        bottom=top - 0.89 * height,
        wspace=0.03,
        hspace=0.03,
        width_ratios=(5, 1, 0.95, 5.4, 0.2),
        height_ratios=(1, 5),
    )
    scatter = figure.add_subplot(grid[1, 0])
    joint = figure.add_subplot(grid[:, 3])
    x_edges, y_edges = _edges(magnitude, share)
    _scatter(scatter, magnitude, share)
    _margin(figure.add_subplot(grid[0, 0]), magnitude, x_edges, "vertical")
    _margin(figure.add_subplot(grid[1, 1]), share, y_edges, "horizontal")
    mesh = _joint(joint, magnitude, share, x_edges, y_edges)
    bar = figure.colorbar(
        mesh,
        cax=figure.add_subplot(grid[:, 4]),
        label="number of weights",
        ticks=LogLocator(subs=(1, 2, 5)),
        format=FuncFormatter(lambda count, _: f"{count:g}"),
    )
    bar.minorticks_off()
    for axes in (scatter, joint):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(x_edges[0], x_edges[-1])
        axes.set_ylim(y_edges[0], y_edges[-1])
        axes.set_xlabel("magnitude |w|")
        axes.set_ylabel("relative relevance R")


def _edges(magnitude: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Edges of the bins; the ordinate ends where hardly any weight lies below."""
    lowest = float(np.quantile(share[share > 0], SHOWN_SHARE))
    bottom = min(math.floor(math.log10(lowest)), -1)
    return 1.02 * float(magnitude.max()) * np.linspace(0, 1, BINS + 1), np.logspace(
        bottom, 0.1, BINS + 1
    )


def _scatter(axes: Axes, magnitude: Floats, share: Floats) -> None:
    stride = sample_stride(magnitude.size, POINTS)
    x, y = magnitude[::stride], share[::stride]
    # Thousands of vector markers would make the page heavy.
    axes.plot(
        x[y > 0],
        y[y > 0],
        linestyle="none",
        marker="o",
        markersize=2.2,
        markeredgewidth=0,
        alpha=0.45,
        color=COLOUR,
        rasterized=True,
    )


def _margin(
    axes: Axes,
    values: Floats,
    edges: Floats,
    orientation: Literal["vertical", "horizontal"],
) -> None:
    """Histogram of one axis of the scatter, without scales of its own."""
    axes.hist(values, bins=list(edges), orientation=orientation, color=COLOUR, alpha=0.6)
    if orientation == "horizontal":
        axes.set_yscale("log")
        axes.set_ylim(edges[0], edges[-1])
    else:
        axes.set_xlim(edges[0], edges[-1])
    axes.set_axis_off()


def _joint(
    axes: Axes, magnitude: Floats, share: Floats, x_edges: Floats, y_edges: Floats
) -> QuadMesh:
    """Counts of weights over both axes; empty fields stay white."""
    bins: Any = (x_edges, y_edges)
    counts: Floats = np.histogram2d(magnitude, share, bins=bins)[0].T
    # The lightest colours would be lost on white.
    shades = matplotlib.colormaps["Purples"](np.linspace(0.25, 1, 256))
    return axes.pcolormesh(
        x_edges,
        y_edges,
        np.where(counts > 0, counts, np.nan),
        norm=LogNorm(1, max(float(counts.max()), 2.0)),
        cmap=ListedColormap(shades),
        rasterized=True,
    )
