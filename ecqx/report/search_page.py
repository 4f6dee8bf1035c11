"""The page of a search: its Pareto front as a picture and a table, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ecqx.report.charts import FRONTS, Axis, Row, curves, short
from ecqx.report.page import inlined
from ecqx.report.render import Figure, Panel
from ecqx.report.style import FRONT, FULL_PRECISION, LOOKS

# Points of loss that are in sight, beyond those of the front.
DEPTH = 5.0
LABELS = {"setting": "setting", "bytes": "bytes", "drop": "loss (points)"}


@dataclass(frozen=True)
class Mark:
    """A file of the search.

    ``drop`` is its loss of validation accuracy in points, ``bound`` the upper bound of that.
    """

    method: str
    setting: str
    bytes: int
    drop: float
    bound: float
    is_front: bool
    is_chosen: bool


def search_page(
    title: str,
    marks: Sequence[Mark],
    max_drop: float,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    about: Sequence[tuple[str, str]],
) -> str:
    """The page as HTML.

    Parameters
    ----------
    marks : sequence of Mark
    max_drop : float
        The allowed loss, in points.
    headers, rows : sequence of str
        The front as a table, cells as a reader sees them.
    about : sequence of (str, str)
        What stands under the table: names and sentences.
    """
    environment = Environment(
        loader=PackageLoader("ecqx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    figure = front_figure(title, marks, max_drop)
    return environment.get_template("search.html.j2").render(
        title=title,
        style=inlined("page.css"),
        figure=figure,
        picture=Markup(figure.svg()),
        headers=headers,
        rows=rows,
        about=about,
    )


def front_figure(title: str, marks: Sequence[Mark], max_drop: float) -> Figure:
    """Size and loss of all files, the front joined, the chosen file as a star."""
    front = [mark for mark in marks if mark.is_front]
    sizes = [mark.bytes / 1000 for mark in marks]
    lowest = min(-DEPTH, *(-1.1 * mark.bound for mark in front), -1.5 * max_drop)
    highest = max(0.5, *(-1.1 * mark.drop for mark in marks))
    across = Axis("file size (kB)", (0.9 * min(sizes), 1.1 * max(sizes)), "log")
    up = Axis("change of validation accuracy (points)", (lowest, highest))
    allowed = {"kind": "reference", "series": FULL_PRECISION, "y": 0.0, "y0": -max_drop, "y1": 0.0}
    rows: list[Row] = [allowed]
    for order, mark in enumerate(sorted(marks, key=lambda mark: mark.bytes)):
        rows += [row | {"order": order} for row in _rows(mark)]
    used = {mark.method for mark in marks}
    series = [name for name in LOOKS if name in used or name in (FULL_PRECISION, FRONT)]
    chosen = next(mark for mark in marks if mark.is_chosen)
    chart = curves(rows, across, up, series, LABELS, fronts=True)
    return Figure(
        name="front",
        title=title,
        caption=(
            "Each mark is a file. The front joins those that no other file beats in size and "
            "accuracy, with the upper bounds (95 %) of their losses below them; the star is the "
            f"chosen file. Grey: at most {max_drop:g} points below full precision."
        ),
        alt=(
            f"{len(marks)} files by size and loss of accuracy; the chosen one has "
            f"{chosen.bytes:,} bytes."
        ),
        panels=[Panel("", chart, height=150)],
        switches={"Series": series},
        # Lines of single methods, beside the front of all.
        hidden=(FRONTS,),
    )


def _rows(mark: Mark) -> list[Row]:
    """What is drawn of a file, as rows of `ecqx.report.charts.curves`."""
    x, y = short(mark.bytes / 1000), short(-mark.drop)
    words = {
        "setting": mark.setting,
        "bytes": f"{mark.bytes:,}",
        "drop": f"{mark.drop:.2f}, at most {mark.bound:.2f}",
    }
    row: Row = {"series": mark.method, "x": x, "y": y, **words}
    if not mark.is_front:
        found = [row | {"kind": "run"}]
    else:
        ends = {"x0": x, "x1": x, "y0": short(-mark.bound), "y1": y}
        found = [row | ends | {"kind": "point"}, {"kind": "front", "series": FRONT, "x": x, "y": y}]
    return [*found, row | {"kind": "published"}] if mark.is_chosen else found
