"""From measured runs to tables, figures, claims and one page.

Knows nothing of the pipeline: it is given what was measured and a folder to write to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecqx.report.claims import build_claims
from ecqx.report.correlations import Relevance, correlate
from ecqx.report.figures import build_figures
from ecqx.report.formats import FORMATS
from ecqx.report.page import render_page
from ecqx.report.records import Evidence
from ecqx.report.relevance_figure import build_relevance_figures
from ecqx.report.size_figures import build_size_figures
from ecqx.report.style import house_style
from ecqx.report.tables import build_tables
from ecqx.report.verdicts import claims_markdown

__all__ = ["build"]


def build(
    runs: Sequence[Mapping[str, Any]],
    relevance: Relevance,
    out: Path,
    suite: str,
    tasks: Mapping[str, str],
    layers: Sequence[Mapping[str, Any]],
) -> None:
    """Write tables, figures, claims and the page of a suite.

    The same input gives the same bytes, in whatever order the runs come. Everything is made
    before the first file is written.

    Parameters
    ----------
    runs : sequence of mapping
        Entries of ``metrics.json``, each with ``sweep`` ("grid" or "p"), and with
        ``bytes_other``, ``train_samples``, ``steps`` and ``parameters`` where they are known.
    relevance : mapping
        Task → layer → (weight, relevance) of the full-precision checkpoint, first layer first.
    out : Path
        Folder to write ``tables/``, ``figures/``, ``claims.md`` and ``report.html`` to.
    suite : str
        Name of the suite, shown everywhere.
    tasks : mapping of str to str
        Titles of the tasks, in the order in which they are shown.
    layers : sequence of mapping
        Sparsity and entropy per layer of one run per task and method, in the network's order.

    Raises
    ------
    InputError
        If there are no runs, a run lacks a key, or two have the same setting and seed.
    """
    evidence = Evidence.collect(suite, tasks, runs)
    correlations = correlate(relevance, evidence.tasks)
    claims = build_claims(evidence, correlations)
    tables = build_tables(evidence, correlations, layers)
    with house_style():
        pictures = build_figures(evidence)
        pictures += build_size_figures(evidence)
        pictures += build_relevance_figures(evidence, relevance, correlations)
    files: dict[str, bytes] = {
        f"tables/{table.name}.{ending}": write(table).encode()
        for table in tables
        for ending, write in FORMATS.items()
    }
    for picture in pictures:
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
    files["claims.md"] = claims_markdown(claims, suite).encode()
    files["report.html"] = render_page(evidence, claims, pictures, tables).encode()
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
