"""The tables of the comparison: methods, all trials, and the family of quantizers side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ecqx.report import columns as col
from ecqx.report.columns import reading, row, table
from ecqx.report.comparison import Comparison, kept
from ecqx.report.contrasts import intervals
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import GRID_METHODS, Setting
from ecqx.report.rules import LOSSES
from ecqx.report.selection import drop_of, flat, front
from ecqx.report.statistics import Estimate

COST = Column("cost", "cost of a step (times)", "number", 2, value=lambda s: cost([s]))
MEASURES = (col.ACCURACY, col.DROP, col.SPARSITY, col.SIZE, col.RATIO)
# Bit width → the methods of that width whose values are trained, to stand beside ECQ's grid.
WIDTHS = {2: ("EC2T", "EC2Tx"), 4: ("FantastIC4", "FantastIC4x")}
ON_ALL, ON_OWN = "of all", "of the method"

COST_IN_WORDS = (
    "Cost is counted: multiply-adds of one training step over those of a step of plain "
    "fine-tuning; not where relevance is of some batches only, whose steps differ."
)


def build_comparison_tables(comparison: Comparison) -> list[Table]:
    """All tables that have rows, in the order in which they are shown."""
    tables = [
        smallest_files(comparison),
        methods(comparison),
        family(comparison),
        trials(comparison),
    ]
    return [table for table in tables if table.rows]


def cost(trials: Sequence[Setting]) -> Cell:
    """Cost of a step; from the least to the most where trials differ, None if one is unknown."""
    counted = {record.cost_of_every_step for record in flat(trials)}
    known = sorted(value for value in counted if value is not None)
    if len(known) < len(counted):
        return None
    texts = list(dict.fromkeys(COST.text(value) for value in known))
    return known[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def smallest_files(comparison: Comparison) -> Table:
    """The smallest file of each method for an allowed loss, the smallest first."""
    caption = (
        f"Every method had {comparison.trials_in_words()}, those without a setting to choose one. "
        "For each seed the smallest file whose validation accuracy is at most the allowed loss "
        "below that of full precision; averaged only where every seed has one. The test drop "
        f"stands beside. {reading(comparison.evidence)}"
    )
    columns = (
        *(Column("loss_points", "allowed loss (points)", "number", 1, 100), col.METHOD),
        *(Column("seeds_within", "seeds with a file", paper="no"), col.SIZE, col.RATIO),
        Column("drop_points", "test drop (points)", "interval", 2, 100),
        Column("chosen", "chosen", paper="no"),
    )
    rows = [row for task in comparison.tasks for row in _smallest_files(comparison, task)]
    title = "Smallest file for an allowed loss"
    return table(comparison.evidence, "smallest_files", title, caption, columns, rows)


def _smallest_files(comparison: Comparison, task: str) -> Iterator[Row]:
    for loss in LOSSES:
        found = {m: kept(comparison.records(task, m), loss) for m in comparison.methods(task)}
        files = {method: own for method, own in found.items() if own.complete}
        drops = intervals([drop_of(own.files.values()) for own in files.values()])
        drop = dict(zip(files, drops, strict=True))
        sizes = {method: own.mean("bytes") or Estimate(math.inf) for method, own in found.items()}
        for method in sorted(found, key=lambda method: sizes[method].mean):
            own, one = found[method], drop.get(method)
            cells = (own.coverage, own.mean("bytes"), own.mean("compression_ratio"))
            records = comparison.records(task, method)
            yield row(records, loss, method, *cells, one and one.value, own.chosen())


def methods(comparison: Comparison) -> Table:
    """One row for each task and method."""
    caption = (
        f"Every method had {comparison.trials_in_words()}, those without a setting to choose one. "
        "On the front: trials that are Pareto-optimal among all methods in mean size and mean "
        "validation accuracy. Largest ratio: that of the method’s smallest trial, at whatever "
        f"accuracy. {reading(comparison.evidence)} {COST_IN_WORDS}"
    )
    columns = (
        *(col.METHOD, Column("trials", "trials", "number", paper="no")),
        Column("on_front", "on the front", "number"),
        replace(col.RATIO, key="largest_ratio", header="largest ratio"),
        replace(col.ACCURACY, key="accuracy_at_largest_percent", header="accuracy at it (%)"),
        COST,
    )
    rows = [row for task in comparison.tasks for row in _methods(comparison, task)]
    title = "Methods compared"
    return table(comparison.evidence, "comparison", title, caption, columns, rows)


def _methods(comparison: Comparison, task: str) -> Iterator[Row]:
    best = front(comparison.of(task))
    for method in comparison.methods(task):
        own = comparison.of(task, method)
        smallest = front(own)[0]
        on_front = sum(trial.method == method for trial in best)
        at_smallest = (smallest.mean("compression_ratio"), smallest.mean("accuracy"))
        yield row(flat(own), method, len(own), on_front, *at_smallest, cost(own))


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
