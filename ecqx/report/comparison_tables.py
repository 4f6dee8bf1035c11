"""The tables of the comparison: methods, all trials, and the family of quantizers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ecqx.report.columns import (
    ACCURACY,
    BITS,
    DROP,
    LAMBDA,
    METHOD,
    RATIO,
    SEEDS,
    SIZE,
    SPARSITY,
    measures,
    other_columns,
    other_measures,
    reading,
    row,
    table,
)
from ecqx.report.comparison import Comparison
from ecqx.report.comparison_curves import areas, kept
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import GRID_METHODS, Setting
from ecqx.report.selection import flat, front
from ecqx.report.statistics import estimate

VARIANT = Column("variant", "other settings")
COST = Column("cost", "cost of a step (times)", "number", 2)
MEASURES = (ACCURACY, DROP, SPARSITY, SIZE, RATIO)
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
        f"Every method had {comparison.trials_in_words()}, those without anything to choose one. "
        "Area: at each file size the file of highest validation accuracy that fits is taken; the "
        "area is the mean of the test accuracies of these files over all sizes that a compression "
        f"ratio {comparison.ranges_in_words()} allows, "
        "evenly over the logarithm of the ratio, and 0 is counted where no file fits. Within "
        f"{loss}: the smallest file of each seed whose validation accuracy is at most {loss} below "
        "that of full precision; where some seed has none, the seeds that have one are counted and "
        "nothing is averaged. On the front: trials that no trial of any method dominates in mean "
        "size and mean validation accuracy. Largest ratio: that of the method’s smallest trial, at "
        f"whatever accuracy. {reading(comparison.evidence)} {COST_IN_WORDS}"
    )
    columns = (
        *(METHOD, Column("trials", "trials", "number")),
        Column("area_percent", "area (%)", "spread", 2, 100),
        Column("seeds_within", f"seeds within {loss}"),
        Column("size_within_kb", "size there (kB)", "spread", 2, 1e-3),
        Column("ratio_within", "ratio there", "spread", 1),
        Column("drop_within_points", "drop there (points)", "spread", 2, 100),
        Column("on_front", "on the front", "number"),
        Column("largest_ratio", "largest ratio", "spread", 1),
        Column("accuracy_at_largest_percent", "accuracy at it (%)", "spread", 2, 100),
        *(COST, Column("chosen", "chosen within the loss")),
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
            estimate(areas(files, comparison.fairness(task).ratios).values()),
            within.coverage,
            *(within.mean(name) for name in ("bytes", "compression_ratio", "drop")),
            sum(trial.method == method for trial in best),
            *(smallest.mean("compression_ratio"), smallest.mean("accuracy")),
            *(cost(own), within.chosen()),
        )
        yield row(files, *cells)


def trials(comparison: Comparison) -> Table:
    """Every trial of every method."""
    evidence = comparison.evidence
    rows = []
    for task in comparison.tasks:
        best = front(comparison.of(task))
        for method in comparison.methods(task):
            own = comparison.of(task, method)
            best_of_method = front(own)
            for trial in own:
                place = ON_ALL if trial in best else ON_OWN if trial in best_of_method else None
                cells = (
                    *(method, trial.bits, trial.lam_in_words, trial.variant),
                    *(trial.mean("accuracy_validation"), *measures(trial, MEASURES)),
                    *(*other_measures(evidence, trial), place, cost([trial]), len(trial.records)),
                )
                rows.append(row(trial.records, *cells))
    caption = (
        "All trials of all methods. On the front of the method are those that no other trial of "
        "the same method dominates in mean size and mean validation accuracy, on the front of all "
        "those that none of any method does; these are on the front of their method, too. "
        f"{reading(comparison.evidence)} Sparsity is the share of zeros among the weights. "
        f"{COST_IN_WORDS}"
    )
    columns = (
        *(METHOD, BITS, LAMBDA, VARIANT),
        Column("validation_percent", "validation (%)", "spread", 2, 100),
        *(*MEASURES, *other_columns(evidence)),
        *(Column("front", "on the front"), COST, SEEDS),
    )
    return table(evidence, "trials", "All trials of all methods", caption, columns, rows)


def family(comparison: Comparison) -> Table:
    """EC2T beside ECQ of 2 bit and FantastIC4 beside ECQ of 4 bit, each without and with LRP."""
    rows = []
    for task in comparison.tasks:
        present = comparison.methods(task)
        for bits, others in WIDTHS.items():
            if not set(others) & set(present):
                continue
            grid = [t for m in GRID_METHODS for t in comparison.of(task, m) if t.bits == bits]
            for trial in grid + [t for method in others for t in comparison.of(task, method)]:
                label = (bits, trial.method, trial.lam_in_words, trial.variant)
                rows.append(row(trial.records, *label, *measures(trial, MEASURES)))
    caption = (
        "Quantizers of one bit width side by side: EC2T, whose values are zero and two trained "
        "ones, and ECQ with its grid of 2 bit; FantastIC4, whose values are the sums of four "
        "trained ones, and ECQ with its grid of 4 bit; an x marks the methods with relevance. Each "
        "method has a scale of Λ of its own, so rows of equal Λ are no pairs: compare accuracies "
        f"at like sizes. {reading(comparison.evidence)}"
    )
    columns = (BITS, METHOD, LAMBDA, VARIANT, *MEASURES)
    title = "The family of quantizers"
    return table(comparison.evidence, "family", title, caption, columns, rows)
