"""One self-contained page: verdicts, figures to explore, tables to sort, and their origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ecqx.report.comparison_verdict import RELATIONS, Judgement
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Table
from ecqx.report.render import FORMATS, VEGA_LITE, Figure
from ecqx.report.sources import describe, source_of
from ecqx.report.statistics import Estimate
from ecqx.report.style import LOOKS, page_config
from ecqx.report.verdicts import Claim, Verdict

# Tables longer than this are folded away until the reader opens them.
FOLDED_ROWS = 40

# How verdicts look: a mark, and a class of the style sheet.
MARKS = {
    **{Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.OPEN: "?"},
    **{Verdict.WINS: "✓", Verdict.LOSES: "✗", Verdict.TIES: "=", Verdict.MIXED: "?"},
}
CLASSES = {v: {"✓": "holds", "✗": "fails"}.get(mark, "open") for v, mark in MARKS.items()}


@dataclass(frozen=True)
class Section:
    """Figures and tables that stand together under one heading."""

    key: str
    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()

    def __bool__(self) -> bool:
        return bool(self.figures or self.tables)


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
    figure : Figure
    tables : sequence of Table
    """

    judgements: Sequence[Judgement]
    loss: str
    rules: Sequence[str]
    duels: Table
    figure: Figure
    tables: Sequence[Table]


@dataclass(frozen=True)
class Content:
    """What the page shows beside the records.

    Attributes
    ----------
    claims : sequence of Claim
        In the order in which they are shown.
    best : sequence of Table
        The best file of each task; empty where no grid was measured.
    first, sections : sequence of Section
        Before and after the claims, in the order in which they are shown; empty ones are left out.
    contest : Contest or None
        None where the suite compares no other methods.
    origin : Origin or None
    """

    claims: Sequence[Claim]
    best: Sequence[Table]
    first: Sequence[Section] = ()
    sections: Sequence[Section] = ()
    contest: Contest | None = None
    origin: Origin | None = field(default=None)


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
        first=[section for section in content.first if section],
        sections=[section for section in content.sections if section],
        library=_library(),
        config=script_json(page_config()),
        looks=LOOKS,
        marks=MARKS,
        classes=CLASSES,
        relations=RELATIONS,
        folded_rows=FOLDED_ROWS,
        formats=FORMATS,
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
    environment.filters["script_json"] = script_json
    environment.globals["inlined"] = _inlined
    return environment.get_template("report.html.j2")


def sort_key(cell: Cell, column: Column) -> str:
    """What a column is sorted by: the unrounded number, or else the text."""
    value = cell.mean if isinstance(cell, Estimate) else cell
    if isinstance(value, int | float):
        return "" if value != value else repr(value * column.scale)
    return value or ""


def script_json(content: Any) -> Markup:
    """JSON that may stand in a script element, the same for the same content."""
    text = json.dumps(
        content, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return Markup(text.replace("<", "\\u003c"))


def _inlined(name: str) -> Markup:
    """A style sheet or script of our own, as it stands."""
    return Markup(files("ecqx.report").joinpath("templates", name).read_text("utf-8"))


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    script: str = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE
    )
    return Markup(script)
