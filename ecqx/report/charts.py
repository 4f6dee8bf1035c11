"""The panels that figures are made of: each is one Altair chart, for the page and for print.

Rows of a panel name their ``series``, and some their ``width``; the page hides a series, a bit
width or a kind of mark by entering its name in the chart's parameter `HIDDEN`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ecqx.report.style import FRONT, FULL_PRECISION, LOOKS, PUBLISHED, SHADES

Row = dict[str, Any]
# A chart in the language of Vega-Lite.
Spec = dict[str, Any]
# Kinds of marks that can be hidden like a series.
HIDDEN, SPREAD, RUNS, FRONTS = "hidden", "spread over seeds", "single runs", "Pareto fronts"
# Names of rows' columns → their headings where a mark is pointed at.
Labels = Mapping[str, str]
# Only rows whose series and bit width are not hidden.
SHOWN = f"indexof({HIDDEN}, datum.series) < 0 && indexof({HIDDEN}, datum.width) < 0"


@dataclass(frozen=True)
class Axis:
    """An axis of a panel; without ``ticks`` these follow from the domain.

    A "symlog" scale is linear below ``linear_below``. ``format``, in the language of d3, is that of
    labels of scales that are not linear.
    """

    title: str
    domain: tuple[float, float]
    scale: Literal["linear", "log", "symlog"] = "linear"
    ticks: Sequence[float] = ()
    linear_below: float | None = None
    format: str = "~r"

    def encode(self, channel: type[alt.X] | type[alt.Y], field: str) -> Any:
        """The axis as a channel of a chart."""
        scale: dict[str, Any] = {"domain": list(self.domain), "nice": False}
        axis: dict[str, Any] = {"title": self.title, "labelSeparation": 5}
        axis |= {"values": list(self.ticks)} if self.ticks else {"tickCount": 5}
        if self.scale == "symlog":
            scale["constant"] = self.linear_below
        if self.scale != "linear":
            scale["type"] = self.scale
            grid = {"grid": channel is alt.Y}
            axis |= {"labelOverlap": "greedy", "format": self.format, **grid}
        return channel(f"{field}:Q", scale=alt.Scale(**scale), axis=alt.Axis(**axis))


def short(value: float, digits: int = 6) -> float:
    """A number with as many significant digits as a drawing needs."""
    return float(f"{value:.{digits}g}")


def curves(
    rows: Sequence[Row],
    x: Axis,
    y: Axis,
    series: Sequence[str],
    labels: Labels,
    *,
    widths: Sequence[str] = (),
    fronts: bool = False,
) -> Spec:
    """Marks with spread, joined along ``order`` or along each series' Pareto front.

    Parameters
    ----------
    rows : sequence of dict
        Of kind "point", with ``x, x0, x1, y, y0, y1`` and ``order`` or, for fronts, ``bytes`` and
        ``validation``; "run" and "published", with ``x`` and ``y``; "front", a line for all
        series; "reference", with ``y, y0, y1``.
    series, widths : sequence of str
        All series of the figure; bit widths, shown by the marks' sizes.
    labels : mapping of str to str
        What is shown of a mark that is pointed at.
    fronts : bool
        Whether lines join the Pareto-optimal points only: no other shown point of the series is as
        small and as accurate in validation.
    """
    kinds = {row["kind"] for row in rows}
    across, up = x.encode(alt.X, "x"), y.encode(alt.Y, "y")
    both = alt.Chart().encode(x=across, y=up)
    coloured = both.encode(color=_colour(series, alt.Legend(symbolOpacity=1)))
    marked: Any = {
        "shape": alt.Shape("series:N", scale=_scale(series, "path"), title=None),
        "tooltip": _tooltips(labels),
    }
    layers = []
    if "reference" in kinds:
        full = alt.Chart().transform_filter("datum.kind == 'reference'")
        grey: Any = {"color": LOOKS[FULL_PRECISION].colour, "clip": True}
        layers += [
            full.mark_rect(opacity=0.15, **grey).encode(y=y.encode(alt.Y, "y0"), y2="y1:Q"),
            full.mark_rule(strokeDash=[2, 3], **grey).encode(y=up),
        ]
    if "front" in kinds:
        front = both.transform_filter("datum.kind == 'front'").encode(order="order:Q")
        band: Any = {"strokeCap": "round", "strokeJoin": "round", "opacity": 0.4, "clip": True}
        layers.append(front.mark_line(style="band", color=LOOKS[FRONT].colour, **band))
    points = coloured.transform_filter("datum.kind == 'point'")
    spread = points.transform_filter(_unless(SPREAD)).mark_rule(style="spread", clip=True)
    layers += [
        spread.encode(x=across, y=y.encode(alt.Y, "y0"), y2="y1:Q"),
        spread.encode(x=x.encode(alt.X, "x0"), x2="x1:Q", y=up),
    ]
    line = _pareto_optimal(points) if fronts else points.encode(order="order:Q")
    layers.append(line.mark_line(style="curve", clip=True))
    if "run" in kinds:
        runs = coloured.transform_filter(f"datum.kind == 'run' && {_unless(RUNS)}")
        marks = runs.mark_point(style="run", filled=True, opacity=0.6, clip=True)
        layers.append(marks.encode(**marked))
    marks = points.mark_point(style="mean", filled=True, opacity=1, clip=True).encode(**marked)
    if len(widths) > 1:
        sizes = alt.Scale(domain=list(widths))
        legend = alt.Legend(symbolFillColor="#808080", symbolStrokeWidth=0)
        marks = marks.encode(size=alt.Size("width:O", scale=sizes, title=None, legend=legend))
    layers.append(marks)
    if "published" in kinds:
        theirs = coloured.transform_filter(f"datum.kind == 'published' && {_unless(PUBLISHED)}")
        # Round: mitred corners of a stroke would hide what lies near.
        edge: Any = {"stroke": "white", "strokeWidth": 0.5, "strokeJoin": "round"}
        stars = theirs.mark_point(style="star", filled=True, opacity=1, clip=True, **edge)
        layers.append(stars.encode(**marked | {"shape": alt.value(LOOKS[PUBLISHED].path)}))
    return _spec(alt.layer(*layers).transform_filter(SHOWN), rows)


def _pareto_optimal(points: alt.Chart) -> alt.Chart:
    """Only the points that no smaller point of the series equals in validation accuracy."""
    by_size = [alt.SortField("bytes"), alt.SortField("validation", order="descending")]
    order: Any = {"sort": by_size, "groupby": ["series"]}
    best = points.transform_window(best="max(validation)", **order)
    return (
        best.transform_window(before="lag(best)", **order)
        .transform_filter(
            f"(datum.before == null || datum.validation > datum.before) && {_unless(FRONTS)}"
        )
        .encode(order="bytes:Q")
    )


def bars(rows: Sequence[Row], names: Sequence[str], series: Sequence[str], labels: Labels) -> Spec:
    """Horizontal bars of ``value``, a group for each of ``name``, a bar for each series."""
    axis = alt.Axis(title=None, labelLimit=110, grid=False, minExtent=0, maxExtent=110)
    chart = alt.Chart().transform_filter(SHOWN).mark_bar()
    chart = chart.encode(
        x=alt.X("value:Q", title=None, axis=alt.Axis(tickCount=4, labelSeparation=5)),
        y=alt.Y("name:N", sort=list(names), axis=axis),
        yOffset=alt.YOffset("series:N", sort=list(series)),
        color=_colour(series, _SQUARES),
        tooltip=_tooltips(labels),
    )
    return _spec(chart, rows)


def counts(rows: Sequence[Row], x: Axis, y: Axis, most: int, labels: Labels) -> Spec:
    """A two-dimensional histogram: fields from ``x`` to ``x2`` and ``y`` to ``y2``, on white."""
    scale = alt.Scale(type="log", domain=[1, max(most, 2)], range=list(SHADES))
    legend = alt.Legend(title="weights", format="~r", gradientLength=120, gradientThickness=7)
    chart = alt.Chart(view=alt.ViewConfig(fill="white")).mark_rect(clip=True, aria=False)
    chart = chart.encode(
        x=x.encode(alt.X, "x"),
        x2="x2:Q",
        y=y.encode(alt.Y, "y"),
        y2="y2:Q",
        color=alt.Color("count:Q", scale=scale, legend=legend),
        tooltip=_tooltips(labels),
    )
    return _spec(chart, rows)


def scatter(rows: Sequence[Row], x: Axis, y: Axis, labels: Labels) -> Spec:
    """Small dots at ``x, y``, with the histograms of both axes: boxes to ``x2, y2`` at the rim."""
    both = alt.Chart().encode(x=x.encode(alt.X, "x"), y=y.encode(alt.Y, "y"))
    dots = both.transform_filter("!isValid(datum.x2)").encode(tooltip=_tooltips(labels))
    boxes = both.transform_filter("isValid(datum.x2)").encode(x2="x2:Q", y2="y2:Q")
    quiet: Any = {"clip": True, "aria": False}
    layers = (
        boxes.mark_rect(color=SHADES[0], **quiet),
        dots.mark_circle(style="dot", color=SHADES[2], opacity=1, **quiet),
    )
    return _spec(alt.layer(*layers, view=alt.ViewConfig(fill="white")), rows)


def pictures(
    images: Sequence[tuple[str, NDArray[np.uint8]]], width: float, key: Mapping[str, str]
) -> Spec:
    """Images of shape (H, W, 3) side by side, each under its name, with a size of their own.

    A ``key`` of colours and their names is drawn as a legend.
    """
    cell = width / len(images)
    tall = min(max(pixels.shape[0] / pixels.shape[1] for _, pixels in images) * cell, width / 2)
    rows = [
        {"x": (i + 0.5) * cell, "name": name, "url": _png(pixels)}
        for i, (name, pixels) in enumerate(images)
    ]
    across = alt.Scale(domain=[0, width], nice=False)
    base = alt.Chart().encode(x=alt.X("x:Q", scale=across, axis=None))
    image = base.mark_image(width=cell - 3, height=tall, aria=False)
    layers = [
        image.encode(url="url:N", y=alt.value(LINE + tall / 2)),
        base.mark_text(baseline="top").encode(text="name:N", y=alt.value(0)),
    ]
    if key:
        named = alt.Scale(domain=list(key), range=list(key.values()))
        colour = alt.Color("series:N", scale=named, title=None, legend=_SQUARES)
        layers.append(base.mark_square(opacity=0).encode(y=alt.value(0), color=colour))
    return _spec(alt.layer(*layers, width=width, height=LINE + tall), rows)


def shaded(shares: NDArray[np.float64], colours: Sequence[str]) -> NDArray[np.uint8]:
    """Numbers between 0 and 1 as colours along a new last axis, NaN as white."""
    anchors = np.array([list(bytes.fromhex(colour[1:])) for colour in colours])
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(shares, places, anchor) for anchor in anchors.T]
    pixels = np.where(np.isnan(shares)[..., None], 255.0, np.stack(channels, -1))
    return np.asarray(pixels.round(), np.uint8)


# A line of text, in points.
LINE = 14
# Least width and height of pictures, in pixels: viewers would blur the cells of smaller ones.
SHARP = 192


def _png(pixels: NDArray[np.uint8]) -> str:
    """A PNG file as a data URL."""
    factor = max(1, -(-SHARP // max(pixels.shape[:2])))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    # White pictures would have no edge.
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline="#808080")
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _spec(chart: alt.Chart | alt.LayerChart | alt.FacetChart, rows: Sequence[Row]) -> Spec:
    """The chart as data; a test validates all of them."""
    spec: Spec = chart.to_dict(validate=False)
    # Altair names the data that layers without any have; here they have those of the chart.
    for layer in spec.get("layer", []):
        del layer["data"]
    return {key: spec[key] for key in spec if key != "config"} | {"data": {"values": list(rows)}}


def _scale(series: Sequence[str], what: str) -> alt.Scale:
    return alt.Scale(domain=list(series), range=[getattr(LOOKS[name], what) for name in series])


def _colour(series: Sequence[str], legend: alt.Legend) -> alt.Color:
    return alt.Color("series:N", scale=_scale(series, "colour"), title=None, legend=legend)


_SQUARES = alt.Legend(
    symbolType="square", symbolOpacity=1, symbolStrokeWidth=0.5, symbolStrokeColor="#808080"
)


def _tooltips(labels: Labels) -> list[alt.Tooltip]:
    return [alt.Tooltip(field=name, type="nominal", title=text) for name, text in labels.items()]


def _unless(name: str) -> str:
    return f"indexof({HIDDEN}, '{name}') < 0"
