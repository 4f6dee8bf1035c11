"""The report of the comparison: ECQx and its family beside other methods.

Knows nothing of how the files were made: it is given what was measured and a folder to write to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecqx.files import write_atomically
from ecqx.report.comparison_figure import comparison_figure
from ecqx.report.comparison_page import render_comparison
from ecqx.report.comparison_records import Fairness, Measured, Rules
from ecqx.report.comparison_tables import build_tables
from ecqx.report.comparison_verdict import judge, verdict_markdown
from ecqx.report.formats import FORMATS
from ecqx.report.page import Origin
from ecqx.report.style import house_style

__all__ = ["Fairness", "Rules", "build"]


def build(
    runs: Sequence[Mapping[str, Any]],
    out: Path,
    suite: str,
    tasks: Mapping[str, str],
    rules: Rules,
    origin: Origin | None = None,
) -> None:
    """Write tables, the figure, the verdict and the page of a suite's comparison.

    The same records give the same bytes, in whatever order they come. Everything is made before
    the first file is written.

    Parameters
    ----------
    runs : sequence of mapping
        One record for each trial and seed, with the keys of `comparison_records.File`.
    out : Path
        Folder to write ``tables/``, ``figures/``, ``verdict.md`` and ``report.html`` to. The table
        ``family`` is left out where neither EC2T nor FantastIC4 was measured.
    suite : str
        Name of the suite, shown everywhere.
    tasks : mapping of str to str
        Titles of the tasks, in the order in which they are shown.
    rules : Rules
        What the methods are compared by.
    origin : Origin, optional
        What the results were made from, for the page.

    Raises
    ------
    InputError
        If there are no records, a record lacks a key, or the files of a task cannot be compared;
        see `Measured.collect`.
    """
    measured = Measured.collect(suite, rules, tasks, runs)
    judgements = judge(measured)
    tables = build_tables(measured)
    with house_style():
        picture = comparison_figure(measured)
    written: dict[str, bytes] = {
        f"tables/{table.name}.{ending}": write(table).encode()
        for table in tables
        for ending, write in FORMATS.items()
    }
    written[f"figures/{picture.name}.png"] = picture.png
    written[f"figures/{picture.name}.svg"] = picture.svg
    written["verdict.md"] = verdict_markdown(measured, judgements).encode()
    written["report.html"] = render_comparison(
        measured, judgements, picture, tables, origin
    ).encode()
    for name, content in written.items():
        _write(out / name, content)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda p: p.write_bytes(content))
