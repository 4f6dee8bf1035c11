"""The page of a search: its Pareto front as a picture and a table, in one file."""

from __future__ import annotations

from markupsafe import Markup

from ecqx.experiment.search_result import HEADERS, Candidate, SearchResult
from ecqx.report.charts import FRONTS, Axis, Row, curves, short
from ecqx.report.page import inlined, template
from ecqx.report.render import Figure, Panel
from ecqx.report.style import FRONT, FULL_PRECISION, LOOKS

# Points of loss that the picture shows at least.
DEPTH = 5.0
# Of the names below the table.
NAMES = Markup("dt { font-weight: 600; margin-top: .4rem; } dd { margin: 0; }")
LABELS = {"setting": "setting", "bytes": "bytes", "drop": "loss (points)"}


def search_page(found: SearchResult) -> str:
    """The page as HTML."""
    figure = front_figure(found)
    return template("search.html.j2").render(
        title=figure.title,
        style=inlined("page.css") + NAMES,
        figure=figure,
        picture=Markup(figure.svg()),
        headers=HEADERS,
        rows=found.rows,
        about=[*found.about, *(("remark", line) for line in found.remarks)],
    )


def front_figure(found: SearchResult) -> Figure:
    """Size and loss of the files near the chosen one, the front joined, that one as a star."""
    max_drop, chosen = found.settings.max_drop, found.chosen
    # A file that has lost its task would press all others together.
    depth = max(DEPTH, 4 * max_drop, 1.5 * chosen.bound)
    files = [one for one in found.candidates if one.drop <= depth]
    sizes = [one.bytes / 1000 for one in files]
    lowest, highest = -depth, max(0.1 * depth, *(-1.1 * one.drop for one in files))
    across = Axis("file size (kB)", (0.9 * min(sizes), 1.1 * max(sizes)), "log")
    up = Axis("change of validation accuracy (points)", (lowest, highest))
    allowed = {"kind": "reference", "series": FULL_PRECISION, "y": 0.0, "y0": -max_drop, "y1": 0.0}
    rows: list[Row] = [allowed]
    for order, one in enumerate(sorted(files, key=lambda one: one.bytes)):
        marks = _marks(one, depth, is_front=one in found.front, is_chosen=one is chosen)
        rows += [row | {"order": order} for row in marks]
    used = {one.setting["method"] for one in files}
    series = [name for name in LOOKS if name in used or name in (FULL_PRECISION, FRONT)]
    chart = curves(rows, across, up, series, LABELS, fronts=True)
    return Figure(
        name="front",
        title=f"the smallest file, {found.data}",
        caption=(
            "Each mark is a file. The front joins those that no other file beats in size and "
            "accuracy, with the upper bounds (95 %) of their losses below them; the star is the "
            f"chosen file. Grey: at most {max_drop:g} points below full precision. Files that lose "
            f"more than {depth:g} points are left out here."
        ),
        alt=(
            f"{len(files)} files by size and loss of accuracy; the chosen one has "
            f"{chosen.bytes:,} bytes."
        ),
        panels=[Panel("", chart, height=150)],
        switches={"Series": series},
        # Lines of single methods, beside the front of all.
        hidden=(FRONTS,),
    )


def _marks(one: Candidate, depth: float, is_front: bool, is_chosen: bool) -> list[Row]:
    """What is drawn of a file, as rows of `ecqx.report.charts.curves`, down to a loss of depth."""
    x, y = short(one.bytes / 1000), short(-one.drop)
    words = {
        "setting": one.words,
        "bytes": f"{one.bytes:,}",
        "drop": f"{one.drop:.2f}, at most {one.bound:.2f}",
    }
    row: Row = {"series": one.setting["method"], "x": x, "y": y, **words}
    if is_front:
        ends = {"x0": x, "x1": x, "y0": short(-min(one.bound, depth)), "y1": y}
        found = [row | ends | {"kind": "point"}, {"kind": "front", "series": FRONT, "x": x, "y": y}]
    else:
        found = [row | {"kind": "run"}]
    return [*found, row | {"kind": "published"}] if is_chosen else found
