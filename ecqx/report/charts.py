"""Interactive charts, as data: what plotly draws when the page is opened.

A chart has panels, each a plotly figure of its own, so that they wrap on narrow screens, and one
key for all of them. Colours are CSS expressions; the page resolves them in its light or dark theme.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ecqx.report.style import Picture

# A trace or a layout of plotly.
Spec = dict[str, Any]
Kind = Literal["panels", "strips"]

COLOURS: dict[str, str] = {"ECQ": "var(--ecq)", "ECQx": "var(--ecqx)"}
NEUTRAL, PAPER = "var(--faint)", "var(--card)"
SYMBOLS: dict[str, str] = {"ECQ": "square", "ECQx": "circle"}
DASHES: dict[str, str] = {"ECQ": "dash", "ECQx": "solid"}


@dataclass(frozen=True)
class Panel:
    """One plotly figure with the heading that stands over it.

    Attributes
    ----------
    title : str
    traces : sequence of dict
    layout : dict
    aspect : float or None
        Width over height of the pictures that it shows; others have a height of their own.
    """

    title: str
    traces: Sequence[Spec]
    layout: Spec
    aspect: float | None = None


@dataclass(frozen=True)
class Key:
    """One entry of a chart's key; on the page a button that hides and shows what it names.

    Attributes
    ----------
    label : str
        Name of the traces.
    colour : str
    mark : {"square", "circle", "star", "line", "box"}
    hollow : bool
    """

    label: str
    colour: str
    mark: Literal["square", "circle", "star", "line", "box"] = "circle"
    hollow: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes
    ----------
    name : str
        Anchor; that of the static figure if there is one.
    title, caption, alt : str
        As for `Picture`.
    panels : sequence of Panel
    keys : sequence of Key
    kind : {"panels", "strips"}
        Several columns of panels, or one wide panel below the other.
    files : tuple of str
        The static figure, as paths beside the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: Sequence[Panel]
    keys: Sequence[Key] = ()
    kind: Kind = "panels"
    files: tuple[str, ...] = ()

    def json(self) -> str:
        """Traces and layouts of the panels, for a script element."""
        return script_json([{"data": p.traces, "layout": p.layout} for p in self.panels])


def chart_of(picture: Picture, panels: Sequence[Panel] = (), keys: Sequence[Key] = ()) -> Chart:
    """The interactive form of a static figure; without panels the page draws it by itself."""
    words = (picture.name, picture.title, picture.caption, picture.alt)
    return Chart(*words, panels, keys, files=static_files(picture))


def static_files(picture: Picture) -> tuple[str, ...]:
    """Where the static figure lies beside the page."""
    return tuple(f"figures/{picture.name}.{ending}" for ending in ("svg", "png"))


def script_json(content: Any) -> str:
    """JSON that may stand in a script element, the same for the same content."""
    text = json.dumps(
        content, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.replace("<", "\\u003c")


def short(value: float, digits: int = 5) -> float:
    """A number with as many significant digits as a drawing needs."""
    return float(f"{value:.{digits}g}")


def axis(title: str, **more: Any) -> Spec:
    """An axis of a panel."""
    return {"title": {"text": title}, "automargin": True, **more}
