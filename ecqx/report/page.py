"""One self-contained page: verdicts, figures to explore, tables to sort, and their origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ecqx.report.comparison import Comparison
from ecqx.report.comparison_verdict import RELATIONS, Judgement, duel_table, rule, smallest_rule
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Table
from ecqx.report.render import FORMATS, VEGA_LITE, Figure
from ecqx.report.statistics import Estimate
from ecqx.report.style import LOOKS, page_config
from ecqx.report.verdicts import Claim, Verdict

# Tables longer than this are folded away until the reader opens them.
FOLDED_ROWS = 40

# How verdicts look: a mark, and a class of the style sheet.
MARKS = {
    **{Verdict.HOLDS: "✓", Verdict.FAILS: "✗", Verdict.OPEN: "?"},
    **{Verdict.WINS: "✓", Verdict.LOSES: "✗", Verdict.TIES: "=", Verdict.ABSENT: "–"},
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
    """What the results were made from: the suite's settings as YAML, checksums of data sets."""

    settings: str
    data: Mapping[str, str]


@dataclass(frozen=True)
class Contest:
    """ECQx beside other methods: verdicts, and the numbers behind them."""

    comparison: Comparison
    judgements: Sequence[Judgement]
    figure: Figure
    tables: Sequence[Table]


def render_page(
    evidence: Evidence,
    claims: Sequence[Claim],
    best: Sequence[Table],
    first: Sequence[Section],
    sections: Sequence[Section],
    contest: Contest | None,
    origin: Origin | None,
) -> str:
    """The page as HTML that loads nothing from outside itself.

    The tables ``best`` stand in the overview, ``first`` and ``sections`` before and after the
    claims; empty sections are left out.
    """
    return template("report.html.j2").render(
        suite=evidence.suite,
        measured=evidence.notes(evidence.tasks),
        claims=claims,
        best=best,
        first=list(filter(None, first)),
        sections=list(filter(None, sections)),
        contest=contest,
        rule=rule,
        smallest_rule=smallest_rule,
        duel_table=duel_table,
        origin=origin,
        library=_library(),
        config=script_json(page_config()),
        looks=LOOKS,
        marks=MARKS,
        classes=CLASSES,
        relations=RELATIONS,
        folded_rows=FOLDED_ROWS,
        formats=FORMATS,
    )


def template(name: str) -> Template:
    """A template of a page by its file's name, with the filters of tables and scripts."""
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
    environment.globals["inlined"] = inlined
    return environment.get_template(name)


def sort_key(cell: Cell, column: Column) -> str:
    """What a column is sorted by: the unrounded number, or else the text."""
    value = cell.mean if isinstance(cell, Estimate) else cell
    if isinstance(value, int | float):
        return "" if value != value else f"{value * column.scale:.12g}"
    return value or ""


def script_json(content: Any) -> Markup:
    """JSON that may stand in a script element, the same for the same content."""
    text = json.dumps(
        content, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return Markup(text.replace("<", "\\u003c"))


def inlined(name: str) -> Markup:
    """A style sheet or script of our own, as it stands."""
    return Markup(files("ecqx.report").joinpath("templates", name).read_text("utf-8"))


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    script: str = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE
    )
    return Markup(script)
