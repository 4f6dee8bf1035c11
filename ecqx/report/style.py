"""How figures look: one colour and one mark for each method, and the settings of print and page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

FULL_PRECISION, FRONT, PUBLISHED = "full precision", "Pareto front", "published"


@dataclass(frozen=True)
class Look:
    """Colour and outline of a series' marks, the same in every figure.

    The colour has a contrast of at least 3 to white and to the dark page; the outline is an SVG
    path between -1 and 1.
    """

    colour: str
    path: str


def _polygon(corners: int, turn: float = 0, inner: float | None = None) -> str:
    """A regular polygon, turned by degrees; with ``inner`` a star of that inner radius."""
    radii = ([1.1] if inner is None else [1.2, inner]) * corners
    points = []
    for index, radius in enumerate(radii):
        angle = math.radians(360 * index / len(radii) + turn - 90)
        points.append(f"{radius * math.cos(angle):.3f},{radius * math.sin(angle):.3f}")
    return f"M{'L'.join(points)}Z"


_BAR = "M-1.2,-0.15H1.2V0.15H-1.2Z"
LOOKS: dict[str, Look] = {
    "ECQ": Look("#c26d00", _polygon(4, 45)),
    "ECQx": Look("#2f7fd0", "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z"),
    "EC2T": Look("#d1529f", _polygon(3, 180)),
    "EC2Tx": Look("#a84aa0", _polygon(3)),
    "FantastIC4": Look("#1f9a78", _polygon(2, 0, 0.7)),
    "FantastIC4x": Look("#2f7d5b", _polygon(4)),
    "NNCodec uniform": Look("#7d7d7d", _polygon(4, 45, 0.35)),
    "NNCodec dependent": Look("#8a7a3c", _polygon(4, 0, 0.35)),
    "pruning": Look("#9a6324", _polygon(3, -90)),
    "LSQ": Look("#7d68c4", _polygon(3, 90)),
    "torchao": Look("#0f93b5", _polygon(5, 0, 0.45)),
    "fp16": Look("#6f7d1f", _polygon(6)),
    "int8": Look("#c4514b", _polygon(5)),
    FULL_PRECISION: Look("#7a828c", _BAR),
    FRONT: Look("#d9a400", _BAR),
    PUBLISHED: Look("#7a828c", _polygon(8, 0, 0.6)),
}

# Shades of counts and relevances, from the least to the most; both stand out from white.
SHADES = ("#d5cbe8", "#9c7fd0", "#5d2fa3", "#24064f")
# Relevance against a class, none, and for it.
DIVERGING = ("#1f5fa8", "#f7f7f7", "#b3261e")

# Widths of a figure in print, in points: one column and the whole page of two.
COLUMN, PAGE, GAP = 252, 516, 12
# Letters of 8 points are about this wide.
LETTER = 4.3


def _config(text: str, size: float, factor: float) -> dict[str, Any]:
    """Vega-Lite's settings for texts of a colour and size, and marks larger by a factor."""
    words = {"labelFontSize": size, "titleFontSize": size, "titleFontWeight": "normal"}
    colours = {"labelColor": text, "titleColor": text}
    lines = {"gridColor": "#808080", "gridOpacity": 0.22, "domainColor": "#808080"}
    axis = {**words, **colours, **lines, "tickColor": "#808080", "titlePadding": 4}
    axis["labelSeparation"] = size / 2
    bottom = {"orient": "bottom", "labelLimit": 0, "symbolSize": 50}
    return {
        "background": None,
        "axis": axis,
        "axisY": {"minExtent": 3 * size, "maxExtent": 3 * size},
        "legend": {**words, **colours, **bottom, "layout": {"bottom": {"anchor": "middle"}}},
        "title": {"fontSize": size, "color": text, "fontWeight": "normal", "offset": 4},
        "text": {"fontSize": size, "color": text},
        "view": {"stroke": None},
        "scale": {"minSize": 12 * factor, "maxSize": 60 * factor},
        "style": {
            "mean": {"size": 26 * factor},
            "run": {"size": 8 * factor},
            "star": {"size": 90 * factor},
            "dot": {"size": 3 * factor},
            "curve": {"strokeWidth": 1.3 * factor**0.5},
            "spread": {"strokeWidth": 0.8 * factor**0.5},
            "band": {"strokeWidth": 6 * factor**0.5},
        },
    }


def print_config(legend_columns: int) -> dict[str, Any]:
    """Settings for PNG, SVG and PDF: black on white, 8 points."""
    config = _config("black", 8, 1)
    config["legend"]["columns"] = legend_columns
    more = {"background": "white", "padding": 2, "concat": {"spacing": GAP}, "aria": False}
    return config | {"font": "Liberation Sans"} | more


def page_config() -> dict[str, Any]:
    """Settings for the page: text in the colour of its surroundings, light or dark."""
    padding = {"left": 2, "top": 6, "right": 12, "bottom": 2}
    return _config("currentColor", 12, 2) | {"font": "inherit", "padding": padding}
