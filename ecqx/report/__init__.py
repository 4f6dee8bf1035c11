"""From measured runs to tables, figures, claims and one page.

Knows nothing of the pipeline: it is given what was measured and a folder to write to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecqx.files import write_atomically
from ecqx.report.charts import chart_of
from ecqx.report.claims import build_claims
from ecqx.report.correlations import Relevance, correlate
from ecqx.report.curve_charts import build_curve_charts
from ecqx.report.evidence import Evidence
from ecqx.report.figures import build_figures
from ecqx.report.formats import FORMATS, Table
from ecqx.report.layer_charts import build_layer_charts
from ecqx.report.mask_charts import build_mask_charts
from ecqx.report.masks_figure import Samples, build_masks_figures
from ecqx.report.page import Content, Origin, Section, render_page
from ecqx.report.relevance_charts import build_relevance_charts
from ecqx.report.relevance_figure import build_relevance_figures
from ecqx.report.size_figures import build_size_figures
from ecqx.report.style import house_style
from ecqx.report.tables import build_tables
from ecqx.report.verdicts import claims_markdown
from ecqx.report.yardstick import compare, yardstick_table
from ecqx.report.yardstick_figure import yardstick_figure

__all__ = ["Origin", "build"]


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
    decoded: Relevance | None = None,
    origin: Origin | None = None,
    pages: Mapping[str, str] | None = None,
) -> None:
    """Write tables, figures, claims and the page of a suite.

    The same input gives the same bytes, in whatever order the runs come. Everything is made
    before the first file is written.

    Parameters
    ----------
    runs : sequence of mapping
        Entries of ``metrics.json``, each with ``sweep`` ("grid", "p", "ablation" or
        "trained").
    relevance : mapping
        Task → layer → (weight, relevance) of the full-precision checkpoint, first layer first.
    out : Path
        Folder to write ``tables/``, ``figures/``, ``claims.md`` and ``report.html`` to.
    suite : str
        Name of the suite, shown everywhere.
    tasks : mapping of str to str
        Titles of the tasks, in the order in which they are shown.
    layers : sequence of mapping
        Sparsity, entropy and size per layer of one run (``seed``) per task and method, in the
        network's order.
    published : sequence of mapping
        ``task``, ``bits`` and ``lam`` of the settings that have rows of their own as published
        setups.
    yardsticks : sequence of mapping
        Results of the published algorithm to compare with: ``task``, ``method``, ``bits``,
        ``lam``, ``accuracy``, ``sparsity`` (fractions of one) and ``bytes``.
    samples : mapping of str to ndarray, optional
        Images and masks of segmentation tasks: ``TASK/image``, uint8 of shape (N, 3, H, W), and
        ``TASK/truth``, ``TASK/full precision``, ``TASK/decoded``, uint8 of shape (N, H, W).
        Test samples with the relevance of their inputs: see `build_relevance_charts`.
    classes : mapping of str to sequence of str, optional
        Names of those tasks' classes, in the order of the labels.
    decoded : mapping, optional
        As ``relevance``, of models decoded from their files.
    origin : Origin, optional
        What the results were made from, for the page.
    pages : mapping of str to str, optional
        Titles and places of further pages of the suite, for the page to link to.

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
    samples, classes = samples or {}, classes or {}
    tables = build_tables(evidence, correlations, layers, published)
    beside = [yardstick_table(evidence, comparisons)] if comparisons else []
    with house_style():
        pictures = build_figures(evidence)
        pictures += build_size_figures(evidence)
        pictures += build_relevance_figures(evidence, relevance, correlations)
        pictures += build_masks_figures(evidence, samples, classes, layers)
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
    pictures += beside_pictures
    by_name = {chart.name: chart for chart in build_curve_charts(evidence, pictures, comparisons)}
    yardstick = [chart for name, chart in by_name.items() if name == "yardstick"]
    own = _taken(tables, "best_files", "relevance_magnitude", "layers", "trained_centroids")
    sections = [
        Section("yardstick", "Published algorithm", yardstick, beside),
        Section("figures", "Curves", [c for c in by_name.values() if c not in yardstick]),
        Section(
            "relevance",
            "Relevance",
            build_relevance_charts(evidence, relevance, decoded or {}, samples, classes, pictures),
            own["relevance_magnitude"],
        ),
        Section("layers", "Layers", build_layer_charts(evidence, layers), own["layers"]),
        Section("masks", "Masks", build_mask_charts(evidence, samples, classes, pictures)),
        Section("trained", "Trained centroids", (), own["trained_centroids"]),
        Section("tables", "Tables", (), [t for t in tables if t.name not in own]),
    ]
    centre = next((chart_of(p) for p in pictures if p.name == "accuracy_size"), None)
    content = Content(claims, own["best_files"], centre, sections, origin, pages or {})
    files["report.html"] = render_page(evidence, content).encode()
    for name, written in files.items():
        _write(out / name, written)


def _taken(tables: Sequence[Table], *names: str) -> dict[str, list[Table]]:
    """Tables that have a place of their own on the page; none where a table has no rows."""
    return {name: [table for table in tables if table.name == name] for name in names}


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda p: p.write_bytes(content))
