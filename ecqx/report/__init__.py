"""From measured runs to tables, figures, claims and one page.

Knows nothing of the pipeline: it is given what was measured and a folder to write to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecqx.files import write_atomically
from ecqx.report.claims import build_claims
from ecqx.report.correlations import Relevance, correlate
from ecqx.report.evidence import Evidence
from ecqx.report.figures import build_figures
from ecqx.report.formats import FORMATS
from ecqx.report.masks_figure import Samples, build_masks_figures
from ecqx.report.page import Part, render_page
from ecqx.report.relevance_figure import build_relevance_figures
from ecqx.report.size_figures import build_size_figures
from ecqx.report.style import house_style
from ecqx.report.tables import build_tables
from ecqx.report.verdicts import claims_markdown
from ecqx.report.yardstick import compare, yardstick_table
from ecqx.report.yardstick_figure import yardstick_figure

__all__ = ["build"]


def build(
    runs: Sequence[Mapping[str, Any]],
    relevance: Relevance,
    out: Path,
    suite: str,
    tasks: Mapping[str, str],
    layers: Sequence[Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]] = (),
    yardsticks: Sequence[Mapping[str, Any]] = (),
    samples: Samples | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write tables, figures, claims and the page of a suite.

    The same input gives the same bytes, in whatever order the runs come. Everything is made
    before the first file is written.

    Parameters
    ----------
    runs : sequence of mapping
        Entries of ``metrics.json``, each with ``sweep`` ("grid", "p" or "ablation").
    relevance : mapping
        Task → layer → (weight, relevance) of the full-precision checkpoint, first layer first.
    out : Path
        Folder to write ``tables/``, ``figures/``, ``claims.md`` and ``report.html`` to.
    suite : str
        Name of the suite, shown everywhere.
    tasks : mapping of str to str
        Titles of the tasks, in the order in which they are shown.
    layers : sequence of mapping
        Sparsity and entropy per layer of one run (``seed``) per task and method, in the network's
        order.
    published : sequence of mapping
        ``task``, ``bits`` and ``lam`` of the settings that have rows of their own as published
        setups.
    yardsticks : sequence of mapping
        Results of the published algorithm to compare with: ``task``, ``method``, ``bits``,
        ``lam``, ``accuracy``, ``sparsity`` (fractions of one) and ``bytes``.
    samples : mapping of str to ndarray, optional
        Images and masks of segmentation tasks: ``TASK/image``, uint8 of shape (N, 3, H, W), and
        ``TASK/truth``, ``TASK/full precision``, ``TASK/decoded``, uint8 of shape (N, H, W).
    classes : mapping of str to sequence of str, optional
        Names of those tasks' classes, in the order of the labels.

    Raises
    ------
    InputError
        If there are no runs, a run lacks a key, two have the same setting and seed, or a published
        setup or yardstick was not measured.
    """
    evidence = Evidence.collect(suite, tasks, runs)
    correlations = correlate(relevance, evidence.tasks)
    comparisons = compare(evidence, yardsticks)
    claims = build_claims(evidence, correlations)
    tables = build_tables(evidence, correlations, layers, published)
    beside = [yardstick_table(evidence, comparisons)] if comparisons else []
    with house_style():
        pictures = build_figures(evidence)
        pictures += build_size_figures(evidence)
        pictures += build_relevance_figures(evidence, relevance, correlations)
        pictures += build_masks_figures(evidence, samples or {}, classes or {}, layers)
        beside_pictures = [p for p in [yardstick_figure(evidence, comparisons)] if p]
    files: dict[str, bytes] = {
        f"tables/{table.name}.{ending}": write(table).encode()
        for table in [*tables, *beside]
        for ending, write in FORMATS.items()
    }
    for picture in [*pictures, *beside_pictures]:
        files[f"figures/{picture.name}.png"] = picture.png
        files[f"figures/{picture.name}.svg"] = picture.svg
    files["claims.md"] = claims_markdown(claims, suite).encode()
    yardstick, rest = Part(beside_pictures, beside), Part(pictures, tables)
    files["report.html"] = render_page(evidence, claims, yardstick, rest).encode()
    for name, content in files.items():
        _write(out / name, content)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda p: p.write_bytes(content))
