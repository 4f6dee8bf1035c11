"""The whole report of a suite: tables, figures, claims and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecqx.files import write_atomically
from ecqx.report.claims import build_claims
from ecqx.report.comparison import Comparison
from ecqx.report.comparison_tables import build_comparison_tables
from ecqx.report.comparison_verdict import comparison_markdown, judge
from ecqx.report.correlations import Relevance, correlate
from ecqx.report.evidence import Evidence
from ecqx.report.figures import build_curve_figures, comparison_figure
from ecqx.report.formats import FORMATS
from ecqx.report.networks import build_layer_figures, build_relevance_figures
from ecqx.report.page import Contest, Origin, Section, render_page
from ecqx.report.records import ABLATION, COMPARISON, GRID, P_SWEEP, TRAINED, Correct
from ecqx.report.rules import Rules
from ecqx.report.samples import Classes, Samples, build_input_figures, build_masks_figures
from ecqx.report.tables import build_tables
from ecqx.report.verdicts import claims_markdown
from ecqx.report.yardstick import counterparts_of, yardstick_table

# What the paper's tables, figures and claims are made of.
PAPER = (GRID, P_SWEEP, ABLATION, TRAINED)


def build(
    records: Sequence[Mapping[str, Any]],
    out: Path,
    suite: str,
    tasks: Mapping[str, str],
    *,
    rules: Rules | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    published: Sequence[Mapping[str, Any]] = (),
    yardsticks: Sequence[Mapping[str, Any]] = (),
    relevance: Relevance | None = None,
    decoded: Relevance | None = None,
    samples: Samples | None = None,
    classes: Classes | None = None,
    correct: Correct | None = None,
    paper: Iterable[str] = (),
    origin: Origin | None = None,
) -> None:
    """Write ``tables/``, ``figures/``, ``claims.md`` and ``report.html`` of a suite to ``out``.

    The same input gives the same bytes, in whatever order the records come. Everything is made
    before the first file is written.

    Parameters
    ----------
    records : sequence of mapping
        Entries of ``metrics.json``, with the keys of `ecqx.report.records.Record`.
    tasks : mapping of str to str
        Titles of the tasks, in the order in which they are shown.
    rules : Rules, optional
        What the records of sweep "comparison" are compared by; without them these are not shown.
    layers : sequence of mapping
        Sparsity, entropy and size per layer of one run (``seed``) per task and method, in the
        network's order.
    published : sequence of mapping
        ``task``, ``bits`` and ``lam`` of published setups, which have rows of their own.
    yardsticks : sequence of mapping
        Results of the published code, with the keys of `ecqx.report.yardstick.Yardstick`.
    relevance, decoded : mapping, optional
        Task → layer → (weight, relevance), first layer first, of the full-precision checkpoint and
        of the model decoded from its file.
    samples, classes : mapping, optional
        Test samples as `stages.exhibits.samples` makes them, and task → names of its classes.
    correct : mapping, optional
        Which test samples each network classifies correctly, by the names of `stages.correct`.
    paper : iterable of str
        Tasks that are experiments of the paper, which decide its claims; without one all tasks do.

    Raises
    ------
    InputError
        If there are no records, one lacks a key, two have the same setting and seed, the records of
        the comparison do not keep to its rules, or a published setup or yardstick was not measured.
    """
    every = Evidence.collect(suite, tasks, records, correct, paper)
    evidence = every.sweeps(*PAPER)
    correlations = correlate(relevance or {}, evidence.tasks)
    claims = build_claims(evidence, correlations)
    counterparts = counterparts_of(evidence, yardsticks)
    tables = build_tables(evidence, correlations, layers, published)
    beside = [yardstick_table(evidence, counterparts)] if counterparts else []
    comparison = None if rules is None else Comparison.collect(every, rules)
    text = claims_markdown(claims, suite)
    contest = None
    if comparison:
        judgements = judge(comparison)
        text += f"\n{comparison_markdown(comparison, judgements)}"
        others = build_comparison_tables(comparison)
        contest = Contest(comparison, judgements, comparison_figure(comparison), others)

    samples, classes = samples or {}, classes or {}
    curves = build_curve_figures(evidence, counterparts)
    first = [figure for figure in curves if figure.name == "accuracy_size"]
    published_figure = [figure for figure in curves if figure.name == "yardstick"]
    own = {name: [t for t in tables if t.name == name] for name in PLACED}
    relevances = build_relevance_figures(evidence, relevance or {}, decoded or {}, correlations)
    relevances += build_input_figures(evidence, samples, classes)
    sections = [
        Section("yardstick", "Published algorithm", published_figure, beside),
        Section("figures", "Curves", [f for f in curves if f not in (*first, *published_figure)]),
        Section("relevance", "Relevance", relevances, own["relevance_magnitude"]),
        Section("layers", "Layers", build_layer_figures(evidence, layers), own["layers"]),
        Section("masks", "Masks", build_masks_figures(evidence, samples, classes, layers)),
        Section("trained", "Trained centroids", (), own["trained_centroids"]),
        Section("tables", "Tables", (), [t for t in tables if t.name not in own]),
    ]
    centre = [Section("tradeoff", "Accuracy and size", first)]
    shown = every.sweeps(*PAPER, *([COMPARISON] if comparison else []))
    page = render_page(shown, claims, own["best_files"], centre, sections, contest, origin)
    files = {"claims.md": text.encode(), "report.html": page.encode()}
    for table in (*tables, *beside, *(contest.tables if contest else ())):
        for ending, write in FORMATS.items():
            files[f"tables/{table.name}.{ending}"] = write(table).encode()
    figures = [figure for section in (*centre, *sections) for figure in section.figures]
    for figure in (*figures, *([contest.figure] if contest else ())):
        for ending, picture in figure.files().items():
            files[f"figures/{figure.name}.{ending}"] = picture
    for name, content in files.items():
        write_atomically(out / name, partial(Path.write_bytes, data=content))


# Tables that have a place of their own on the page.
PLACED = ("best_files", "relevance_magnitude", "layers", "trained_centroids")
