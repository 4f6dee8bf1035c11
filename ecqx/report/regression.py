"""The regression gate: are these runs worse than those that were accepted?

On the machine and packages of the accepted runs, any difference counts. Elsewhere the last digits
differ, and training amplifies them; there the means over seeds are compared, per setting, and
``accuracy`` or ``sparsity`` lower, or ``bytes`` larger, than a tolerance counts:

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
everywhere.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from scipy.special import stdtrit

from ecqx.errors import InputError

Run = Mapping[str, Any]

# What a run's quantizer and relevance were told, beside bits, Λ and p.
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
SETTINGS = (
    *("task", "sweep", "variant", "dataset", "model", "method", "bits", "lam", "p"),
    *CONFIGURATION,
    *("epochs", "metric"),
)
# Runs on other data, or from another start, say nothing about each other.
SOURCE = ("dataset", "data_checksum", "start")
LARGER_IS_WORSE = {"accuracy": False, "sparsity": False, "bytes": True}
RELATIVE = ("bytes",)
EXACT = "bytes_other"
FALSE_ALARMS = 0.01
UNKNOWN_SPREAD_TOLERANCE = 0.02
_NAMES = ("task", "method", "bits", "lam")


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
    difference, tolerance : float or None
        New minus old and what is allowed; None where the value is no number.
    worse : bool
        False where it is only told: runs that cannot be judged.
    severity : float
        The larger, the worse.
    """

    setting: str
    quantity: str
    old: Any
    new: Any
    difference: float | None = None
    tolerance: float | None = None
    worse: bool = True
    severity: float = math.inf


def compare(
    old_runs: Iterable[Run], new_runs: Iterable[Run], same_machine: bool
) -> list[Difference]:
    """Compare present runs with accepted ones.

    Parameters
    ----------
    old_runs, new_runs : iterable of mapping
        Accepted and present entries of ``metrics.json``, matched by ``run_id``.
    same_machine : bool
        Whether machine and packages are those of the accepted runs.

    Returns
    -------
    list of Difference
        Worst first; those that are only told come last. Empty if there is nothing to say.

    Raises
    ------
    InputError
        If a run has no ``run_id``, or two runs have the same.
    """
    old, new = _by_id(old_runs), _by_id(new_runs)
    names = _Names([*old.values(), *new.values()])
    found = _unmatched(old, new, names)
    pairs = [(old[key], new[key]) for key in old if key in new]
    found += [_not_judged(*pair, names) for pair in pairs if not _comparable(*pair)]
    judged = [pair for pair in pairs if _comparable(*pair)]
    found += _all_fields(judged, names) if same_machine else _means(judged, names)
    return sorted(found, key=lambda d: (not d.worse, -d.severity, d.setting, d.quantity))


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


class _Names:
    """Settings in words: what always names them, and what else tells them apart."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._values: dict[tuple[Any, ...], dict[str, set[str]]] = {}
        for run in runs:
            values = self._values.setdefault(self._base(run), defaultdict(set))
            for key in SETTINGS:
                values[key].add(str(run.get(key)))

    @staticmethod
    def _base(run: Run) -> tuple[Any, ...]:
        return tuple(run.get(key) for key in _NAMES)

    def setting(self, run: Run) -> str:
        """The setting of a run."""
        base = self._base(run)
        apart = [key for key, values in self._values[base].items() if len(values) > 1]
        task, method, bits, lam = base
        words = [f"{task} {method}"]
        # Not every method has a bit width, or a Λ.
        words += [f"{bits} bit"] if bits is not None else []
        words += [f"Λ {lam}"] if lam is not None else []
        return " ".join([*words, *(f"{key} {run.get(key)}" for key in apart)])

    def run(self, run: Run) -> str:
        """A run of its setting."""
        return f"{self.setting(run)} seed {run.get('seed')}"


def _source(run: Run) -> tuple[Any, ...]:
    return tuple(run.get(key) for key in SOURCE)


def _comparable(old: Run, new: Run) -> bool:
    return _source(old) == _source(new)


def _unmatched(old: Mapping[str, Run], new: Mapping[str, Run], names: _Names) -> list[Difference]:
    """Runs that only one side has; only told where their task has another source on each side."""
    there, here = _sources(old.values()), _sources(new.values())
    elsewhere = {task for task in {*there} & {*here} if there[task].isdisjoint(here[task])}
    return [
        Difference(names.run(run), "run", *words, worse=run.get("task") not in elsewhere)
        for runs, others, words in (
            (old, new, ("present", "missing")),
            (new, old, ("missing", "present")),
        )
        for key, run in runs.items()
        if key not in others
    ]


def _sources(runs: Iterable[Run]) -> dict[Any, set[tuple[Any, ...]]]:
    """What each task's runs were measured on."""
    sources: dict[Any, set[tuple[Any, ...]]] = defaultdict(set)
    for run in runs:
        sources[run.get("task")].add(_source(run))
    return sources


def _not_judged(old: Run, new: Run, names: _Names) -> Difference:
    key = next(key for key in SOURCE if old.get(key) != new.get(key))
    return Difference(names.run(old), key, old.get(key), new.get(key), worse=False)


def _all_fields(pairs: Iterable[tuple[Run, Run]], names: _Names) -> list[Difference]:
    """Every field that is not the same."""
    return [
        _exact(names.run(old), key, old.get(key), new.get(key))
        for old, new in pairs
        for key in sorted({*old, *new})
        if not _same(old.get(key), new.get(key))
    ]


def _same(old: Any, new: Any) -> bool:
    return bool(old == new or (old != old and new != new))


def _exact(label: str, quantity: str, old: Any, new: Any) -> Difference:
    difference = _number(new) - _number(old)
    if math.isnan(difference):
        return Difference(label, quantity, old, new)
    severity = abs(difference) / max(abs(old), abs(new))
    return Difference(label, quantity, old, new, difference, 0.0, severity=severity)


def _number(value: Any) -> float:
    """The value where it is a finite number, NaN otherwise."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else math.nan


def _means(pairs: Iterable[tuple[Run, Run]], names: _Names) -> list[Difference]:
    """Settings whose mean is worse than the tolerance, and bytes that have to be equal."""
    settings: dict[str, list[tuple[Run, Run]]] = {}
    found = []
    for old, new in pairs:
        settings.setdefault(names.setting(old), []).append((old, new))
        if not _same(old.get(EXACT), new.get(EXACT)):
            found.append(_exact(names.run(old), EXACT, old.get(EXACT), new.get(EXACT)))
    confidence = 1 - FALSE_ALARMS / max(1, len(LARGER_IS_WORSE) * len(settings))
    for quantity in LARGER_IS_WORSE:
        means = [_Mean.of(label, quantity, pairs) for label, pairs in settings.items()]
        pooled = _pooled(means)
        found += [mean.judged(pooled[mean.task], confidence) for mean in means]
    return [difference for difference in found if difference.worse]


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

    def judged(self, pooled: tuple[float, int], confidence: float) -> Difference:
        """The change of the mean against what chance allows."""
        mean_variance, freedom = pooled
        deviation = math.sqrt(max(self.variance, mean_variance))
        allowed = UNKNOWN_SPREAD_TOLERANCE
        if deviation > 0:
            allowed = float(stdtrit(freedom, confidence)) * deviation * math.sqrt(2 / self.n)
        tolerance = allowed * self.scale
        change = self.new - self.old
        loss = change if LARGER_IS_WORSE[self.quantity] else -change
        return Difference(
            self.setting,
            self.quantity,
            self.old,
            self.new,
            change,
            tolerance,
            # A value that is no number compares as false: it must not pass for that.
            worse=not loss <= tolerance,
            severity=abs(change) / tolerance if math.isfinite(change) and tolerance else math.inf,
        )


def _pooled(means: Iterable[_Mean]) -> dict[str, tuple[float, int]]:
    """Pooled variance of each task's settings, and its degrees of freedom."""
    squares: dict[str, float] = defaultdict(float)
    freedom: dict[str, int] = defaultdict(int)
    for mean in means:
        squares[mean.task] += mean.variance * (mean.n - 1)
        freedom[mean.task] += mean.n - 1
    return {task: (squares[task] / max(1, free), free) for task, free in freedom.items()}
