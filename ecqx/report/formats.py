"""One table, many formats: Markdown, CSV and LaTeX files, the page, and the terminal.

All of them are made of the same rounded numbers. In CSV a number and its spread are columns of
their own, and what a row was measured on stands in the row.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from tabulate import tabulate

from ecqx.report.records import MISSING
from ecqx.report.sources import LABELS, Source, describe, join
from ecqx.report.statistics import Estimate

Cell = str | int | float | Estimate | None
Kind = Literal["text", "number", "spread", "interval"]
# What further columns of CSV a kind has.
SUFFIXES = {"spread": ("sd",), "interval": ("low", "high")}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    key, header : str
        Name in CSV, and the heading with its unit elsewhere.
    kind : {"text", "number", "spread", "interval"}
        ``spread`` shows mean ± standard deviation, ``interval`` the mean with its 95 % interval.
    scale : float
        Factor from the cell's unit to the shown one: 100 from fractions to percent.
    value : callable, optional
        Gives the cell of what a row is about, such as a setting; else its attribute ``key`` does.
    paper : {"column", "caption", "no"}
        Where LaTeX shows it; "caption" names a value that all rows share, and is a column where
        there are several.
    """

    key: str
    header: str
    kind: Kind = "text"
    digits: int = 0
    scale: float = 1.0
    value: Callable[[Any], Cell] | None = None
    paper: Literal["column", "caption", "no"] = "column"

    def of(self, subject: Any) -> Cell:
        """The cell of what a row is about."""
        cell: Cell = self.value(subject) if self.value else getattr(subject, self.key)
        return cell

    def parts(self, cell: Cell) -> list[str]:
        """The rounded numbers of a cell, one per CSV column; empty where there is none."""
        extra = SUFFIXES.get(self.kind, ())
        if cell is None or isinstance(cell, str):
            return [cell or ""] + [""] * len(extra)
        shown = (cell if isinstance(cell, Estimate) else Estimate(cell)).scaled(self.scale)
        return [self._round(getattr(shown, name)) for name in ("mean", *extra)]

    def _round(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return ""
        # Adding zero turns a rounded -0.0 into 0.0.
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"

    def text(self, cell: Cell) -> str:
        """The cell as a reader sees it."""
        first, *rest = self.parts(cell)
        if not first:
            return MISSING
        if isinstance(cell, str):
            return first
        if rest and all(rest):
            first = f"{first} ± {rest[0]}" if len(rest) == 1 else f"{first} [{', '.join(rest)}]"
        return first.replace("-", "−")

    def names(self) -> list[str]:
        """The column's names in CSV."""
        return [self.key, *(f"{self.key}_{suffix}" for suffix in SUFFIXES.get(self.kind, ()))]


@dataclass(frozen=True)
class Row:
    """Cells of one row and what they were measured on."""

    task: str
    cells: tuple[Cell, ...]
    source: Source


@dataclass(frozen=True)
class Table:
    """A table before it is written: what it shows (title) and how to read it (caption).

    ``name`` is its file's without ending, ``tasks`` are titles by key; the first column has the
    title of the row's task.
    """

    name: str
    title: str
    caption: str
    suite: str
    tasks: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: list[Row] = field(default_factory=list)

    def headers(self) -> list[str]:
        """Headings as a reader sees them."""
        return [column.header for column in self.columns]

    def body(self) -> list[list[str]]:
        """Cells as a reader sees them."""
        return [
            [column.text(cell) for column, cell in zip(self.columns, row.cells, strict=True)]
            for row in self.rows
        ]

    def aligned(self) -> list[Literal["left", "right"]]:
        """Alignment of the columns: numbers to the right."""
        return ["left" if column.kind == "text" else "right" for column in self.columns]

    def notes(self, with_start: bool = True) -> list[str]:
        """What the rows were measured on, in sentences."""
        return describe(((self.tasks[row.task], row.source) for row in self.rows), with_start)

    def data(self, tasks: Sequence[str]) -> str:
        """The data that the rows of some tasks were measured on."""
        rows = (row for row in self.rows if row.task in tasks)
        return "; ".join(dict.fromkeys(join(row.source["data"]) for row in rows))


def to_terminal(
    headers: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str], at_most: int
) -> str:
    """The first rows for a terminal, and how many more there are; empty without rows."""
    if not rows:
        return ""
    shown = tabulate(rows[:at_most], headers, disable_numparse=True, colalign=aligned)
    more = len(rows) - at_most
    return f"{shown}\n… and {more} more" if more > 0 else shown


def to_markdown(table: Table) -> str:
    """The table as Markdown, with its caption and what it was measured on."""
    return f"# {table.title}\n\n{table.caption}\n\n{markdown_body(table)}\n"


def markdown_body(table: Table) -> str:
    """The bare Markdown table, followed by what it was measured on."""
    # A bar ends a cell.
    headers, *body = (
        [cell.replace("|", "\\|") for cell in cells] for cells in (table.headers(), *table.body())
    )
    grid = tabulate(body, headers, "github", disable_numparse=True, colalign=table.aligned())
    notes = "\n".join(f"- {note}" for note in table.notes())
    return f"{grid}\n\nSuite {table.suite}, measured on:\n\n{notes}"


def to_csv(table: Table) -> str:
    """The table as CSV; suite and what a row was measured on are its last columns."""
    names = [name for column in table.columns for name in column.names()]
    added = [label for label in ("suite", *LABELS) if label not in names]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *added])
    for row in table.rows:
        known = {"suite": table.suite, **{label: join(row.source[label]) for label in LABELS}}
        cells = zip(table.columns, row.cells, strict=True)
        parts = [part for column, cell in cells for part in column.parts(cell)]
        writer.writerow([*parts, *(known[label] for label in added)])
    return stream.getvalue()


# -- LaTeX -----------------------------------------------------------------------------------------

LATEX_SYMBOLS = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    **{"±": r"$\pm$", "Λ": r"$\Lambda$", "−": "$-$", "–": "--", "|": r"$|$", "×": r"$\times$"},
}
# Characters of 8-point text in a line of one column of a two-column article, and of the page; the
# gap between two columns of a table, in characters.
COLUMN_CHARACTERS, PAGE_CHARACTERS, GAP = 60, 119, 1.6
# Rows of one float; longer tables are several floats.
FLOAT_ROWS = 25
FLOAT = r"""\begin{{{kind}}}[tbp]
\centering\footnotesize\setlength{{\tabcolsep}}{{3pt}}{number}
\caption{{{caption}}}\smallskip
{before}\begin{{tabular}}{{@{{}}{alignment}@{{}}}}
\toprule
{head} \\
\midrule
{body}
\bottomrule
\end{{tabular}}{after}
\end{{{kind}}}
"""


def to_latex(table: Table) -> str:
    r"""The table as floats for a two-column page; wide ones (``table*``) span both columns.

    Tables that are wider than the page are scaled to it. Tasks of several rows stand above them.
    Run ids and checksums are left out.
    """
    one_row_each = len({row.task for row in table.rows}) == len(table.rows)
    common = _common_values(table)
    shown = [
        i
        for i, column in enumerate(table.columns)
        if column.paper != "no" and i not in common and (i or one_row_each)
    ]
    sides = ["l" if table.columns[i].kind == "text" else "r" for i in shown]
    cells = [[row[i] for i in shown] for row in table.body()]
    widths = [max([6, *map(len, column)]) for column in zip(*cells, strict=True)]
    heads = [
        textwrap.wrap(table.columns[i].header, width, break_long_words=False)
        for i, width in zip(shown, widths, strict=True)
    ]
    needed = sum(max(width, *map(len, h)) + GAP for width, h in zip(widths, heads, strict=True))
    fixed = {
        "kind": "table" if needed <= COLUMN_CHARACTERS else "table*",
        "before": r"\resizebox{\textwidth}{!}{" if needed > PAGE_CHARACTERS else "",
        "after": "}" if needed > PAGE_CHARACTERS else "",
        "alignment": "".join(sides),
        "head": " & ".join(map(_stacked, heads, sides)),
    }
    texts = [f"{table.title}.", table.caption, *filter(None, common.values())]
    texts += [f"Suite {table.suite}, measured on:", *table.notes(with_start=False)]
    caption = rf"{_escape(' '.join(texts))}\label{{tab:{table.suite}-{table.name}}}"
    rows = list(zip(table.rows, cells, strict=True))
    floats = []
    for start in range(0, len(rows), FLOAT_ROWS):
        lines = _latex_rows(table, rows[start : start + FLOAT_ROWS], with_tasks=not one_row_each)
        number = r"\addtocounter{table}{-1}" if start else ""
        floats.append(FLOAT.format(number=number, caption=caption, body="\n".join(lines), **fixed))
        caption = _escape(f"{table.title} (continued).")
    return "% Needs \\usepackage{booktabs,graphicx}.\n" + "\n".join(floats)


def _stacked(lines: Sequence[str], side: str) -> str:
    """A heading, of several lines if need be."""
    stack = r"\\".join(map(_escape, lines))
    return stack if len(lines) == 1 else rf"\shortstack[{side}]{{{stack}}}"


def _latex_rows(
    table: Table, rows: Sequence[tuple[Row, Sequence[str]]], with_tasks: bool
) -> Iterator[str]:
    """Lines of the table, under the title of their task if asked for."""
    for task, own in groupby(rows, lambda pair: pair[0].task):
        lines = [" & ".join(map(_escape, cells)) + r" \\" for _, cells in own]
        if with_tasks:
            title = rf"\emph{{{_escape(table.tasks[task])}}}"
            yield rf"\multicolumn{{{len(rows[0][1])}}}{{@{{}}l}}{{{title}}} \\"
        yield from lines


def _common_values(table: Table) -> dict[int, str]:
    """Places of columns that the caption stands for, and what it says of each."""
    found = {}
    for i, column in enumerate(table.columns):
        values = {row[i] for row in table.body()} - {MISSING}
        if column.paper == "caption" and len(values) < 2:
            found[i] = "".join(f"{column.header.capitalize()}: {value}." for value in values)
    return found


def _escape(text: str) -> str:
    return "".join(LATEX_SYMBOLS.get(symbol, symbol) for symbol in text)


FORMATS: Mapping[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
