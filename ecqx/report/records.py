"""The measured runs, typed: one run, one setting over its seeds, and what they were measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, cast

from ecqx.errors import InputError
from ecqx.report.statistics import Estimate, estimate, paired_difference

Method = Literal["ECQ", "ECQx"]
METHODS: tuple[Method, ...] = ("ECQ", "ECQx")
GRID, P_SWEEP, ABLATION = "grid", "p", "ablation"
MISSING = "–"

OPTIONAL = ("variant", "p", "train_samples", "steps", "parameters", "bytes_other")
SHARED_BY_SETTING = ("task", "sweep", "bits", "method", "variant", "p", "lam")
CONFIGURATION = (
    "sparsity_band",
    "alpha",
    "gradient",
    "composite",
    "canonizer",
    "weight_rule",
    "lrp_output",
    "relevance_of",
    "pmf",
    "lambda_max",
)


@dataclass(frozen=True)
class Run:
    """One trained, encoded and evaluated run; accuracies and sparsity are fractions of one."""

    run_id: str
    task: str
    sweep: str
    variant: str | None
    dataset: str
    model: str
    method: Method
    bits: int
    lam: float
    p: float | None
    seed: int
    epochs: int
    metric: str
    accuracy_start: float
    accuracy_fp32: float
    accuracy_validation: float
    accuracy: float
    sparsity: float
    bytes: int
    bytes_other: int | None
    compression_ratio: float
    entropy_bits_per_weight: float
    train_samples: int | None
    steps: int | None
    parameters: int | None
    configuration: tuple[str, ...]

    @property
    def bytes_fp32(self) -> float:
        """Size of the same model with all floating-point values in 32 bit."""
        return self.bytes * self.compression_ratio


@dataclass(frozen=True)
class Setting:
    """The runs of one setting, which differ in their seed only."""

    task: str
    sweep: str
    bits: int
    method: Method
    variant: str | None
    p: float | None
    lam: float
    runs: tuple[Run, ...]

    def mean(self, name: str) -> Estimate:
        """Estimate of a numeric attribute of the runs over seeds."""
        return estimate(getattr(run, name) for run in self.runs)

    def drop(self) -> Estimate:
        """Full-precision accuracy minus accuracy, paired per seed; positive is a loss."""
        return paired_difference(
            {run.seed: run.accuracy_fp32 for run in self.runs},
            {run.seed: run.accuracy for run in self.runs},
        )


def read_runs(runs: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Check and sort the runs, so that nothing depends on the order in which they were measured.

    Parameters
    ----------
    runs : iterable of mapping
        Entries of ``metrics.json``; those of unknown sweeps are left out.

    Returns
    -------
    list of Run

    Raises
    ------
    InputError
        If a key is missing, a method is unknown, or two runs share a setting and a seed.
    """
    known = [run for run in runs if run.get("sweep", GRID) in (GRID, P_SWEEP, ABLATION)]
    read = sorted((_read_run(run) for run in known), key=_order)
    if not read:
        raise InputError("there are no runs to report on")
    for one, other in pairwise(read):
        if _order(one) == _order(other):
            raise InputError(f"runs {one.run_id} and {other.run_id} have the same setting and seed")
    return read


def _read_run(run: Mapping[str, Any]) -> Run:
    name = run.get("run_id", "without run_id")
    wanted = [field.name for field in fields(Run) if field.name != "configuration"]
    for key in (*wanted, *CONFIGURATION):
        if key not in run and key not in OPTIONAL and key != "sweep":
            raise InputError(f"run {name}: '{key}' is missing")
    if run["method"] not in METHODS:
        raise InputError(f"run {name}: method {run['method']!r} is neither ECQ nor ECQx")
    values = {key: run.get(key) for key in wanted}
    values["sweep"] = run.get("sweep", GRID)
    configuration = tuple(_text(run[key]) for key in CONFIGURATION)
    return Run(**cast(dict[str, Any], values), configuration=configuration)


def _text(value: Any) -> str:
    """A setting as a reader writes it."""
    if value is None:
        return MISSING
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(run: Run) -> tuple[Any, ...]:
    p = -1.0 if run.p is None else run.p
    method = METHODS.index(run.method)
    return (run.task, run.sweep, run.bits, method, run.variant or "", p, run.lam, run.seed)


def group_settings(runs: Iterable[Run]) -> list[Setting]:
    """Settings in the order of their runs, each with its runs by ascending seed."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_order(run)[:-1], []).append(run)
    return [
        Setting(
            **{name: getattr(r[0], name) for name in SHARED_BY_SETTING},
            runs=tuple(r),
        )
        for r in groups.values()
    ]


@dataclass(frozen=True)
class Evidence:
    """All that was measured, with the words to label it.

    Attributes
    ----------
    suite : str
        Name of the suite.
    tasks : dict of str to str
        Titles of the tasks that have runs, in the order in which they are shown.
    runs : list of Run
        All runs, sorted.
    settings : list of Setting
        The same runs, grouped over seeds.
    """

    suite: str
    tasks: dict[str, str]
    runs: list[Run]
    settings: list[Setting]

    @classmethod
    def collect(
        cls, suite: str, tasks: Mapping[str, str], runs: Iterable[Mapping[str, Any]]
    ) -> Evidence:
        """Read the runs; a task without a title goes by its key, after those with one."""
        read = read_runs(runs)
        measured = list(dict.fromkeys(run.task for run in read))
        shown = {key: title for key, title in tasks.items() if key in measured}
        shown.update({key: key for key in measured if key not in shown})
        return cls(suite, shown, read, group_settings(read))

    def of(
        self, task: str, sweep: str = GRID, method: Method | None = None, bits: int | None = None
    ) -> list[Setting]:
        """Settings of a task and sweep, by bits, method, p and Λ."""
        return [
            setting
            for setting in self.settings
            if (setting.task, setting.sweep) == (task, sweep)
            and method in (None, setting.method)
            and bits in (None, setting.bits)
        ]

    def bits(self, task: str, sweep: str = GRID) -> list[int]:
        """Bit widths that a task was measured at, ascending."""
        return sorted({setting.bits for setting in self.of(task, sweep)})

    def reference_bits(self, task: str) -> int | None:
        """The bit width that stands for a task where only one is shown: 4, or else the largest."""
        bits = self.bits(task)
        return None if not bits else 4 if 4 in bits else bits[-1]

    def of_task(self, task: str) -> list[Run]:
        """All runs of a task."""
        return [run for run in self.runs if run.task == task]

    def metric(self, task: str) -> str:
        """What the task's accuracy is called."""
        return self.of_task(task)[0].metric.replace("_", " ")

    def data(self, task: str) -> str:
        """The data that a task was measured on."""
        return source_of(self.of_task(task)).dataset

    def title(self, task: str) -> str:
        """Title of a task that names its data."""
        data, title = self.data(task), self.tasks[task]
        return title if data in title else f"{title} (data: {data})"

    def pairs(self) -> list[tuple[str, str]]:
        """Tasks without and with BatchNorm that belong together: X and X_bn."""
        return [(task, f"{task}_bn") for task in self.tasks if f"{task}_bn" in self.tasks]


@dataclass(frozen=True)
class Source:
    """What a number was measured on; a dash where a part does not apply."""

    dataset: str
    train_samples: str
    epochs: str = MISSING
    seeds: str = MISSING

    def text(self) -> str:
        """The same in words."""
        parts = [f"data {self.dataset}", f"{self.train_samples} training samples"]
        if self.epochs != MISSING:
            parts.append(f"{self.epochs} epochs")
        if self.seeds != MISSING:
            parts.append(f"seeds {self.seeds}" if "," in self.seeds else f"seed {self.seeds}")
        return ", ".join(parts)


def source_of(runs: Sequence[Run]) -> Source:
    """What runs of one task were measured on."""
    return Source(
        dataset=join(run.dataset for run in runs),
        train_samples=join(run.train_samples for run in runs),
        epochs=join(run.epochs for run in runs),
        seeds=join(run.seed for run in runs),
    )


def join(values: Iterable[Any]) -> str:
    """Distinct values, ascending, separated by commas; a dash where there is none."""
    known = sorted({value for value in values if value is not None})
    return ", ".join(str(value) for value in known) or MISSING
