"""The tables of the comparison: methods, all trials, and the family of quantizers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ecqx.report import columns as col
from ecqx.report.columns import reading, row, table
from ecqx.report.comparison import Comparison, areas, kept
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import GRID_METHODS, Setting
from ecqx.report.selection import flat, front
from ecqx.report.statistics import estimate

COST = Column("cost", "cost of a step (times)", "number", 2, value=lambda s: cost([s]))
MEASURES = (col.ACCURACY, col.DROP, col.SPARSITY, col.SIZE, col.RATIO)
# Bit width → the methods of that width whose values are trained, to stand beside ECQ's grid.
WIDTHS = {2: ("EC2T", "EC2Tx"), 4: ("FantastIC4", "FantastIC4x")}
ON_ALL, ON_OWN = "of all", "of the method"

COST_IN_WORDS = (
    "Cost is counted: multiply-adds of one training step over those of a step of plain fine-tuning."
)


def build_comparison_tables(comparison: Comparison) -> list[Table]:
    """All tables that have rows, in the order in which they are shown."""
    tables = [methods(comparison), family(comparison), trials(comparison)]
    return [table for table in tables if table.rows]


def cost(trials: Sequence[Setting]) -> Cell:
    """Cost of a step; from the least to the most where trials differ."""
    known = sorted({record.cost for record in flat(trials)})
    texts = list(dict.fromkeys(COST.text(value) for value in known))
    return known[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def methods(comparison: Comparison) -> Table:
    """One row for each task and method."""
    loss = comparison.rules.loss_in_words
    caption = (
        f"Every method had {comparison.trials_in_words()}, those without a setting to choose one. "
        "Area: mean test accuracy over file sizes, weighted evenly on a logarithmic scale, at "
        f"compression ratios {comparison.ranges_in_words()}; at each size the file of highest "
        "validation accuracy that fits is taken, and accuracy counts as 0 where none fits. Within "
        f"{loss}: the smallest file of each seed whose validation accuracy is at most {loss} below "
        "that of full precision; averaged only where every seed has one. On the front: trials that "
        "are Pareto-optimal among all methods in mean size and mean validation accuracy. Largest "
        "ratio: that of the method’s smallest trial, at whatever accuracy. "
        f"{reading(comparison.evidence)} {COST_IN_WORDS}"
    )
    columns = (
        *(col.METHOD, Column("trials", "trials", "number", paper="no")),
        Column("area_percent", "area (%)", "spread", 2, 100),
        Column("seeds_within", f"seeds within {loss}"),
        replace(col.SIZE, key="size_within_kb", header="size there (kB)"),
        replace(col.RATIO, key="ratio_within", header="ratio there"),
        replace(col.DROP, key="drop_within_points", header="drop there (points)"),
        Column("on_front", "on the front", "number"),
        replace(col.RATIO, key="largest_ratio", header="largest ratio"),
        replace(col.ACCURACY, key="accuracy_at_largest_percent", header="accuracy at it (%)"),
        *(COST, Column("chosen", "chosen within the loss", paper="no")),
    )
    rows = [row for task in comparison.tasks for row in _methods(comparison, task)]
    title = "Methods compared"
    return table(comparison.evidence, "comparison", title, caption, columns, rows)


def _methods(comparison: Comparison, task: str) -> Iterator[Row]:
    best = front(comparison.of(task))
    for method in comparison.methods(task):
        own = comparison.of(task, method)
        files = flat(own)
        within = kept(files, comparison.rules.loss)
        smallest = front(own)[0]
        cells = (
            *(method, len(own)),
            estimate(areas(files, comparison.rules.tasks[task].ratios).values()),
            within.coverage,
            *(within.mean(name) for name in ("bytes", "compression_ratio", "drop")),
            sum(trial.method == method for trial in best),
            *(smallest.mean("compression_ratio"), smallest.mean("accuracy")),
            *(cost(own), within.chosen()),
        )
        yield row(files, *cells)


def trials(comparison: Comparison) -> Table:
    """Every trial of every method."""
    caption = (
        "On the front: trials that are Pareto-optimal in mean size and mean validation accuracy, "
        f"among those of all methods or of the same method. {reading(comparison.evidence)} "
        f"Sparsity is the share of zeros among the weights. {COST_IN_WORDS}"
    )
    columns = (
        *(col.METHOD, col.BITS, col.LAMBDA, col.VARIANT),
        Column(
            *("validation_percent", "validation (%)", "spread", 2, 100),
            value=lambda trial: trial.mean("accuracy_validation"),
        ),
        *(replace(column, paper="no") if column is col.DROP else column for column in MEASURES),
        *col.other_columns(comparison.evidence),
        *(Column("front", "on the front"), replace(COST, paper="no"), col.SEEDS),
    )
    title = "All trials of all methods"
    rows = (row for task in comparison.tasks for row in _trials(comparison, task))
    return table(comparison.evidence, "trials", title, caption, columns, rows)


def _trials(comparison: Comparison, task: str) -> Iterator[tuple[Setting, Mapping[str, Cell]]]:
    best = front(comparison.of(task))
    for method in comparison.methods(task):
        own = comparison.of(task, method)
        best_of_method = front(own)
        for trial in own:
            place = ON_ALL if trial in best else ON_OWN if trial in best_of_method else None
            yield trial, {"front": place}


def family(comparison: Comparison) -> Table:
    """EC2T beside ECQ of 2 bit and FantastIC4 beside ECQ of 4 bit, each without and with LRP."""
    rows = [
        trial
        for task in comparison.tasks
        for bits, others in WIDTHS.items()
        if set(others) & set(comparison.methods(task))
        for method in (*GRID_METHODS, *others)
        for trial in comparison.of(task, method)
        if method in others or trial.bits == bits
    ]
    caption = (
        "Quantizers of one bit width side by side: EC2T (zero and two trained centroids) and ECQ "
        "with a grid of 2 bit; FantastIC4 (all sums of four trained numbers) and ECQ with a grid "
        "of 4 bit; an x marks the methods with relevance. Λ means something else in each method: "
        f"compare accuracies at similar sizes, not at equal Λ. {reading(comparison.evidence)}"
    )
    return table(
        *(comparison.evidence, "family", "The family of quantizers", caption),
        columns=(*col.LABEL, col.VARIANT, *MEASURES),
        rows=rows,
    )
