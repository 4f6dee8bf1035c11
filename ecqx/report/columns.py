"""The columns that tables share, and tables made of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ecqx.report.contrasts import interval
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
BITS = Column("bits", "bits", "number")
METHOD = Column("method", "method")
LAMBDA = Column("lambda", "Λ", value=lambda s: s.lam_in_words)
VARIANT = Column("variant", "other settings")
P = Column("p", "p")
BAND = Column("band", "sparsity band")
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


def other_columns(evidence: Evidence) -> tuple[Column, ...]:
    """A column for each metric that some task has beside its accuracy."""

    def column(name: str) -> Column:
        key, header = f"{name.replace(' ', '_')}_percent", f"{name} (%)"
        return Column(key, header, "spread", 2, 100, lambda setting: setting.other(name))

    names = dict.fromkeys(name for record in evidence.records for name in record.other_metrics)
    return tuple(map(column, names))


def gain_cells(gain: Gain) -> tuple[Cell, Cell]:
    """Cells of `GAIN` and `SHARED_RANGE`."""
    return interval(gain.difference), gain.range_in_words


def spread_in_words(evidence: Evidence) -> str:
    """What stands behind the numbers of a setting."""
    if all(len(setting.records) == 1 for setting in evidence.settings):
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
    rows: Iterable[Row | Setting | tuple[Setting, Mapping[str, Cell]]],
) -> Table:
    """A table of the suite, whose first cell in each row is the title of the row's task.

    A row is given by its cells, or by a setting: alone, or with cells, by the key of their column,
    that are not the column's value.
    """
    made = []
    for one in rows:
        if not isinstance(one, Row):
            setting, own = one if isinstance(one, tuple) else (one, {})
            cells = (own[c.key] if c.key in own else c.of(setting) for c in columns)
            one = row(setting.records, *cells)
        made.append(Row(one.task, (evidence.tasks[one.task], *one.cells), one.source))
    return Table(name, title, caption, evidence.suite, evidence.tasks, (TASK, *columns), made)


def row(records: Sequence[Record], *cells: Cell, trained: bool = True) -> Row:
    """A row, without its task's title, about records of one task or, untrained, their start."""
    return Row(records[0].task, cells, source_of(records, trained))
