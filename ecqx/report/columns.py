"""The columns that tables share, and the cells that fill them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import Record, Setting
from ecqx.report.selection import Gain
from ecqx.report.sources import source_of

TASK = Column("task", "task")
METRIC = Column("metric", "metric")
BITS = Column("bits", "bits", "number")
METHOD = Column("method", "method")
LAMBDA = Column("lambda", "Λ")
P = Column("p", "p")
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


def measures(setting: Setting, columns: Iterable[Column] = MEASURES) -> tuple[Cell, ...]:
    """Cells of some of `MEASURES`."""
    return tuple(setting.mean(_MEASURED[column.key]) for column in columns)


# What the columns show, by its name in a record.
_MEASURED = {
    ACCURACY.key: "accuracy",
    DROP.key: "drop",
    SPARSITY.key: "sparsity",
    SIZE.key: "bytes",
    RATIO.key: "compression_ratio",
    ENTROPY.key: "entropy_bits_per_weight",
}


def other_columns(evidence: Evidence) -> tuple[Column, ...]:
    """A column for each metric that some task has beside its accuracy."""
    return tuple(
        Column(f"{name.replace(' ', '_')}_percent", f"{name} (%)", "spread", 2, 100)
        for name in evidence.other_metrics()
    )


def other_measures(evidence: Evidence, setting: Setting) -> tuple[Cell, ...]:
    """Cells of `other_columns`."""
    return tuple(setting.other(name) for name in evidence.other_metrics())


def gain_cells(gain: Gain) -> tuple[Cell, Cell]:
    """Gain at equal sparsity and the range it was averaged over."""
    if gain.difference is None:
        return None, "no common range"
    return gain.difference, f"{100 * gain.low:.1f} to {100 * gain.high:.1f}"


def spread_in_words(evidence: Evidence) -> str:
    """What stands behind the numbers of a setting."""
    if evidence.seeds_per_setting() == [1]:
        return "One seed each, hence without deviation"
    return "Mean ± standard deviation over seeds"


def reading(evidence: Evidence) -> str:
    """How tables of settings are read."""
    return (
        f"{spread_in_words(evidence)}, of the models decoded from their files. Accuracy is the "
        "test value of the task’s metric, which is named below; whatever is chosen is chosen by "
        "its validation value. Drop is the accuracy of the same checkpoint trained as long in full "
        "precision minus this one, paired per seed; negative is a gain. Ratio is the size of all "
        "floating-point values in 32 bit over the size of the file."
    )


def table(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    columns: tuple[Column, ...],
    rows: Iterable[Row],
) -> Table:
    """A table of the suite; the title of a row's task is its first cell."""
    titled = [Row(row.task, (evidence.tasks[row.task], *row.cells), row.source) for row in rows]
    return Table(name, title, caption, evidence.suite, evidence.tasks, (TASK, *columns), titled)


def row(records: Sequence[Record], *cells: Cell) -> Row:
    """A row about some records of one task, without the task's title."""
    return Row(records[0].task, cells, source_of(records))
