"""The columns that tables share, and tables made of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Row, Table
from ecqx.report.records import Record, Setting
from ecqx.report.selection import Gain, over_seeds
from ecqx.report.sources import source_of


def _mean(key: str, header: str, digits: int, scale: float, name: str) -> Column:
    """Mean ± standard deviation of a number of the records."""
    return Column(key, header, "spread", digits, scale, lambda setting: setting.mean(name))


TASK = Column("task", "task")
METRIC = Column("metric", "metric", value=lambda s: s.first.metric, paper="no")
BITS = Column("bits", "bits", "number", value=lambda s: s.bits)
METHOD = Column("method", "method", value=lambda s: s.method)
LAMBDA = Column("lambda", "Λ", value=lambda s: s.lam_in_words)
VARIANT = Column("variant", "other settings", value=lambda s: s.variant)
P = Column("p", "p")
ACCURACY = _mean("accuracy_percent", "accuracy (%)", 2, 100, "accuracy")
DROP = _mean("drop_points", "drop (points)", 2, 100, "drop")
SPARSITY = _mean("sparsity_percent", "sparsity (%)", 1, 100, "sparsity")
SIZE = _mean("size_kb", "size (kB)", 1, 1e-3, "bytes")
RATIO = _mean("ratio", "ratio", 1, 1, "compression_ratio")
ENTROPY = _mean("entropy_bits_per_weight", "entropy (bit/weight)", 2, 1, "entropy_bits_per_weight")
EPOCHS = Column("epochs", "epochs", paper="no")
SEEDS = Column("seeds", "seeds", "number", value=lambda s: len(s.records), paper="no")
FULL_PRECISION = Column(
    *("fp32_percent", "full precision (%)", "spread", 2, 100),
    value=lambda s: over_seeds(s.records, "accuracy_fp32"),
)
GAIN = Column("gain_points", "ECQx − ECQ at equal sparsity (points)", "interval", 2, 100)
SHARED_RANGE = Column("range_percent", "common sparsity (%)")

LABEL = (BITS, METHOD, LAMBDA)
MEASURES = (ACCURACY, DROP, SPARSITY, SIZE, RATIO, ENTROPY)


def measures(setting: Setting, columns: Iterable[Column] = MEASURES) -> tuple[Cell, ...]:
    """Cells of columns that every setting has."""
    return tuple(column.value(setting) for column in columns if column.value)


def other_columns(evidence: Evidence) -> tuple[Column, ...]:
    """A column for each metric that some task has beside its accuracy."""

    def column(name: str) -> Column:
        key, header = f"{name.replace(' ', '_')}_percent", f"{name} (%)"
        return Column(key, header, "spread", 2, 100, lambda setting: setting.other(name))

    return tuple(map(column, evidence.other_metrics()))


def gain_cells(gain: Gain) -> dict[str, Cell]:
    """Cells of `GAIN` and `SHARED_RANGE`."""
    shared = f"{100 * gain.low:.1f} to {100 * gain.high:.1f}"
    return {
        GAIN.key: gain.difference,
        SHARED_RANGE.key: "no common range" if gain.difference is None else shared,
    }


def spread_in_words(evidence: Evidence) -> str:
    """What stands behind the numbers of a setting."""
    if evidence.seeds_per_setting() == [1]:
        return "One seed each, hence without deviation"
    return "Mean ± standard deviation over seeds"


def reading(evidence: Evidence) -> str:
    """How tables of settings are read."""
    return (
        f"{spread_in_words(evidence)}, of the models decoded from their files. Accuracy is the "
        "test value of the task’s metric, named below; all choices are made by its validation "
        "value. Drop is the accuracy of the same checkpoint trained as long in full precision "
        "minus this one, paired per seed; negative is a gain. Ratio is the size of all "
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


def settings_table(
    evidence: Evidence,
    name: str,
    title: str,
    caption: str,
    columns: tuple[Column, ...],
    rows: Iterable[tuple[Setting, Mapping[str, Cell]]],
) -> Table:
    """A table with a row for each setting.

    Parameters
    ----------
    rows : iterable of (Setting, mapping)
        Each with the cells, by the key of their column, that are not the column's own value.
    """

    def cell(column: Column, setting: Setting, other: Mapping[str, Cell]) -> Cell:
        if column.key in other or column.value is None:
            return other[column.key]
        return column.value(setting)

    made = (
        row(setting.records, *(cell(column, setting, other) for column in columns))
        for setting, other in rows
    )
    return table(evidence, name, title, caption, columns, made)
