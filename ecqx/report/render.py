"""From figures to files: PNG, SVG and PDF by vl_convert, and charts for the page.

The same figure gives the same bytes in every process, on every machine with the same packages: the
fonts are those that vl_convert brings.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pikepdf
import vl_convert
from PIL import Image

from ecqx.report.charts import Chart
from ecqx.report.style import COLUMN, GAP, LETTER, PAGE, print_config

VEGA_LITE = "6.4"
FORMATS = ("png", "svg", "pdf")
PIXELS_PER_INCH = 200
# Name of the selection that zooms a chart of the page.
ZOOM = "zoom"
# What stands left of a panel, in points: the labels of its ordinate and their title.
MARGIN = 38


@dataclass(frozen=True)
class Panel:
    """One chart of a figure with the heading that stands over it.

    Attributes
    ----------
    title : str
    chart : Chart
    height : float or None
        In points; None is the usual height of a curve.
    margin : float
        What the chart needs beside its own width, in points.
    fixed : bool
        Whether the chart has a size of its own, as pictures have.
    """

    title: str
    chart: Chart
    height: float | None = None
    margin: float = MARGIN
    fixed: bool = False


@dataclass(frozen=True)
class Figure:
    """Panels that belong together, with the words that explain them.

    Attributes
    ----------
    name : str
        Name of its files, without ending.
    title, caption : str
        What it shows; how to read it. Neither is part of the pictures.
    alt : str
        The same for those who cannot see it.
    panels : sequence of Panel
    switches : dict of str to sequence of str
        What the page lets a reader hide, in groups: series, bit widths, kinds of marks.
    hidden : sequence of str
        Those that are hidden at first.
    key : dict of str to str
        Colours that have a name and cannot be hidden.
    columns : int or None
        Panels side by side in print.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: list[Panel]
    switches: dict[str, list[str]] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    key: dict[str, str] = field(default_factory=dict)
    columns: int | None = None

    def files(self) -> dict[str, bytes]:
        """The figure in every format, by the name's ending."""
        spec = json.dumps(self._printed())
        options: dict[str, Any] = {"vl_version": VEGA_LITE}
        scale = PIXELS_PER_INCH / 72
        return {
            "png": _with_few_colours(vl_convert.vegalite_to_png(spec, scale=scale, **options)),
            "svg": vl_convert.vegalite_to_svg(spec, **options).encode(),
            "pdf": _with_fixed_id(vl_convert.vegalite_to_pdf(spec, **options)),
        }

    def _printed(self) -> dict[str, Any]:
        """All panels in one chart, as wide as one column of a page or as both."""
        columns = self.columns or {1: 1, 2: 2, 4: 2}.get(len(self.panels), 3)
        whole = COLUMN if columns == 1 else PAGE
        spec = self._chart(columns, whole)
        # Labels at the rims, which only the renderer can measure, take part of the width.
        size = re.search(r'width="(\d+)"', vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE))
        beyond = int(size[1]) - whole if size else 0
        return self._chart(columns, whole - beyond) if abs(beyond) > 1 else spec

    def _chart(self, columns: int, whole: float) -> dict[str, Any]:
        width = (whole - GAP * (columns - 1)) / columns
        charts = []
        for panel in self.panels:
            title = textwrap.wrap(panel.title, int(width / LETTER) - 4)
            size: dict[str, Any] = {} if panel.fixed else {"width": width - panel.margin}
            if not panel.fixed:
                size["height"] = panel.height or min(0.55 * width, 130)
            charts.append(panel.chart.properties(title=title, **size))
        names = [*self.key, *(name for names in self.switches.values() for name in names)]
        longest = max(map(len, names), default=1)
        spec: dict[str, Any] = alt.concat(*charts, columns=columns).to_dict()
        return spec | {"config": print_config(max(1, int(whole / (LETTER * longest + 22))))}


def page_chart(panel: Panel, description: str) -> dict[str, Any]:
    """The chart of a panel for the page: as wide as its place, without a legend of series."""
    spec: dict[str, Any] = panel.chart.properties(description=description).to_dict()
    del spec["config"]
    _without_legends(spec)
    if not panel.fixed:
        spec |= {"width": "container", "height": 1.4 * (panel.height or 160)}
    marks = spec["layer"][-1] if "layer" in spec else spec
    if all("scale" in marks["encoding"].get(channel, {}) for channel in "xy"):
        zoom = {"type": "interval", "zoom": "wheel![event.shiftKey]"}
        marks["params"] = [{"name": ZOOM, "select": zoom, "bind": "scales"}]
        if marks is spec:
            marks["params"] += panel.chart.to_dict().get("params", [])
    return spec


def _without_legends(spec: Any) -> None:
    """Take the legends of series and bit widths away; the page has switches in their place."""
    if isinstance(spec, list):
        for part in spec:
            _without_legends(part)
    elif isinstance(spec, dict):
        if spec.get("field") in ("series", "width") and "scale" in spec:
            spec["legend"] = None
        for part in spec.values():
            _without_legends(part)


def _with_fixed_id(pdf: bytes) -> bytes:
    """The same PDF with an id that is a hash of its content."""
    stream = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf)) as document:
        document.save(stream, deterministic_id=True)
    return stream.getvalue()


def _with_few_colours(png: bytes) -> bytes:
    """The same PNG on a palette, a fifth as large, with its resolution."""
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(stream, "PNG", optimize=True, dpi=(PIXELS_PER_INCH, PIXELS_PER_INCH))
    return stream.getvalue()
