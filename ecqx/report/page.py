"""One self-contained page with the claims, the figures and the tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from ecqx.report.evidence import Evidence
from ecqx.report.formats import Table
from ecqx.report.sources import describe, source_of
from ecqx.report.style import Picture
from ecqx.report.verdicts import Claim, Verdict

# Tables longer than this are folded away until the reader opens them.
FOLDED_ROWS = 30

MARKS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.OPEN: "?"}
CLASSES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.OPEN: "open"}


@dataclass(frozen=True)
class Part:
    """Pictures and tables that stand together, in the order in which they are shown."""

    pictures: Sequence[Picture]
    tables: Sequence[Table]


def render_page(evidence: Evidence, claims: Sequence[Claim], yardstick: Part, rest: Part) -> str:
    """Render the page.

    Parameters
    ----------
    evidence : Evidence
    claims : sequence of Claim
        In the order in which they are shown.
    yardstick : Part
        The comparison with the published algorithm; without tables it has no section.
    rest : Part
        All other pictures and tables.

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
        measured=describe(
            (title, source_of(evidence.of_task(task))) for task, title in evidence.tasks.items()
        ),
        claims=claims,
        yardstick=yardstick,
        rest=rest,
        marks=MARKS,
        classes=CLASSES,
        folded_rows=FOLDED_ROWS,
    )


def _data_uri(svg: bytes) -> str:
    """A picture that lies in the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")
