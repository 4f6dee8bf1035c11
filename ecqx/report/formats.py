"""One table, four formats: Markdown, CSV and LaTeX files, and rows for the page.

All of them are made of the same rounded numbers. In CSV a number and its spread are columns of
their own, and what a row was measured on stands in the row.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tabulate import tabulate

from ecqx.report.records import MISSING
from ecqx.report.sources import LABELS, Source, describe, join
from ecqx.report.statistics import Estimate

Cell = str | int | float | Estimate | None
Kind = Literal["text", "number", "spread", "interval"]

LATEX_SYMBOLS = {
    "±": r"$\pm$",
    "Λ": r"$\Lambda$",
    "−": "$-$",
    "–": "--",
    "|w|": r"$|w|$",
    "|r|": r"$|r|$",
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    key : str
        Name in CSV.
    header : str
        Heading elsewhere, with the unit.
    kind : {"text", "number", "spread", "interval"}
        ``spread`` shows mean ± standard deviation, ``interval`` the mean with its 95 % interval.
    digits : int
        Decimals.
    scale : float
        Factor from the cell's unit to the shown one: 100 from fractions to percent.
    """

    key: str
    header: str
    kind: Kind = "text"
    digits: int = 0
    scale: float = 1.0

    def parts(self, cell: Cell) -> list[str]:
        """The rounded numbers of a cell, one per CSV column; empty where there is none."""
        extra = {"spread": 1, "interval": 2}.get(self.kind, 0)
        if cell is None or isinstance(cell, str):
            return [cell or ""] + [""] * extra
        shown = (cell if isinstance(cell, Estimate) else Estimate(cell)).scaled(self.scale)
        rest = {"spread": (shown.sd,), "interval": (shown.low, shown.high)}.get(self.kind, ())
        return [self._round(value) for value in (shown.mean, *rest)]

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
        suffixes = {"spread": ("sd",), "interval": ("low", "high")}.get(self.kind, ())
        return [self.key, *(f"{self.key}_{suffix}" for suffix in suffixes)]


@dataclass(frozen=True)
class Row:
    """Cells of one row and what they were measured on."""

    task: str
    cells: tuple[Cell, ...]
    source: Source


@dataclass(frozen=True)
class Table:
    """A table before it is written.

    Attributes
    ----------
    name : str
        File name without ending.
    title, caption : str
        What it shows; how to read it.
    suite : str
        Suite that it belongs to.
    tasks : mapping of str to str
        Titles of the tasks.
    columns : tuple of Column
    rows : list of Row
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

    def notes(self) -> list[str]:
        """What the rows were measured on, in sentences."""
        return describe((self.tasks[row.task], row.source) for row in self.rows)

    def data(self) -> str:
        """The data that the rows were measured on."""
        return "; ".join(dict.fromkeys(join(row.source.dataset) for row in self.rows))


def to_markdown(table: Table, heading: str = "#") -> str:
    """The table as Markdown, with its caption and what it was measured on."""
    return f"{heading} {table.title}\n\n{table.caption}\n\n{markdown_body(table)}\n"


def markdown_body(table: Table) -> str:
    """The bare Markdown table, followed by what it was measured on."""
    # A bar ends a cell.
    headers = [header.replace("|", "\\|") for header in table.headers()]
    body = [[cell.replace("|", "\\|") for cell in row] for row in table.body()]
    grid = tabulate(body, headers, "github", disable_numparse=True, colalign=table.aligned())
    notes = "\n".join(f"- {note}" for note in table.notes())
    return f"{grid}\n\nSuite {table.suite}, measured on:\n\n{notes}"


def to_csv(table: Table) -> str:
    """The table as CSV; suite and what a row was measured on are its last columns."""
    names = [name for column in table.columns for name in column.names()]
    labels = ("suite", *LABELS)
    added = [label for label in labels if label not in names]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *added])
    for row in table.rows:
        known = {"suite": table.suite, **row.source.record()}
        cells = zip(table.columns, row.cells, strict=True)
        parts = [part for column, cell in cells for part in column.parts(cell)]
        writer.writerow([*parts, *(known[label] for label in added)])
    return stream.getvalue()


def to_latex(table: Table) -> str:
    """The table as a LaTeX ``longtable``, which may run over pages."""
    text = tabulate(
        table.body(),
        table.headers(),
        "latex_longtable",
        disable_numparse=True,
        colalign=table.aligned(),
    )
    notes = " ".join(table.notes())
    caption = _escape(f"{table.title}. {table.caption} Suite {table.suite}, measured on: {notes}")
    label = f"tab:{table.suite}-{table.name}"
    first, rest = _symbols(text).split("\n", 1)
    head = f"% Needs \\usepackage{{longtable}}.\n{first}"
    return f"{head}\n\\caption{{{caption}}}\\label{{{label}}}\\\\\n{rest}\n"


def _symbols(text: str) -> str:
    for symbol, command in LATEX_SYMBOLS.items():
        text = text.replace(symbol, command)
    return text


def _escape(text: str) -> str:
    """Text for LaTeX, as tabulate escapes it in cells."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special.update({symbol: f"\\{symbol}" for symbol in "&%$#_{}"})
    return _symbols("".join(special.get(symbol, symbol) for symbol in text))


FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
