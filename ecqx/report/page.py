"""One self-contained page with the claims, the figures and the tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from ecqx.report.formats import Table
from ecqx.report.records import Evidence, source_of
from ecqx.report.style import Picture
from ecqx.report.verdicts import Claim, Verdict

# Tables longer than this are folded away until the reader opens them.
FOLDED_ROWS = 30

MARKS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.OPEN: "?"}
CLASSES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.OPEN: "open"}


def render_page(
    evidence: Evidence,
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
    tables: Sequence[Table],
) -> str:
    """Render the page.

    Parameters
    ----------
    evidence : Evidence
    claims, pictures, tables : sequences
        In the order in which they are shown.

    Returns
    -------
    str
        HTML that refers to nothing outside itself but the works it cites.
    """
    environment = Environment(
        loader=PackageLoader("ecqx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html.j2").render(
        suite=evidence.suite,
        tasks=[
            (title, source_of(evidence.of_task(task)).text())
            for task, title in evidence.tasks.items()
        ],
        claims=claims,
        pictures=pictures,
        tables=tables,
        marks=MARKS,
        classes=CLASSES,
        folded_rows=FOLDED_ROWS,
    )


def _data_uri(svg: bytes) -> str:
    """A picture that lies in the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
