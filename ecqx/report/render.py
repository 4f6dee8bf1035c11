"""From figures to files: PNG, SVG and PDF by vl_convert, and charts for the page.

The same figure gives the same bytes in every process, and on every machine with the same packages
that has no Liberation Sans of its own: vl_convert brings that font, but prefers the system's.
"""

from __future__ import annotations

import copy
import io
import re
import textwrap
from dataclasses import dataclass, field

import pikepdf
import vl_convert
from PIL import Image

from ecqx.report.charts import HIDDEN, Spec
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

    Without a ``height`` it is as high as curves are; ``margin`` is what it needs beside its own
    width. Both are in points. A ``fixed`` chart has a size of its own, as pictures have.
    """

    title: str
    chart: Spec
    height: float | None = None
    margin: float = MARGIN
    fixed: bool = False


@dataclass(frozen=True)
class Figure:
    """Panels that belong together, with the words that explain them.

    Attributes
    ----------
    title, caption, alt : str
        What it shows; how to read it; the same for those who cannot see it. Not in the pictures.
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
        spec, svg = self._drawn()
        scale = PIXELS_PER_INCH / 72
        png = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=scale)
        pdf = vl_convert.vegalite_to_pdf(spec, vl_version=VEGA_LITE)
        return {"png": _with_few_colours(png), "svg": svg.encode(), "pdf": _with_fixed_id(pdf)}

    def svg(self) -> str:
        """The figure as an SVG picture."""
        return self._drawn()[1]

    def _drawn(self) -> tuple[Spec, str]:
        """The chart in print, and its SVG."""
        columns = self.columns or {1: 1, 2: 2, 4: 2}.get(len(self.panels), 3)
        whole = COLUMN if columns == 1 else PAGE
        spec = self._printed(columns, whole)
        svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
        # Labels at the rims, which only the renderer can measure, take part of the width.
        beyond = int(svg.split('width="', 1)[1].split('"', 1)[0]) - whole
        if abs(beyond) > 1:
            spec = self._printed(columns, whole - beyond)
            svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
        return spec, _with_own_ids(svg)

    def _printed(self, columns: int, whole: float) -> Spec:
        """All panels in one chart, about as wide as ``whole``."""
        width = (whole - GAP * (columns - 1)) / columns
        panels = []
        for panel in self.panels:
            size = {"width": width - panel.margin, "height": panel.height or min(0.55 * width, 130)}
            title = {"title": textwrap.wrap(panel.title, int(width / LETTER) - 4)}
            panels.append(panel.chart | title | ({} if panel.fixed else size))
        names = [*self.key, *(name for names in self.switches.values() for name in names)]
        legend = max(1, int(whole / (LETTER * max(map(len, names), default=1) + 22)))
        return {
            "concat": panels,
            "columns": columns,
            "params": self._params(),
            "config": print_config(legend),
        }

    def page_charts(self) -> list[Spec]:
        """The charts for the page, each as wide as its place, without a legend of series."""
        return list(map(self._page_chart, self.panels))

    def _page_chart(self, panel: Panel) -> Spec:
        spec = copy.deepcopy(panel.chart)
        for part in (spec, *spec.get("layer", [])):
            for channel in part.get("encoding", {}).values():
                named = isinstance(channel, dict) and channel.get("field") in ("series", "width")
                if named and "scale" in channel:
                    # The page has switches in its place.
                    channel["legend"] = None
        spec |= {"params": self._params(), "description": f"{self.title}: {panel.title}"}
        if panel.fixed:
            return spec
        spec |= {"width": "container", "height": 1.4 * (panel.height or 160)}
        marks = spec["layer"][-1] if "layer" in spec else spec
        if all("scale" in marks["encoding"][channel] for channel in "xy"):
            select = {"type": "interval", "zoom": "wheel![event.shiftKey]"}
            zoom = {"name": ZOOM, "select": select, "bind": "scales"}
            marks["params"] = [*marks.get("params", []), zoom]
        return spec

    def _params(self) -> list[Spec]:
        return [{"name": HIDDEN, "value": list(self.hidden)}]


def _with_own_ids(svg: str) -> str:
    """The same SVG with ids that count from 0; the renderer counts through all that it draws."""
    ids = re.findall(r'\bid="([^"]+)"', svg)
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(ids))}
    parts = re.split(r'((?<=id=")[^"]+(?=")|(?<=url\(#)[^)]+(?=\)))', svg)
    return "".join(f"id{numbers[p]}" if i % 2 else p for i, p in enumerate(parts))


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
