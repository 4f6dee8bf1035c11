"""The tables of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ecqx.report.correlations import BOOTSTRAP_SAMPLE, Correlation
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import (
    ABLATION,
    CONFIGURATION,
    GRID,
    METHODS,
    P_SWEEP,
    Evidence,
    Run,
    Setting,
    Source,
    join,
    source_of,
)
from ecqx.report.selection import (
    Gain,
    flat,
    gain_at_equal_sparsity,
    most_accurate,
    over_seeds,
    smallest_file,
)
from ecqx.report.statistics import Estimate, paired_difference

TASK = Column("task", "task")
BITS = Column("bits", "bits", "number")
METHOD = Column("method", "method")
LAMBDA = Column("lambda", "Λ")
ACCURACY = Column("accuracy_percent", "accuracy (%)", "spread", 2, 100)
DROP = Column("drop_points", "drop (points)", "spread", 2, 100)
SPARSITY = Column("sparsity_percent", "sparsity (%)", "spread", 1, 100)
SIZE = Column("size_kb", "size (kB)", "spread", 2, 1e-3)
RATIO = Column("ratio", "ratio", "spread", 1)
ENTROPY = Column("entropy_bits_per_weight", "entropy (bit/weight)", "spread", 2)
EPOCHS = Column("epochs", "epochs")
SEEDS = Column("seeds", "seeds", "number")
FULL_PRECISION = Column("fp32_percent", "full precision (%)", "spread", 2, 100)
GAIN = Column("gain_points", "ECQx − ECQ at equal sparsity (points)", "interval", 2, 100)
SHARED_RANGE = Column("range_percent", "common sparsity (%)")

MEASURES = (ACCURACY, DROP, SPARSITY, SIZE, RATIO, ENTROPY)

READING = (
    "Mean ± standard deviation over seeds, of the models decoded from their files. Drop is the "
    "accuracy of the same checkpoint trained as long in full precision minus this one, paired "
    "per seed; negative is a gain. Ratio is the size of all floating-point values in 32 bit over "
    "the size of the file."
)


def measures(setting: Setting) -> tuple[Cell, ...]:
    """Cells of the columns that every table of settings has."""
    return (
        setting.mean("accuracy"),
        setting.drop(),
        setting.mean("sparsity"),
        setting.mean("bytes"),
        setting.mean("compression_ratio"),
        setting.mean("entropy_bits_per_weight"),
    )


def build_tables(
    evidence: Evidence,
    correlations: Sequence[Correlation],
    layers: Sequence[Mapping[str, Any]],
) -> list[Table]:
    """All tables that have rows, in the order in which they are shown."""
    tables = [
        results(evidence),
        influence_of_batchnorm(evidence),
        influence_of_p(evidence),
        ablation(evidence),
        relevance_and_magnitude(evidence, correlations),
        networks(evidence),
        configurations(evidence),
        per_layer(evidence, layers),
        grid(evidence),
        p_sweep(evidence),
    ]
    return [table for table in tables if table.rows]


def _table(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    columns: tuple[Column, ...],
    rows: Iterable[Row],
) -> Table:
    return Table(name, title, caption, evidence.suite, evidence.tasks, columns, list(rows))


def results(evidence: Evidence) -> Table:
    """The table of results: the most accurate setting and the smallest file near it."""
    caption = (
        "Per task, bit width and method: the setting of highest mean validation accuracy (most "
        "accurate) and the smallest file whose mean validation accuracy is at most 1 point below "
        f"it (smallest). The test set had no part in the choice. {READING}"
    )
    columns = (TASK, BITS, METHOD, Column("chosen", "chosen as"), LAMBDA, *MEASURES, EPOCHS, SEEDS)
    rows = []
    for task in evidence.tasks:
        for bits in evidence.bits(task):
            for method in METHODS:
                for setting, chosen in _chosen(evidence.of(task, GRID, method, bits)):
                    source = source_of(setting.runs)
                    seeds = len(setting.runs)
                    label = (evidence.tasks[task], bits, method, chosen, f"{setting.lam:g}")
                    cells = (*label, *measures(setting), source.epochs, seeds)
                    rows.append(Row(task, cells, source))
    return _table(evidence, "results", "Results", caption, columns, rows)


def _chosen(settings: Sequence[Setting]) -> list[tuple[Setting, str]]:
    if not settings:
        return []
    best, small = most_accurate(settings), smallest_file(settings)
    if best == small:
        return [(best, "both")]
    return [(best, "most accurate"), (small, "smallest")]


def grid(evidence: Evidence) -> Table:
    """Every setting of the grid."""
    rows = []
    for task in evidence.tasks:
        for setting in evidence.of(task):
            label = (evidence.tasks[task], setting.bits, setting.method, f"{setting.lam:g}")
            cells = (*label, *measures(setting), len(setting.runs))
            rows.append(Row(task, cells, source_of(setting.runs)))
    columns = (TASK, BITS, METHOD, LAMBDA, *MEASURES, SEEDS)
    return _table(evidence, "grid", "All settings of the grid", READING, columns, rows)


def p_settings(evidence: Evidence, task: str) -> list[tuple[float | None, list[Setting]]]:
    """Settings of the sweep over p by ascending p; first, without p, ECQ of that bit width."""
    swept = evidence.of(task, P_SWEEP)
    if not swept:
        return []
    reference = evidence.of(task, GRID, "ECQ", swept[0].bits)
    series: list[tuple[float | None, list[Setting]]] = [(None, reference)] if reference else []
    values = sorted({setting.p for setting in swept if setting.p is not None})
    return series + [(p, [setting for setting in swept if setting.p == p]) for p in values]


def p_sweep(evidence: Evidence) -> Table:
    """Every setting of the sweep over p."""
    rows = []
    for task in evidence.tasks:
        for p, settings in p_settings(evidence, task):
            for setting in settings:
                words = "ECQ" if p is None else f"{p:g}"
                label = (evidence.tasks[task], setting.bits, words, f"{setting.lam:g}")
                cells = (*label, *measures(setting), len(setting.runs))
                rows.append(Row(task, cells, source_of(setting.runs)))
    caption = (
        "ECQx may add at most p to the sparsity of ECQ, whose rows stand here for comparison. "
        f"{READING}"
    )
    columns = (TASK, BITS, Column("p", "p"), LAMBDA, *MEASURES, SEEDS)
    return _table(evidence, "p_sweep", "All settings of the sweep over p", caption, columns, rows)


def influence_of_p(evidence: Evidence) -> Table:
    """What each p gains over ECQ at equal sparsity."""
    rows = []
    for task in evidence.tasks:
        series = p_settings(evidence, task)
        reference = [setting for p, settings in series if p is None for setting in settings]
        for p, settings in series:
            if p is None:
                continue
            cells = (
                evidence.tasks[task],
                settings[0].bits,
                f"{p:g}",
                ", ".join(f"{setting.lam:g}" for setting in settings),
                *gain_cells(gain_at_equal_sparsity(settings, reference)),
            )
            rows.append(Row(task, cells, source_of(flat(settings))))
    caption = (
        "Accuracy of ECQx minus that of ECQ at equal sparsity: both interpolated linearly over "
        "sparsity along Λ and averaged over the range that both cover, per seed; mean over seeds "
        "with its 95 % interval."
    )
    columns = (TASK, BITS, Column("p", "p"), Column("lambdas", "Λ"), GAIN, SHARED_RANGE)
    return _table(evidence, "influence_of_p", "Influence of p", caption, columns, rows)


def ablation(evidence: Evidence) -> Table:
    """What each replaced setting changes, beside the setting of the grid that it replaces."""
    rows = []
    for task in evidence.tasks:
        replaced = evidence.of(task, ABLATION)
        for bits, lam in sorted({(setting.bits, setting.lam) for setting in replaced}):
            at = [s for s in evidence.of(task, GRID, "ECQx", bits) if s.lam == lam]
            for setting in (*at, *(s for s in replaced if (s.bits, s.lam) == (bits, lam))):
                label = (evidence.tasks[task], bits, f"{lam:g}", setting.variant or "none")
                gain = None if setting in at or not at else _gain_over(at[0], setting)
                cells = (*label, *measures(setting), gain, len(setting.runs))
                rows.append(Row(task, cells, source_of(setting.runs)))
    caption = (
        "ECQx with one setting replaced, at the same Λ. The gain is the accuracy minus that of "
        "the row without a replacement, paired per seed, with its 95 % interval; where sparsity "
        f"or size moved as well, it is no gain at equal cost. {READING}"
    )
    columns = (
        *(TASK, BITS, LAMBDA, Column("replaced", "replaced"), *MEASURES),
        *(Column("gain_points", "gain (points)", "interval", 2, 100), SEEDS),
    )
    return _table(evidence, "ablation", "Ablation", caption, columns, rows)


def _gain_over(default: Setting, setting: Setting) -> Estimate:
    """Accuracy of a setting minus that of the default, paired per seed."""
    return paired_difference(
        {run.seed: run.accuracy for run in setting.runs},
        {run.seed: run.accuracy for run in default.runs},
    )


def gain_cells(gain: Gain) -> tuple[Cell, Cell]:
    """Gain at equal sparsity and the range it was averaged over."""
    if gain.difference is None:
        return None, "no common range"
    return gain.difference, f"{100 * gain.low:.1f} to {100 * gain.high:.1f}"


def influence_of_batchnorm(evidence: Evidence) -> Table:
    """Networks without and with BatchNorm side by side."""
    rows = []
    for pair in evidence.pairs():
        shared = sorted(set(evidence.bits(pair[0])) & set(evidence.bits(pair[1])))
        for bits in shared:
            for method in METHODS:
                rows += [
                    _batchnorm_row(evidence, task, bits, method, settings)
                    for task in pair
                    if (settings := evidence.of(task, GRID, method, bits))
                ]
    caption = (
        "The smallest file whose mean validation accuracy is at most 1 point below the best of "
        "its row's task, bit width and method; the last column compares all Λ at equal sparsity "
        f"(mean over seeds with its 95 % interval). {READING}"
    )
    columns = (
        *(TASK, Column("batchnorm", "BatchNorm"), BITS, METHOD, LAMBDA),
        *(FULL_PRECISION, *MEASURES, GAIN),
    )
    title = "Influence of BatchNorm"
    return _table(evidence, "influence_of_batchnorm", title, caption, columns, rows)


def _batchnorm_row(
    evidence: Evidence, task: str, bits: int, method: str, settings: Sequence[Setting]
) -> Row:
    chosen = smallest_file(settings)
    reference = evidence.of(task, GRID, "ECQ", bits)
    gain = gain_at_equal_sparsity(settings, reference).difference if method == "ECQx" else None
    cells = (
        evidence.tasks[task],
        "with" if task.endswith("_bn") else "without",
        bits,
        method,
        f"{chosen.lam:g}",
        over_seeds(flat(settings), "accuracy_fp32"),
        *measures(chosen),
        gain,
    )
    return Row(task, cells, source_of(chosen.runs))


def relevance_and_magnitude(evidence: Evidence, correlations: Sequence[Correlation]) -> Table:
    """Correlation of relevance and magnitude of weights, layer by layer."""
    rows = []
    for found in correlations:
        runs = evidence.of_task(found.task)
        source = Source(join(r.dataset for r in runs), join(r.train_samples for r in runs))
        cells = (
            *(evidence.tasks[found.task], found.layer, found.weights),
            *(found.pearson, found.spearman, found.without_relevance),
        )
        rows.append(Row(found.task, cells, source))
    caption = (
        "Correlation of magnitude |w| and relevance |r| over the weights of the first and the last "
        "layer of the full-precision checkpoint, before quantization. The interval is a 95 % "
        f"bootstrap of a subsample of at most {BOOTSTRAP_SAMPLE} weights."
    )
    columns = (
        *(TASK, Column("layer", "layer"), Column("weights", "weights", "number")),
        Column("pearson", "Pearson", "number", 3),
        Column("spearman", "Spearman (rank)", "interval", 3),
        Column("without_relevance_percent", "weights with r = 0 (%)", "number", 1, 100),
    )
    title = "Relevance and magnitude"
    return _table(evidence, "relevance_magnitude", title, caption, columns, rows)


def networks(evidence: Evidence) -> Table:
    """What the accuracies and sizes refer to."""
    rows = []
    for task in evidence.tasks:
        runs = evidence.of_task(task)
        source = source_of(runs)
        cells = (
            *(evidence.tasks[task], join(r.model for r in runs), source.dataset),
            *(join(r.parameters for r in runs), runs[0].bytes_fp32),
            *(source.train_samples, source.epochs, join(r.steps for r in runs), source.seeds),
            evidence.metric(task),
            over_seeds(runs, "accuracy_start"),
            over_seeds(runs, "accuracy_fp32"),
        )
        rows.append(Row(task, cells, source))
    caption = (
        "Start is the test accuracy of the checkpoint that quantized training starts from, full "
        "precision that of the same checkpoint trained as long without quantization, mean ± "
        "standard deviation over seeds."
    )
    columns = (
        *(TASK, Column("model", "network"), Column("data", "data")),
        *(Column("parameters", "parameters"), Column("fp32_kb", "size (kB)", "number", 1, 1e-3)),
        *(Column("train_samples", "training samples"), EPOCHS, Column("steps", "steps")),
        *(Column("seeds", "seeds"), Column("metric", "metric")),
        *(Column("start_percent", "start (%)", "spread", 2, 100), FULL_PRECISION),
    )
    return _table(evidence, "networks", "Networks and data", caption, columns, rows)


def configurations(evidence: Evidence) -> Table:
    """The settings that do not vary along Λ."""
    rows = []
    for task in evidence.tasks:
        groups: dict[tuple[str, ...], list[Run]] = {}
        for run in evidence.of_task(task):
            p = "–" if run.p is None else f"{run.p:g}"
            key = (run.sweep, run.method, p, *run.configuration)
            groups.setdefault(key, []).append(run)
        for key, runs in groups.items():
            rows.append(Row(task, (evidence.tasks[task], *key), source_of(runs)))
    columns = (
        *(TASK, Column("sweep", "sweep"), METHOD, Column("p", "p")),
        *(Column(key, key.replace("_", " ")) for key in CONFIGURATION),
    )
    caption = "What the runs of a task and sweep have in common; a dash where it plays no part."
    return _table(evidence, "settings", "Settings", caption, columns, rows)


def per_layer(evidence: Evidence, layers: Sequence[Mapping[str, Any]]) -> Table:
    """Sparsity and entropy of each layer of the reference runs."""
    rows = []
    for task in evidence.tasks:
        runs = evidence.of_task(task)
        for layer in (record for record in layers if record["task"] == task):
            source = Source(
                dataset=join(r.dataset for r in runs),
                train_samples=join(r.train_samples for r in runs),
                epochs=join(r.epochs for r in runs if r.sweep == GRID),
                seeds=join([layer.get("seed")]),
            )
            cells = (
                *(evidence.tasks[task], int(layer["bits"]), str(layer["method"])),
                *(f"{layer['lam']:g}", str(layer["layer"]), int(layer["elements"])),
                *(float(layer["sparsity"]), float(layer["entropy_bits_per_weight"])),
            )
            rows.append(Row(task, cells, source))
    caption = "One run per task and method; entropy is of first order."
    columns = (
        *(TASK, BITS, METHOD, LAMBDA, Column("layer", "layer")),
        Column("weights", "weights", "number"),
        Column("sparsity_percent", "sparsity (%)", "number", 1, 100),
        Column("entropy_bits_per_weight", "entropy (bit/weight)", "number", 2),
    )
    return _table(evidence, "layers", "Layer by layer", caption, columns, rows)
