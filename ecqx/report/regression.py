"""The regression gate: are these runs worse than those that were accepted?

Every difference is worse, better or different; what makes `make check` fail is said apart from that
(`Difference.counts`).

On the machine and packages of the accepted runs any difference counts. A value that has a good
direction (accuracy up, bytes down) is worse or better, any other is different.

Elsewhere the last digits differ, and training amplifies them. There the means over seeds are
compared, per setting. They are worse if ``accuracy`` or ``sparsity`` is lower, or ``bytes`` larger,
by more than a tolerance, and better if it is the other way round; only worse ones count:

    tolerance = t · s · √(1/n + 1/n)

- n: seeds of the setting that both sides have.
- s: standard deviation (n − 1) over the accepted runs' seeds, of this setting or pooled over all
  settings of its task, whichever is larger. Three seeds that happen to agree thus do not make a
  tolerance of nothing, and new runs that scatter do not widen it. Bytes are taken relative to
  their mean.
- t: one-sided quantile of Student's distribution at 1 − 0.01/m, with the pooled deviation's degrees
  of freedom; m is the number of means compared. All of them together thus raise a false alarm in
  at most one of a hundred checks, if the new runs are as good.

Where no spread is known (single seeds, or seeds that all agree) the tolerance is two percentage
points of accuracy or sparsity and 2 % of the bytes. Bytes outside the coded integers must be equal
everywhere. A run that is missing is worse, on any machine; one that is new is different.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, variance
from typing import Any

from scipy.special import stdtrit

from ecqx.errors import InputError
from ecqx.report.naming import ALWAYS_NAMED, Names, setting_of

Run = Mapping[str, Any]

# The configuration of a run's quantizer and relevance, beside bits, Λ and p.
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
# What the runs of a setting share; they differ in the seed only.
SETTINGS = (
    *ALWAYS_NAMED,
    *("sweep", "variant", "p"),
    *CONFIGURATION,
    *("relevance_every", "relevance_samples", "floats", "settings"),
    *("lr", "batch_size", "epochs", "dataset", "model", "metric"),
)
# Runs on other data, or from another start, say nothing about each other.
SOURCE = ("dataset", "data_checksum", "start")
# The quantities that have a good direction: up, or down.
UP, DOWN = 1, -1
GOOD = {
    **dict.fromkeys(("accuracy", "accuracy_validation", "sparsity", "compression_ratio"), UP),
    **dict.fromkeys(("bytes", "bytes_integers", "bytes_other"), DOWN),
}
# Those whose means are compared, and that of each run that must be equal on any machine.
MEANS = ("accuracy", "sparsity", "bytes")
EXACT = "bytes_other"
RELATIVE = ("bytes",)
FALSE_ALARMS = 0.01
UNKNOWN_SPREAD_TOLERANCE = 0.02


class Kind(StrEnum):
    """What a difference is, the most important first."""

    WORSE = "worse"
    DIFFERENT = "different"
    BETTER = "better"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Attributes
    ----------
    setting : str
        The setting in words; with the seed where it is about one run.
    quantity : str
        Key of the record that differs; ``run`` for a run that only one side has.
    old, new : object
        Accepted and present value, means where several seeds were compared.
    kind : Kind
    counts : bool
        Whether the check fails because of it.
    difference, tolerance : float or None
        New minus old and what is allowed; None where the value is no number.
    severity : float
        The larger, the more of its kind.
    """

    setting: str
    quantity: str
    old: Any
    new: Any
    kind: Kind = Kind.DIFFERENT
    counts: bool = True
    difference: float | None = None
    tolerance: float | None = None
    severity: float = math.inf


def compare(
    old_runs: Iterable[Run], new_runs: Iterable[Run], same_machine: bool
) -> list[Difference]:
    """Compare present runs with accepted ones.

    Keys that only the present runs have are no difference of any run: see `keys_apart`. A key that
    only the accepted runs have is one difference, not one of each run.

    Parameters
    ----------
    old_runs, new_runs : iterable of mapping
        Accepted and present entries of ``metrics.json``, matched by ``run_id``.
    same_machine : bool
        Whether machine and packages are those of the accepted runs.

    Returns
    -------
    list of Difference
        By `in_order`; empty if there is nothing to say.

    Raises
    ------
    InputError
        If a run has no ``run_id``, or two runs have the same.
    """
    old, new = _by_id(old_runs), _by_id(new_runs)
    names = Names([*old.values(), *new.values()], SETTINGS)
    gone, _ = keys_apart(old.values(), new.values())
    found = _unmatched(old, new, names, same_machine)
    found += [_vanished(key, same_machine) for key in gone]
    pairs = [(old[key], new[key]) for key in old if key in new]
    found += [_not_judged(*pair, names) for pair in pairs if not _comparable(*pair)]
    judged = [pair for pair in pairs if _comparable(*pair)]
    judge = _all_fields if same_machine else _means
    return in_order([*found, *judge(judged, names, gone)])


def in_order(differences: Iterable[Difference]) -> list[Difference]:
    """The differences by kind, and the worst of each kind first."""
    kinds = list(Kind)
    return sorted(
        differences, key=lambda d: (kinds.index(d.kind), -d.severity, d.setting, d.quantity)
    )


def keys_apart(old_runs: Iterable[Run], new_runs: Iterable[Run]) -> tuple[list[str], list[str]]:
    """Keys of only the accepted runs, and keys of only the present ones.

    Parameters
    ----------
    old_runs, new_runs : iterable of mapping
        As for `compare`.

    Returns
    -------
    tuple of list of str
        Sorted; empty where one side has no runs.
    """
    old, new = ({key for run in runs for key in run} for runs in (old_runs, new_runs))
    return (sorted(old - new), sorted(new - old)) if old and new else ([], [])


def count_judged(old_runs: Iterable[Run], new_runs: Iterable[Run]) -> int:
    """Number of runs that both sides have, made with the same data and start.

    Parameters
    ----------
    old_runs, new_runs : iterable of mapping
        As for `compare`.

    Returns
    -------
    int
    """
    old, new = _by_id(old_runs), _by_id(new_runs)
    return sum(_comparable(old[key], new[key]) for key in old if key in new)


def _by_id(runs: Iterable[Run]) -> dict[str, Run]:
    listed = list(runs)
    counts = Counter(run.get("run_id") for run in listed)
    if None in counts:
        raise InputError("a run has no run_id")
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"run {name} is there {count} times")
    return {run["run_id"]: run for run in listed}


def _source(run: Run) -> tuple[Any, ...]:
    return tuple(run.get(key) for key in SOURCE)


def _comparable(old: Run, new: Run) -> bool:
    return _source(old) == _source(new)


def _unmatched(
    old: Mapping[str, Run], new: Mapping[str, Run], names: Names, same_machine: bool
) -> list[Difference]:
    """Runs that only one side has; not judged where their task has another source on each side."""
    there, here = _sources(old.values()), _sources(new.values())
    elsewhere = {task for task in {*there} & {*here} if there[task].isdisjoint(here[task])}

    def found(run: Run, was: str, now: str, kind: Kind) -> Difference:
        label = names.run(run)
        if run.get("task") in elsewhere:
            return Difference(label, "run", was, now, Kind.NOT_JUDGED, counts=False)
        counts = same_machine or kind is Kind.WORSE
        return Difference(label, "run", was, now, kind, counts)

    lost = [run for key, run in old.items() if key not in new]
    added = [run for key, run in new.items() if key not in old]
    return [
        *(found(run, "present", "missing", Kind.WORSE) for run in lost),
        *(found(run, "missing", "present", Kind.DIFFERENT) for run in added),
    ]


def _sources(runs: Iterable[Run]) -> dict[Any, set[tuple[Any, ...]]]:
    """What each task's runs were measured on."""
    sources: dict[Any, set[tuple[Any, ...]]] = defaultdict(set)
    for run in runs:
        sources[run.get("task")].add(_source(run))
    return sources


def _vanished(key: str, same_machine: bool) -> Difference:
    counts = same_machine or key in (*MEANS, EXACT)
    return Difference("every run", key, "present", "missing", counts=counts)


def _not_judged(old: Run, new: Run, names: Names) -> Difference:
    key = next(key for key in SOURCE if old.get(key) != new.get(key))
    return Difference(
        names.run(old), key, old.get(key), new.get(key), Kind.NOT_JUDGED, counts=False
    )


def _all_fields(
    pairs: Iterable[tuple[Run, Run]], names: Names, gone: Sequence[str]
) -> list[Difference]:
    """Every field that is not the same, of those that both sides know."""
    pairs = list(pairs)
    known = {key for old, _ in pairs for key in old} - {*gone}
    return [
        _exact(names.run(old), key, old.get(key), new.get(key))
        for old, new in pairs
        for key in sorted(known)
        if not _same(old.get(key), new.get(key))
    ]


def _same(old: Any, new: Any) -> bool:
    return bool(old == new or (old != old and new != new))


def _exact(label: str, quantity: str, old: Any, new: Any) -> Difference:
    difference = _number(new) - _number(old)
    kind = _kind(quantity, _number(old), _number(new))
    if math.isnan(difference):
        return Difference(label, quantity, old, new, kind)
    severity = abs(difference) / max(abs(old), abs(new))
    return Difference(label, quantity, old, new, kind, True, difference, 0.0, severity)


def _kind(quantity: str, old: float, new: float, tolerance: float = 0.0) -> Kind:
    """What a change by more than the tolerance is; a number that is lost is worse."""
    gain = GOOD.get(quantity, 0) * (new - old)
    if gain < -tolerance or (quantity in GOOD and math.isnan(new) and not math.isnan(old)):
        return Kind.WORSE
    return Kind.BETTER if gain > tolerance else Kind.DIFFERENT


def _number(value: Any) -> float:
    """The value where it is a finite number, NaN otherwise."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else math.nan


def _means(pairs: Iterable[tuple[Run, Run]], names: Names, gone: Sequence[str]) -> list[Difference]:
    """Settings whose mean moved by more than the tolerance, and bytes that have to be equal."""
    settings: dict[str, list[tuple[Run, Run]]] = defaultdict(list)
    found = []
    for old, new in pairs:
        settings[setting_of(old, SETTINGS)].append((old, new))
        if EXACT not in gone and not _same(old.get(EXACT), new.get(EXACT)):
            found.append(_exact(names.run(old), EXACT, old.get(EXACT), new.get(EXACT)))
    means = [
        _Mean.of(names.setting(group[0][0]), quantity, known)
        for quantity in MEANS
        if quantity not in gone
        for group in settings.values()
        # What a method does not have is no number in its accepted runs.
        if (known := [pair for pair in group if not math.isnan(_number(pair[0].get(quantity)))])
    ]
    confidence = 1 - FALSE_ALARMS / max(1, len(means))
    pooled = _pooled(means)
    judged = [mean.judged(pooled[mean.task, mean.quantity], confidence) for mean in means]
    return [*found, *(difference for difference in judged if difference is not None)]


@dataclass(frozen=True)
class _Mean:
    """One quantity of one setting, over the seeds of both sides."""

    setting: str
    task: str
    quantity: str
    n: int
    old: float
    new: float
    scale: float
    variance: float

    @classmethod
    def of(cls, setting: str, quantity: str, pairs: Sequence[tuple[Run, Run]]) -> _Mean:
        old = [_number(run.get(quantity)) for run, _ in pairs]
        new = [_number(run.get(quantity)) for _, run in pairs]
        scale = abs(fmean(old)) if quantity in RELATIVE else 1.0
        spread = variance([value / scale for value in old]) if scale and len(old) > 1 else 0.0
        task = pairs[0][0].get("task", "")
        return cls(setting, task, quantity, len(old), fmean(old), fmean(new), scale, spread)

    def judged(self, pooled: tuple[float, int], confidence: float) -> Difference | None:
        """The change of the mean, where it is more than chance allows."""
        mean_variance, freedom = pooled
        deviation = math.sqrt(max(self.variance, mean_variance))
        allowed = UNKNOWN_SPREAD_TOLERANCE
        if deviation > 0:
            allowed = float(stdtrit(freedom, confidence)) * deviation * math.sqrt(2 / self.n)
        tolerance = allowed * self.scale
        change = self.new - self.old
        kind = _kind(self.quantity, self.old, self.new, tolerance)
        if kind is Kind.DIFFERENT:
            return None
        return Difference(
            self.setting,
            self.quantity,
            self.old,
            self.new,
            kind,
            kind is Kind.WORSE,
            change,
            tolerance,
            abs(change) / tolerance if math.isfinite(change) and tolerance else math.inf,
        )


def _pooled(means: Iterable[_Mean]) -> dict[tuple[str, str], tuple[float, int]]:
    """Pooled variance of each task's settings by quantity, and its degrees of freedom."""
    squares: dict[tuple[str, str], float] = defaultdict(float)
    freedom: dict[tuple[str, str], int] = defaultdict(int)
    for mean in means:
        squares[mean.task, mean.quantity] += mean.variance * (mean.n - 1)
        freedom[mean.task, mean.quantity] += mean.n - 1
    return {key: (squares[key] / max(1, free), free) for key, free in freedom.items()}
