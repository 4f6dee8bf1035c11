"""How all figures look, and how they are written: the same bytes for the same data.

ECQ and ECQx differ in colour, lightness, marker and line, so that they stay apart in grey and for
readers who confuse colours.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

COLOURS: dict[str, str] = {"ECQ": "#DD8500", "ECQx": "#00508C"}
MARKERS: dict[str, str] = {"ECQ": "s", "ECQx": "o"}
LINES: dict[str, Any] = {"ECQ": "--", "ECQx": "-"}
NEUTRAL = "#555555"

# Keyword arguments of a line.
Style = dict[str, Any]
PANEL_WIDTH, PANEL_HEIGHT, HEADING_HEIGHT = 4.6, 3.5, 0.6

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.handlelength": 2.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 5,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
    # Glyphs as paths look alike in every viewer; a fixed salt keeps the ids of the parts.
    "svg.fonttype": "path",
    "svg.hashsalt": "ecqx",
}


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes
    ----------
    name : str
        File name without ending.
    title, caption : str
        What it shows; how to read it.
    alt : str
        The same for those who cannot see it.
    png, svg : bytes
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: bytes


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults with the settings above, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, SETTINGS))
        yield


def canvas(width: float, height: float, layout: Literal["constrained"] | None) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels; a slot that is left over stays undrawn."""
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    # One panel alone is wider, so that title and legend have room.
    width = PANEL_WIDTH * columns if columns > 1 else 1.4 * PANEL_WIDTH
    figure = canvas(width, PANEL_HEIGHT * rows + 1.1, "constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def finish(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Write a figure as PNG and SVG without a date."""
    # The layout is found once, not for each format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    written = []
    for kind, metadata in (
        ("png", {"Software": None}),
        ("svg", {"Date": None, "Creator": None}),
    ):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata=metadata)
        written.append(stream.getvalue())
    return Picture(name, title, caption, alt, *written)


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Title with a second line that says what was measured; the panels stay below both."""
    inch = 1 / float(figure.get_size_inches()[1])
    figure.text(0.5, 1 - 0.1 * inch, title, ha="center", va="top", size=12.5, weight="bold")
    figure.text(0.5, 1 - 0.35 * inch, subtitle, ha="center", va="top", size=9.5, color=NEUTRAL)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0.0, 0.0, 1.0, 1 - HEADING_HEIGHT * inch), w_pad=0.08, h_pad=0.06)


def legend_below(figure: Figure, handles: Sequence[Line2D | Patch], columns: int = 4) -> None:
    """One legend for all panels, below them, with as many columns as the width takes."""
    for count in range(min(columns, len(handles)), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=count, frameon=False
        )
        if count == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()


def method_handle(method: str) -> Line2D:
    """Legend entry of a method."""
    return Line2D(
        [],
        [],
        color=COLOURS[method],
        marker=MARKERS[method],
        linestyle=LINES[method],
        label=method,
    )


def reference_handle(label: str) -> Line2D:
    """Legend entry of the full-precision line."""
    return Line2D([], [], color=NEUTRAL, linestyle=":", linewidth=1.4, label=label)


# In percent or points.
WIDE, NEAR = 15, 10
# The most telling first: a later one is left out where it would touch one of these.
TICK_DISTANCES = (0, 1, 10, 50, 3, 5, 2, 20, 90, 30, 15, 0.5)
TICK_SPACING = 0.045


def stretched_axis(axes: Axes, lowest: float, highest: float, top: float) -> bool:
    """Limit the ordinate to the data; stretch it towards ``top`` where it is wide and near that.

    Where one curve ends at the accuracy of guessing, differences of a point would be lost on a
    linear axis. The stretched one is logarithmic in the distance to ``top``, plus one point.

    Parameters
    ----------
    axes : Axes
    lowest, highest : float
        Range of the data with its deviation bars, in percent or points.
    top : float
        Where the axis is widest: 100 for accuracies, 0 for drops.

    Returns
    -------
    bool
        Whether the axis is stretched.
    """
    if highest - lowest < WIDE or highest < top - NEAR:
        pad = max(0.06 * (highest - lowest), 0.05)
        axes.set_ylim(lowest - pad, highest + pad)
        return False

    def forward(values: NDArray[np.float64]) -> NDArray[np.float64]:
        distance = np.asarray(values) - top
        return np.asarray(np.sign(distance) * np.log10(1 + np.abs(distance)))

    def inverse(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(top + np.sign(values) * (10 ** np.abs(values) - 1))

    axes.set_yscale("function", functions=(forward, inverse))
    ends = forward(np.array([lowest, highest]))
    pad = 0.05 * (ends[1] - ends[0])
    limits = inverse(np.array([ends[0] - pad, ends[1] + pad]))
    axes.set_ylim(float(limits[0]), float(limits[1]))
    ticks = spaced_ticks(forward, top, float(limits[0]), min(float(limits[1]), max(highest, top)))
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    return True


def spaced_ticks(
    forward: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    top: float,
    low: float,
    high: float,
) -> list[float]:
    """Round distances from ``top`` within [low, high], as many as have room for their labels."""
    places = forward(np.array([low, high]))
    room = TICK_SPACING * float(places[1] - places[0])
    shown: list[float] = []
    for distance in TICK_DISTANCES:
        for tick in sorted({top - distance, top + distance}):
            place = float(forward(np.array(tick)))
            others = (float(forward(np.array(other))) for other in shown)
            if low <= tick <= high and all(abs(place - other) >= room for other in others):
                shown.append(tick)
    return sorted(shown)
