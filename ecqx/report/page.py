"""One self-contained page: verdicts, charts to explore, tables to sort, and their origin."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ecqx.report.charts import Chart, script_json
from ecqx.report.comparison_verdict import RELATIONS, Judgement
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Table
from ecqx.report.sources import describe, source_of
from ecqx.report.statistics import Estimate
from ecqx.report.style import Picture
from ecqx.report.tradeoff import tradeoff
from ecqx.report.verdicts import Claim, Verdict

# Tables longer than this are folded away until the reader opens them.
FOLDED_ROWS = 40
# Letters in a line of the packed library.
LINE = 4096

# How verdicts look: a mark, and a class of the style sheet.
MARKS = {
    **{Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.OPEN: "?"},
    **{Verdict.WINS: "✓", Verdict.LOSES: "✗", Verdict.TIES: "=", Verdict.MIXED: "?"},
}
CLASSES = {v: {"✓": "holds", "✗": "fails"}.get(mark, "open") for v, mark in MARKS.items()}


@dataclass(frozen=True)
class Section:
    """Charts and tables that stand together under one heading."""

    key: str
    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()

    def __bool__(self) -> bool:
        return bool(self.charts or self.tables)


@dataclass(frozen=True)
class Origin:
    """What the results were made from.

    Attributes
    ----------
    settings : str
        The suite's settings as YAML.
    data : mapping of str to str
        Checksums of the data sets.
    """

    settings: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class Contest:
    """ECQx beside other methods, as the page shows it.

    Attributes
    ----------
    judgements : sequence of Judgement
        One for each task.
    loss : str
        How much accuracy a file may lose.
    rules : sequence of str
        How the verdict follows from the numbers.
    duels : Table
        The numbers behind the verdict.
    picture : Picture
    tables : sequence of Table
    """

    judgements: Sequence[Judgement]
    loss: str
    rules: Sequence[str]
    duels: Table
    picture: Picture
    tables: Sequence[Table]

    @property
    def drawing(self) -> str:
        """The picture, to stand in the page."""
        return base64.b64encode(self.picture.svg).decode("ascii")


@dataclass(frozen=True)
class Content:
    """What the page shows beside the records.

    Attributes
    ----------
    claims : sequence of Claim
        In the order in which they are shown.
    best : sequence of Table
        The best file of each task; empty where no grid was measured.
    centre : Chart or None
        Accuracy against size; without panels, as the page draws the records themselves.
    sections : sequence of Section
        In the order in which they are shown; empty ones are left out.
    contest : Contest or None
        None where the suite compares no other methods.
    origin : Origin or None
    """

    claims: Sequence[Claim]
    best: Sequence[Table]
    centre: Chart | None
    sections: Sequence[Section]
    contest: Contest | None
    origin: Origin | None


def render_page(evidence: Evidence, content: Content) -> str:
    """Render the page.

    Returns
    -------
    str
        HTML that loads nothing from outside itself. Links lead to the works it cites and to the
        files that lie beside it.
    """
    return _template().render(
        suite=evidence.suite,
        measured=describe(
            (title, source_of(evidence.of_task(task))) for task, title in evidence.tasks.items()
        ),
        content=content,
        sections=[section for section in content.sections if section],
        runs=Markup(script_json(tradeoff(evidence))),
        library=_library(),
        licence=_licence(get_plotlyjs()),
        marks=MARKS,
        classes=CLASSES,
        relations=RELATIONS,
        folded_rows=FOLDED_ROWS,
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ecqx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sort_key"] = sort_key
    environment.globals["inlined"] = _inlined
    return environment.get_template("report.html.j2")


def sort_key(cell: Cell, column: Column) -> str:
    """What a column is sorted by: the unrounded number, or else the text."""
    value = cell.mean if isinstance(cell, Estimate) else cell
    if isinstance(value, int | float):
        return "" if value != value else repr(value * column.scale)
    return value or ""


def _inlined(name: str) -> Markup:
    """A style sheet or script of our own, as it stands."""
    return Markup(files("ecqx.report").joinpath("templates", name).read_text("utf-8"))


@cache
def _library() -> Markup:
    """The plotting library, packed by gzip and base64, which browsers undo: 2 MB instead of 5.

    plotly's Python package has its whole library only. The lines keep tools that show text, and
    git's differences, from one line of two million letters.
    """
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
    return Markup("\n".join(packed[i : i + LINE] for i in range(0, len(packed), LINE)))


def _licence(script: str) -> str:
    """The library's own notice, which stands at its head."""
    notice = re.match(r"/\*\*(.*?)\*/", script, re.S)
    lines = notice[1].splitlines() if notice else []
    return " · ".join(text for line in lines if (text := line.strip(" *")))
