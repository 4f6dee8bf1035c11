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
    TASK,
)
from ecqx.report.comparison_curves import areas, kept, undominated
from ecqx.report.comparison_records import File, Measured, Trial, source_of
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.statistics import estimate

VARIANT = Column("variant", "other settings")
COST = Column("cost", "cost of a step (times)", "number", 2)
MEASURES = (ACCURACY, DROP, SPARSITY, SIZE, RATIO)
# Bit width → the methods of that width whose values are trained, to stand beside ECQ's grid.
WIDTHS = {2: ("EC2T", "EC2Tx"), 4: ("FantastIC4", "FantastIC4x")}
ON_ALL, ON_OWN = "of all", "of the method"


def build_tables(measured: Measured) -> list[Table]:
    """All tables that have rows, in the order in which they are shown."""
    tables = [comparison(measured), family(measured), trials(measured)]
    return [table for table in tables if table.rows]


def reading(measured: Measured) -> str:
    """How the numbers are read."""
    return (
        f"{measured.spread_in_words()}, of the models decoded from their files. Accuracy is the "
        "test value of the metric of the task that is named below; whatever is chosen is chosen by "
        "its validation value. Drop is the accuracy of the same checkpoint trained as long in full "
        "precision minus this one, paired per seed; negative is a gain. Ratio is the size of all "
        "parameters in 32 bit over the size of the file. "
    )


def cost_in_words() -> str:
    """What the costs count."""
    return (
        "Cost is counted: multiply-adds of one training step over those of a step of plain "
        "fine-tuning."
    )


def cost(trials: Sequence[Trial]) -> Cell:
    """Cost of a step; from the least to the most where trials differ."""
    known = sorted({file.cost for trial in trials for file in trial.files})
    texts = list(dict.fromkeys(COST.text(value) for value in known))
    return known[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def comparison(measured: Measured) -> Table:
    """One row for each task and method."""
    loss = measured.rules.loss_in_words
    caption = (
        f"Every method had {measured.trials_in_words()}, those without anything to choose one. "
        "Area: at each file size the file of highest validation accuracy that fits is taken; the "
        "area is the mean of the test accuracies of these files over all sizes that a compression "
        f"ratio {measured.ranges_in_words()} allows, "
        "evenly over the logarithm of the ratio, and 0 is counted where no file fits. Within "
        f"{loss}: the smallest file of each seed whose validation accuracy is at most {loss} below "
        "that of full precision; where some seed has none, the seeds that have one are counted and "
        "nothing is averaged. On the front: trials that no trial of any method dominates in mean "
        "size and mean validation accuracy. Largest ratio: that of the method’s smallest trial, at "
        f"whatever accuracy. {reading(measured)}{cost_in_words()}"
    )
    columns = (
        *(TASK, METHOD, Column("trials", "trials", "number")),
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
    rows = [row for task in measured.tasks for row in _methods(measured, task)]
    title = "Methods compared"
    return Table("comparison", title, caption, measured.suite, measured.tasks, columns, rows)


def _methods(measured: Measured, task: str) -> Iterator[Row]:
    best = undominated(measured.of(task))
    for method in measured.methods(task):
        own, files = measured.of(task, method), measured.files(task, method)
        within = kept(files, measured.rules.loss)
        smallest = undominated(own)[0]
        cells = (
            *(measured.tasks[task], method, len(own)),
            estimate(areas(files, measured.fairness(task).ratios).values()),
            within.coverage,
            *(within.mean(quantity) for quantity in (_bytes, _ratio, _drop)),
            sum(trial.method == method for trial in best),
            *(smallest.mean("ratio"), smallest.mean("accuracy"), cost(own), within.chosen()),
        )
        yield Row(task, cells, source_of(files))


def _bytes(file: File) -> float:
    return file.bytes


def _ratio(file: File) -> float:
    return file.ratio


def _drop(file: File) -> float:
    return file.drop


def measures(trial: Trial) -> tuple[Cell, ...]:
    """Cells of `MEASURES`."""
    return (
        *(trial.mean("accuracy"), trial.drop(), trial.mean("sparsity")),
        *(trial.mean("bytes"), trial.mean("ratio")),
    )


def trials(measured: Measured) -> Table:
    """Every trial of every method."""
    rows = []
    names = measured.other_metrics()
    for task in measured.tasks:
        best = undominated(measured.of(task))
        for method in measured.methods(task):
            own = measured.of(task, method)
            front = undominated(own)
            for trial in own:
                place = ON_ALL if trial in best else ON_OWN if trial in front else None
                cells = (
                    *(
                        measured.tasks[task],
                        method,
                        trial.first.bits,
                        _lam(trial),
                        trial.first.variant,
                    ),
                    *(trial.mean("accuracy_validation"), *measures(trial)),
                    *(trial.other(name) for name in names),
                    *(place, cost([trial]), len(trial.files)),
                )
                rows.append(Row(task, cells, source_of(trial.files)))
    caption = (
        "All trials of all methods. On the front of the method are those that no other trial of "
        "the same method dominates in mean size and mean validation accuracy, on the front of all "
        "those that none of any method does; these are on the front of their method, too. "
        f"{reading(measured)}Sparsity is the share of zeros among the weights. {cost_in_words()}"
    )
    columns = (
        *(TASK, METHOD, BITS, LAMBDA, VARIANT),
        Column("validation_percent", "validation (%)", "spread", 2, 100),
        *MEASURES,
        *(
            Column(f"{name.replace(' ', '_')}_percent", f"{name} (%)", "spread", 2, 100)
            for name in names
        ),
        *(Column("front", "on the front"), COST, SEEDS),
    )
    return Table("trials", "All trials", caption, measured.suite, measured.tasks, columns, rows)


def _lam(trial: Trial) -> str | None:
    lam = trial.first.lam
    return None if lam is None else f"{lam:g}"


def family(measured: Measured) -> Table:
    """EC2T beside ECQ of 2 bit and FantastIC4 beside ECQ of 4 bit, each without and with LRP."""
    rows = []
    for task in measured.tasks:
        present = measured.methods(task)
        for bits, others in WIDTHS.items():
            if not set(others) & set(present):
                continue
            grid = [
                t for m in ("ECQ", "ECQx") for t in measured.of(task, m) if t.first.bits == bits
            ]
            for trial in grid + [t for method in others for t in measured.of(task, method)]:
                cells = (
                    *(measured.tasks[task], bits, trial.method, _lam(trial)),
                    *(trial.first.variant, *measures(trial)),
                )
                rows.append(Row(task, cells, source_of(trial.files)))
    caption = (
        "Quantizers of one bit width side by side: EC2T, whose values are zero and two trained "
        "ones, and ECQ with its grid of 2 bit; FantastIC4, whose values are the sums of four "
        "trained ones, and ECQ with its grid of 4 bit; an x marks those that heed relevance. Each "
        "method has a scale of Λ of its own, so rows of equal Λ are no pairs: compare accuracies "
        f"at like sizes. {reading(measured)}"
    )
    columns = (TASK, BITS, METHOD, LAMBDA, VARIANT, *MEASURES)
    title = "The family of quantizers"
    return Table("family", title, caption.strip(), measured.suite, measured.tasks, columns, rows)
