"""The measured runs, typed: one run, and one setting over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from ecqx.errors import InputError
from ecqx.report.regression import CONFIGURATION
from ecqx.report.statistics import Estimate, estimate, paired_difference

# The methods that the grid, all curves and the claims compare.
Method = Literal["ECQ", "ECQx"]
METHODS: tuple[Method, ...] = ("ECQ", "ECQx")
# Those that train their centroids; a sweep of their own keeps them out of everything else.
TrainedMethod = Literal["EC2T", "EC2Tx", "FantastIC4", "FantastIC4x"]
TRAINED_METHODS: tuple[TrainedMethod, ...] = ("EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")
GRID, P_SWEEP, ABLATION, TRAINED = "grid", "p", "ablation", "trained"

SHARED_BY_SETTING = ("task", "sweep", "bits", "method", "variant", "p", "lam")
# How metrics.json names a start that was given: what the pretrain stage made "of" what.
GIVEN_START = " of "
SHOWN_CHECKSUM = 8


@dataclass(frozen=True)
class Run:
    """One trained, encoded and evaluated run.

    Accuracies, which are what the task's metric gives, other metrics and sparsity are fractions
    of one. ``configuration`` holds the values of `ecqx.report.regression.CONFIGURATION`, in that
    order.
    """

    run_id: str
    task: str
    sweep: str
    variant: str | None
    dataset: str
    model: str
    method: Method | TrainedMethod
    bits: int
    lam: float
    p: float | None
    seed: int
    epochs: int
    steps: int
    batch_size: int
    train_samples: int
    start: str
    metric: str
    accuracy_start: float
    accuracy_fp32: float
    accuracy_validation: float
    accuracy: float
    other_metrics: Mapping[str, float]
    sparsity: float
    bytes: int
    bytes_integers: int
    bytes_other: int
    compression_ratio: float
    entropy_bits_per_weight: float
    parameters: int
    configuration: tuple[Any, ...]

    @property
    def bytes_fp32(self) -> float:
        """Size of the same model with all floating-point values in 32 bit."""
        return self.bytes * self.compression_ratio

    @property
    def samples_seen(self) -> int:
        """Training samples that the run can have seen at most, each counted once."""
        return min(self.steps * self.batch_size, self.train_samples)

    @property
    def start_in_words(self) -> str:
        """What the stage that makes the starting checkpoint began with."""
        _, is_given, checksum = self.start.partition(GIVEN_START)
        return f"checkpoint {checksum[:SHOWN_CHECKSUM]}" if is_given else "random weights"


@dataclass(frozen=True)
class Setting:
    """The runs of one setting, which differ in their seed only."""

    task: str
    sweep: str
    bits: int
    method: Method | TrainedMethod
    variant: str | None
    p: float | None
    lam: float
    runs: tuple[Run, ...]

    def mean(self, name: str) -> Estimate:
        """Estimate of a numeric attribute of the runs over seeds."""
        return estimate(getattr(run, name) for run in self.runs)

    def other(self, metric: str) -> Estimate | None:
        """Estimate of a further metric over seeds; None where the task has no such metric."""
        known = [run.other_metrics[metric] for run in self.runs if metric in run.other_metrics]
        return estimate(known) if known else None

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
        If a key is missing, a method is none of its sweep's, or two runs share a setting and a
        seed.
    """
    read = sorted((run for run in map(_read_run, runs) if run.sweep in _SWEEPS), key=_order)
    if not read:
        raise InputError("there are no runs to report on")
    for one, other in pairwise(read):
        if _order(one) == _order(other):
            raise InputError(f"runs {one.run_id} and {other.run_id} have the same setting and seed")
    return read


_SWEEPS = (GRID, P_SWEEP, ABLATION, TRAINED)
_ALL_METHODS = (*METHODS, *TRAINED_METHODS)
_OWN = tuple(field.name for field in fields(Run) if field.name != "configuration")


def _read_run(run: Mapping[str, Any]) -> Run:
    name = run.get("run_id", "without run_id")
    for key in (*_OWN, *CONFIGURATION):
        if key not in run:
            raise InputError(f"run {name}: '{key}' is missing")
    possible = TRAINED_METHODS if run["sweep"] == TRAINED else METHODS
    if run["method"] not in possible:
        raise InputError(
            f"run {name}: method of sweep {run['sweep']!r} must be one of {', '.join(possible)}, "
            f"not {run['method']!r}"
        )
    values = {key: run[key] for key in _OWN}
    configuration = tuple(_hashable(run[key]) for key in CONFIGURATION)
    return Run(**values, configuration=configuration)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _order(run: Run) -> tuple[Any, ...]:
    p = -1.0 if run.p is None else run.p
    method = _ALL_METHODS.index(run.method)
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
