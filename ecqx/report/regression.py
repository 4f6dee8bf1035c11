"""The regression gate: are these runs worse than those that were accepted?

Every difference is worse, better or different; `Difference.counts` says whether the check fails
because of it. On the machine and packages of the accepted runs every difference counts.

Elsewhere the last digits differ, and training amplifies them. There the means over seeds are
compared, per setting, and only worse ones count: a mean of ``accuracy`` or ``sparsity`` that is
lower, or of ``bytes`` or ``bytes_other`` that is larger, by more than a tolerance

    t · s · √(1/n + 1/n)

- n: seeds of the setting that both sides have.
- s: standard deviation (n − 1) over the seeds, of the accepted runs of this setting or pooled over
  those of its task on both sides, whichever is larger: three seeds that happen to agree do not
  make a tolerance of zero. The more accuracy settings have lost the more they scatter: those that
  lose at most 2 points, at most 10, and more are pooled apart, new ones only where they lose as
  much as the accepted ones. Bytes are relative to their mean.
- t: one-sided quantile of Student's distribution at 1 − 0.01/m, with 2 (n − 1) degrees of freedom;
  m is the number of pooled deviations. The settings of a task share the network of each seed and
  move together: more of them are neither more degrees of freedom nor more comparisons.

If the new runs are as good, about one check in a hundred raises a false alarm, and one in twenty
with three seeds of networks of which some collapse by chance.

Where no spread is known (single seeds, or seeds that all agree) the tolerance is two percentage
points of accuracy or sparsity and 2 % of the bytes. Bytes outside the coded integers are compared
so only where floats are coded with loss, to a length that depends on their values; else they must
be equal everywhere, as must what training and network are: steps, parameters and the size in 32
bit, which is the compression ratio times the bytes. Features of sound differ between processors in
the last digits, so another checksum of a task's data is shown and does not count. A missing run is
worse on any machine; a new one is different.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, variance
from typing import Any

from scipy import stats

from ecqx.errors import InputError
from ecqx.report.records import CONFIGURATION
from ecqx.report.rules import COLLAPSE, LOSSES
from ecqx.report.statistics import grouped

Run = Mapping[str, Any]
Pair = tuple[Run, Run]

ALWAYS_NAMED = ("task", "method", "bits", "lam")
# What the runs of a setting share; they differ in the seed only.
SETTINGS = (
    *(*ALWAYS_NAMED, "sweep", "variant", "p", *CONFIGURATION, "settings"),
    *("lr", "batch_size", "epochs", "dataset", "model", "metric"),
)
# Runs on another data set, or from another start, cannot be compared.
SOURCE = ("dataset", "start")
# The quantities that have a good direction: up, or down.
GOOD = {
    **dict.fromkeys(("accuracy", "accuracy_validation", "sparsity", "compression_ratio"), 1),
    **dict.fromkeys(("bytes", "bytes_integers", "bytes_other"), -1),
}
# Quantities whose means are compared; the last one only where floats are coded with loss.
MEANS = ("accuracy", "sparsity", "bytes", "bytes_other")
# Quantities that are equal on all machines, beside the bytes outside the coded integers.
EQUAL = ("parameters", "epochs", "steps")
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
    """One difference from the accepted results.

    ``setting`` is in words, with the seed where it is about one run; ``quantity`` is the key that
    differs, or "run" for a run that only one side has. ``old`` and ``new`` are means where several
    seeds were compared; ``difference`` and ``tolerance`` are None where they are no numbers. The
    check fails because of it if it ``counts``; ``severity`` orders the differences of a kind.
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


def setting_of(run: Run, keys: Iterable[str]) -> str:
    """The values of these keys, such as those that identify a run's setting."""
    return json.dumps([run.get(key) for key in keys], sort_keys=True)


class Names:
    """Settings in words: task, method, bits, Λ and the fewest other keys that distinguish them.

    ``keys`` are those that the runs of a setting share.
    """

    def __init__(self, runs: Sequence[Run], keys: Sequence[str]) -> None:
        groups = grouped(runs, lambda run: setting_of(run, ALWAYS_NAMED))
        self._apart = {base: _telling_keys(group, keys) for base, group in groups.items()}

    def setting(self, run: Run) -> str:
        """The setting of a run."""
        task, method, bits, lam = (run.get(key) for key in ALWAYS_NAMED)
        words = [f"{task} {method}"]
        # Not every method has a bit width, or a Λ.
        words += [f"{bits} bit"] if bits is not None else []
        words += [f"Λ {lam}"] if lam is not None else []
        apart = self._apart[setting_of(run, ALWAYS_NAMED)]
        words += [f"{key} {run[key]}" for key in apart if run.get(key) is not None]
        return " ".join(words)

    def run(self, run: Run) -> str:
        """One run of a setting."""
        return f"{self.setting(run)} seed {run.get('seed')}"


def _telling_keys(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Keys that tell the settings of the runs apart, each only if those before it do not."""
    chosen: list[str] = []
    for key in keys:
        before, after = (
            len({setting_of(run, known) for run in runs}) for known in (chosen, [*chosen, key])
        )
        if after > before:
            chosen.append(key)
    return chosen


def compare(
    old_runs: Iterable[Run], new_runs: Iterable[Run], same_machine: bool
) -> list[Difference]:
    """Differences of the present runs from the accepted ones, `in_order`.

    Runs, entries of ``metrics.json``, are matched by ``run_id``. Keys that only the present runs
    have are no difference of any run: see `keys_apart`. A key that only the accepted runs have is
    one difference, not one of each run. On the ``same_machine``, with the same packages, every
    field is compared.

    Raises
    ------
    InputError
        If a run has no ``run_id``, or two runs have the same.
    """
    old, new = _by_id(old_runs), _by_id(new_runs)
    gone, _ = keys_apart(old.values(), new.values())
    old = {name: {k: v for k, v in run.items() if k not in gone} for name, run in old.items()}
    names = Names([*old.values(), *new.values()], SETTINGS)
    pairs = [(old[key], new[key]) for key in old if key in new]
    judge = _all_fields if same_machine else _means
    needed = gone if same_machine else [*MEANS, *EQUAL]
    vanished = [
        Difference("every run", key, "present", "missing", counts=key in needed) for key in gone
    ]
    return in_order(
        [
            *_unmatched(old, new, names, same_machine),
            *vanished,
            *(_not_judged(pair, names) for pair in pairs if not _comparable(pair)),
            *judge([pair for pair in pairs if _comparable(pair)], names),
        ]
    )


def in_order(differences: Iterable[Difference]) -> list[Difference]:
    """The differences by kind, and the worst of each kind first."""
    kinds = list(Kind)
    return sorted(
        differences, key=lambda d: (kinds.index(d.kind), -d.severity, d.setting, d.quantity)
    )


def keys_apart(old_runs: Iterable[Run], new_runs: Iterable[Run]) -> tuple[list[str], list[str]]:
    """Sorted keys of only the accepted, and of only the present runs; none if a side is empty."""
    old, new = ({key for run in runs for key in run} for runs in (old_runs, new_runs))
    return (sorted(old - new), sorted(new - old)) if old and new else ([], [])


def count_judged(old_runs: Iterable[Run], new_runs: Iterable[Run]) -> int:
    """Number of runs that both sides have, made with the same data set and start."""
    old, new = _by_id(old_runs), _by_id(new_runs)
    return sum(_comparable((old[key], new[key])) for key in old if key in new)


def _by_id(runs: Iterable[Run]) -> dict[str, Run]:
    for name, alike in (groups := grouped(runs, lambda run: run.get("run_id"))).items():
        if name is None:
            raise InputError("a run has no run_id")
        if len(alike) > 1:
            raise InputError(f"run {name} is there {len(alike)} times")
    return {str(name): run for name, (run,) in groups.items()}


def _comparable(pair: Pair) -> bool:
    old, new = pair
    return setting_of(old, SOURCE) == setting_of(new, SOURCE)


def _unmatched(
    old: Mapping[str, Run], new: Mapping[str, Run], names: Names, same_machine: bool
) -> Iterator[Difference]:
    """Runs that only one side has; not judged if the task has no source that both sides have."""
    sources = [
        {(run.get("task"), setting_of(run, SOURCE)) for run in runs.values()} for runs in (old, new)
    ]
    tasks = [{task for task, _ in side} for side in sources]
    elsewhere = tasks[0] & tasks[1] - {task for task, _ in sources[0] & sources[1]}
    for runs, others, states, kind in (
        (old, new, ("present", "missing"), Kind.WORSE),
        (new, old, ("missing", "present"), Kind.DIFFERENT),
    ):
        for run in (run for key, run in runs.items() if key not in others):
            if run.get("task") in elsewhere:
                yield Difference(names.run(run), "run", *states, Kind.NOT_JUDGED, counts=False)
            else:
                counts = same_machine or kind is Kind.WORSE
                yield Difference(names.run(run), "run", *states, kind, counts)


def _not_judged(pair: Pair, names: Names) -> Difference:
    old, new = pair
    key = next(key for key in SOURCE if old.get(key) != new.get(key))
    name = names.run(old)
    return Difference(name, key, old.get(key), new.get(key), Kind.NOT_JUDGED, counts=False)


def _all_fields(pairs: Sequence[Pair], names: Names) -> Iterator[Difference]:
    """Every field of the accepted runs that differs."""
    known = sorted({key for old, _ in pairs for key in old})
    return (found for pair in pairs for key in known for found in _exact(pair, key, names))


def _exact(pair: Pair, quantity: str, names: Names) -> Iterator[Difference]:
    """The difference of a field, if there is one."""
    old, new = (run.get(quantity) for run in pair)
    if old == new or (old != old and new != new):
        return
    was, now = _number(old), _number(new)
    kind, change = _kind(quantity, was, now), now - was
    if math.isnan(change):
        yield Difference(names.run(pair[0]), quantity, old, new, kind)
    else:
        severity = abs(change) / max(abs(was), abs(now))
        yield Difference(names.run(pair[0]), quantity, old, new, kind, True, change, 0.0, severity)


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


def _means(pairs: Sequence[Pair], names: Names) -> Iterator[Difference]:
    """Settings whose mean changed by more than the tolerance, and what has to be equal."""
    yield from _other_data(pairs)
    for pair in pairs:
        lossy = _has_lossy_floats(pair)
        for quantity in EQUAL if lossy else (*EQUAL, "bytes_other"):
            yield from _exact(pair, quantity, names)
        if len({round(_bytes_fp32(run)) for run in pair}) > 1:
            yield from _exact(pair, "compression_ratio", names)
    settings = grouped(pairs, lambda pair: setting_of(pair[0], SETTINGS)).values()
    means = [
        _Mean(names.setting(known[0][0]), str(known[0][0].get("task")), quantity, known)
        for quantity in MEANS
        for own in settings
        if quantity != "bytes_other" or _has_lossy_floats(own[0])
        # What does not apply to a method is no number in its accepted runs.
        if (known := [pair for pair in own if not math.isnan(_number(pair[0].get(quantity)))])
    ]
    pools = grouped(means, lambda mean: (mean.task, mean.quantity, mean.lost[0])).values()
    for alike in pools:
        pooled = _pooled_variance(alike)
        freedom = 2 * max(mean.freedom for mean in alike)
        quantile = float(stats.t.ppf(1 - FALSE_ALARMS / len(pools), freedom))
        for mean in alike:
            yield from mean.judged(pooled, quantile)


def _pooled_variance(alike: Sequence[_Mean]) -> float:
    """Of the accepted runs, and of the new ones that have lost as much accuracy."""
    known = [
        (own, mean.freedom)
        for mean in alike
        for own, lost in zip(mean.variances, mean.lost, strict=True)
        if lost == mean.lost[0] and not math.isnan(own)
    ]
    weights = sum(freedom for _, freedom in known)
    return sum(own * freedom for own, freedom in known) / max(1, weights)


def _other_data(pairs: Sequence[Pair]) -> Iterator[Difference]:
    """Tasks whose data have another checksum; their runs are judged all the same."""
    key = "data_checksum"
    for task, was, now in dict.fromkeys((o.get("task"), o.get(key), n.get(key)) for o, n in pairs):
        if was != now:
            yield Difference(str(task), key, was, now, counts=False)


def _bytes_fp32(run: Run) -> float:
    """Size of the model in 32 bit; 0 where it is not recorded."""
    size = _number(run.get("compression_ratio")) * _number(run.get("bytes"))
    return 0.0 if math.isnan(size) else size


def _loss(run: Run) -> float:
    return _number(run.get("accuracy_fp32")) - _number(run.get("accuracy"))


def _has_lossy_floats(pair: Pair) -> bool:
    return pair[0].get("floats") == "published"


class _Mean:
    """One quantity of one setting, over the seeds of both sides.

    ``scale`` is the unit of tolerances. ``variances``, over seeds and in this unit, and ``lost``,
    how many of the limits of 2 and 10 points the mean loss exceeds, are of both sides.
    """

    def __init__(self, setting: str, task: str, quantity: str, pairs: Sequence[Pair]) -> None:
        self.setting, self.task, self.quantity, self.pairs = setting, task, quantity, pairs
        self.freedom = len(pairs) - 1
        sides = list(zip(*pairs, strict=True))
        values = [[_number(run.get(quantity)) for run in side] for side in sides]
        self.old, self.new = map(fmean, values)
        self.scale = abs(self.old) if quantity.startswith("bytes") else 1.0
        known = self.scale and self.freedom
        self.variances = [variance(v / self.scale for v in own) if known else 0.0 for own in values]
        losses = [fmean(map(_loss, side)) for side in sides]
        self.lost = [sum(loss > limit for limit in (max(LOSSES), COLLAPSE)) for loss in losses]

    def judged(self, pooled: float, quantile: float) -> Iterator[Difference]:
        """The change of the mean, if it is more than chance allows."""
        deviation = math.sqrt(max(self.variances[0], pooled))
        allowed = UNKNOWN_SPREAD_TOLERANCE
        if deviation > 0:
            allowed = quantile * deviation * math.sqrt(2 / len(self.pairs))
        tolerance = allowed * self.scale
        kind = _kind(self.quantity, self.old, self.new, tolerance)
        if kind is not Kind.DIFFERENT:
            change, counts = self.new - self.old, kind is Kind.WORSE
            known = math.isfinite(change) and tolerance
            severity = abs(change) / tolerance if known else math.inf
            found = (self.setting, self.quantity, self.old, self.new, kind, counts)
            yield Difference(*found, change, tolerance, severity)
