"""The tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ecqx.errors import InputError
from ecqx.report import columns as col
from ecqx.report import sweeps
from ecqx.report.columns import reading, row, table
from ecqx.report.correlations import BOOTSTRAP_SAMPLE, Correlation
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import CONFIGURATION, GRID, GRID_METHODS, MISSING, Record, Setting
from ecqx.report.selection import most_accurate, over_seeds, smallest_file
from ecqx.report.sources import coverage, join, source_of
from ecqx.report.statistics import grouped

PUBLISHED = "published setup"


def build_tables(
    evidence: Evidence,
    correlations: Sequence[Correlation],
    layers: Sequence[Mapping[str, Any]],
    published: Sequence[Mapping[str, Any]] = (),
) -> list[Table]:
    """All tables that have rows, in the order in which they are shown."""
    tables = [
        best_files(evidence),
        results(evidence, published),
        sweeps.influence_of_batchnorm(evidence),
        sweeps.influence_of_p(evidence),
        sweeps.ablation(evidence),
        sweeps.trained_centroids(evidence),
        relevance_and_magnitude(evidence, correlations),
        networks(evidence),
        configurations(evidence),
        per_layer(evidence, layers),
        grid(evidence),
        sweeps.p_sweep(evidence),
    ]
    return [table for table in tables if table.rows]


def best_files(evidence: Evidence) -> Table:
    """The file of ECQ or ECQx that validation chooses for each task, among all bit widths."""

    def file(setting: Setting) -> str:
        return max(setting.records, key=lambda run: run.accuracy_validation).run_id

    caption = (
        "The smallest file of each task, of ECQ and ECQx, whose mean validation accuracy is at "
        "most 1 point below the best one. The file is that of the seed of highest validation "
        "accuracy, named by run. "
    )
    columns = (
        *(col.METHOD, col.BITS, col.LAMBDA),
        Column(
            *("full_kb", "in 32 bit (kB)", "number", 0, 1e-3),
            value=lambda s: over_seeds(s.records, "bytes_fp32"),
        ),
        *(col.SIZE, col.RATIO, col.ACCURACY, col.DROP, col.SPARSITY),
        Column("file", "file", value=file, paper="no"),
    )
    chosen = [smallest_file(own) for task in evidence.tasks if (own := evidence.of(task))]
    caption += reading(evidence)
    return table(evidence, "best_files", "Best file of ECQ and ECQx", caption, columns, chosen)


def results(evidence: Evidence, published: Sequence[Mapping[str, Any]] = ()) -> Table:
    """The table of results: what validation chooses, and the published setups.

    Raises
    ------
    InputError
        If a published setup was not measured.
    """
    setups = [(s, PUBLISHED) for setup in published for s in _measured(evidence, setup)]
    chosen = [
        choice
        for task in evidence.tasks
        for bits in evidence.bits(task)
        for choice in (
            *_chosen(evidence, task, bits),
            *((s, words) for s, words in setups if (s.task, s.bits) == (task, bits)),
        )
    ]
    caption = (
        "Per task, bit width and method: the setting of highest mean validation accuracy (most "
        "accurate) and the smallest file whose mean validation accuracy is at most 1 point below "
        "it (smallest). The test set had no part in the choice. "
    )
    if published:
        caption += (
            f"Rows of the {PUBLISHED} have the bit width and Λ of the published code for this "
            "task, whatever their result. "
        )
    columns = (
        *(col.METRIC, *col.LABEL[:2], Column("chosen", "chosen as"), *col.LABEL[2:]),
        *(*col.MEASURES, *col.other_columns(evidence)),
        Column(
            *("trained_on", "trained on (samples per run)"),
            value=lambda s: coverage(source_of(s.records)),
            paper="no",
        ),
        *(replace(col.EPOCHS, value=lambda s: join(source_of(s.records)["epochs"])), col.SEEDS),
    )
    rows = ((setting, {"chosen": words}) for setting, words in chosen)
    caption += reading(evidence)
    return table(evidence, "results", "Results", caption, columns, rows)


def _chosen(evidence: Evidence, task: str, bits: int) -> Iterator[tuple[Setting, str]]:
    """The settings that validation chooses at one bit width."""
    for method in GRID_METHODS:
        settings = evidence.of(task, GRID, method, bits)
        if settings:
            best, small = most_accurate(settings), smallest_file(settings)
            yield best, "both" if best == small else "most accurate"
            if best != small:
                yield small, "smallest"


def _measured(evidence: Evidence, setup: Mapping[str, Any]) -> list[Setting]:
    """A published setup, ECQ beside ECQx."""
    task, bits, lam = setup["task"], setup["bits"], setup["lam"]
    found = [setting for setting in evidence.of(task, bits=bits) if setting.lam == lam]
    if not found:
        raise InputError(
            f"report.published: task {task}, {bits} bit, Λ {lam:g} was not measured; it must be "
            "one of the settings in quantize.tasks"
        )
    return found


def grid(evidence: Evidence) -> Table:
    """Every setting of the grid."""
    columns = (*col.LABEL, *col.MEASURES, *col.other_columns(evidence), col.SEEDS)
    settings = (setting for task in evidence.tasks for setting in evidence.of(task))
    title, caption = "All settings of the grid", reading(evidence)
    return table(evidence, "grid", title, caption, columns, settings)


RELEVANCE = (
    *(Column("layer", "layer"), Column("weights", "weights", "number")),
    Column("pearson", "Pearson", "number", 3),
    Column("spearman", "Spearman (rank)", "interval", 3),
    Column(
        *("without_relevance_percent", "weights with r = 0 (%)", "number", 1, 100),
        value=lambda found: found.without_relevance,
    ),
)


def relevance_row(evidence: Evidence, found: Correlation, *more: Cell) -> Row:
    """A row with the cells of `RELEVANCE`, and more."""
    cells = (column.of(found) for column in RELEVANCE)
    return row(evidence.of_task(found.task), *cells, *more, trained=False)


def relevance_and_magnitude(evidence: Evidence, correlations: Sequence[Correlation]) -> Table:
    """Correlation of relevance and magnitude of weights, layer by layer."""
    caption = (
        "Correlation of magnitude |w| and relevance |r| over the weights of the first and the last "
        "layer of the full-precision checkpoint, before quantization. The interval is a 95 % "
        f"bootstrap of a subsample of at most {BOOTSTRAP_SAMPLE} weights."
    )
    title = "Relevance and magnitude"
    rows = (relevance_row(evidence, found) for found in correlations)
    return table(evidence, "relevance_magnitude", title, caption, RELEVANCE, rows)


def networks(evidence: Evidence) -> Table:
    """What the accuracies and sizes refer to."""

    def values(name: str) -> Callable[[list[Record]], Cell]:
        return lambda runs: join(getattr(run, name) for run in runs)

    def seen(name: str) -> Callable[[list[Record]], Cell]:
        return lambda runs: join(source_of(runs)[name])

    def mean(name: str) -> Callable[[list[Record]], Cell]:
        return lambda runs: over_seeds(runs, name)

    caption = (
        "Start is the test accuracy of the checkpoint that stage pretrain makes and quantized "
        "training starts from; full precision is that of the same checkpoint trained as long "
        f"without quantization. {col.spread_in_words(evidence)}. Samples seen is the most that one "
        "run was trained on, each sample counted once."
    )
    columns = (
        Column("model", "network", value=values("model")),
        Column("data", "data", value=values("dataset"), paper="no"),
        Column("parameters", "parameters", value=values("parameters")),
        Column("fp32_kb", "size (kB)", "number", 1, 1e-3, lambda runs: runs[0].bytes_fp32),
        Column("train_samples", "training samples", value=values("train_samples")),
        Column("samples_seen", "samples seen", value=seen("samples_seen")),
        replace(col.EPOCHS, value=seen("epochs")),
        Column("steps", "steps", value=values("steps")),
        Column("seeds", "seeds", value=values("seed"), paper="no"),
        replace(col.METRIC, value=lambda runs: runs[0].metric),
        Column("start", "pretrain from", value=values("start_in_words"), paper="no"),
        Column("start_percent", "start (%)", "spread", 2, 100, mean("accuracy_start")),
        replace(col.FULL_PRECISION, value=mean("accuracy_fp32")),
    )
    rows = (
        row(runs, *(column.of(runs) for column in columns))
        for runs in map(evidence.of_task, evidence.tasks)
    )
    return table(evidence, "networks", "Networks and data", caption, columns, rows)


def configurations(evidence: Evidence) -> Table:
    """The settings that do not vary along Λ."""
    rows = []
    for task in evidence.tasks:
        groups = grouped(
            evidence.of_task(task),
            lambda run: (run.sweep, run.method, *map(in_words, (run.p, *run.configuration))),
        )
        rows += [row(runs, *key) for key, runs in groups.items()]
    others = (Column(key, key.replace("_", " "), paper="caption") for key in CONFIGURATION[1:])
    columns = (
        *(Column("sweep", "sweep"), col.METHOD, col.P),
        *(Column(CONFIGURATION[0], CONFIGURATION[0].replace("_", " ")), *others),
    )
    caption = "What the runs of a task and sweep have in common; a dash where it plays no part."
    return table(evidence, "settings", "Settings", caption, columns, rows)


def in_words(value: Any) -> str:
    """A setting as a reader writes it."""
    if value is None:
        return MISSING
    if isinstance(value, tuple):
        return "[" + ", ".join(in_words(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def per_layer(evidence: Evidence, layers: Sequence[Mapping[str, Any]]) -> Table:
    """Sparsity, entropy and size of each layer of the reference runs."""
    rows = []
    for task in evidence.tasks:
        for layer in (record for record in layers if record["task"] == task):
            runs = [r for r in evidence.of_task(task) if (r.sweep, r.seed) == (GRID, layer["seed"])]
            names = ("layer", "elements", "sparsity", "entropy_bits_per_weight", "bytes")
            label = (layer["bits"], layer["method"], f"{layer['lam']:g}")
            cells = (*label, *(layer[name] for name in names))
            rows.append(Row(task, cells, source_of(runs)))
    caption = (
        "One run per task and method; entropy is of first order, size that of the coded integers."
    )
    columns = (
        *(*col.LABEL, Column("layer", "layer"), Column("weights", "weights", "number")),
        *(replace(col.SPARSITY, kind="number"), replace(col.ENTROPY, kind="number")),
        Column("bytes", "size (bytes)", "number"),
    )
    return table(evidence, "layers", "Layer by layer", caption, columns, rows)
