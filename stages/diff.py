"""What changed in a suite's results against committed ones, in one table.

Verdicts that changed; per setting the means over seeds of accuracy, sparsity, bytes and compression
ratio that changed, and settings that only one side has; then what else did in metrics.json.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from tabulate import tabulate

from ecqx.errors import InputError
from ecqx.report.naming import Names, setting_of
from ecqx.report.regression import SETTINGS, Run, keys_apart
from stages import derived, paths
from stages.check import read_runs
from stages.command import command, run_command_line, suite_argument
from stages.provenance import git

SHOWN_ROWS = 40
_HEADERS = ("setting", "quantity", "old", "new", "difference")
_ALIGNMENT = ("left", "left", "right", "right", "right")


@dataclass(frozen=True)
class _Quantity:
    """A key of the records, how it is called here, its unit and its digits."""

    key: str
    title: str
    unit: float
    digits: int

    def mean(self, runs: Sequence[Run]) -> float | None:
        """Mean over the runs that have a number there."""
        known = [run[self.key] for run in runs if run.get(self.key) is not None]
        return self.unit * fmean(known) if known else None

    def text(self, value: float | None) -> str:
        """A mean in words."""
        return "–" if value is None else f"{value:.{self.digits}f}"


_QUANTITIES = (
    _Quantity("accuracy", "accuracy (%)", 100, 2),
    _Quantity("sparsity", "sparsity (%)", 100, 2),
    _Quantity("bytes", "bytes", 1, 0),
    _Quantity("compression_ratio", "ratio", 1, 2),
)


@command
@suite_argument
@click.option("--rev", metavar="REV", default="HEAD", help="Compare with this git revision.")
def main(suite: str, rev: str) -> None:
    """Show what changed in the results of a suite."""
    click.echo(difference(Path(), suite, rev))


def difference(root: Path, suite: str, rev: str = "HEAD") -> str:
    """What changed in the results of a suite against those of a revision, to be shown.

    Raises
    ------
    InputError
        If there is no such revision, or one side has no results.
    """
    folder = paths.results(suite)
    metrics = _at(root, rev, folder / "metrics.json")
    if metrics is None:
        raise InputError(f"{rev} has no {folder / 'metrics.json'} to compare with")
    old, new = json.loads(metrics), read_runs(root, suite)
    claims = derived.read_verdicts(_at(root, rev, folder / derived.CLAIMS) or "")
    verdicts = derived.changed_verdicts(claims, derived.verdicts(root / folder), counts=False)
    rows = [*((d.setting, d.quantity, d.old, d.new, "") for d in verdicts), *_rows(old, new)]
    parts = [_table(rows), *_other_values(old, new)]
    return "\n".join(part for part in parts if part) or (
        f"{suite}: the results are those of {rev}."
    )


def _at(root: Path, rev: str, path: Path) -> str | None:
    """The contents of a file at a revision; None where it has no such file."""
    name = path.as_posix()
    # An option's name for a revision must not pass for an option.
    if not git(root, "ls-tree", "--name-only", "--end-of-options", rev, "--", name):
        return None
    return git(root, "show", f"{rev}:{name}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    more = len(rows) - SHOWN_ROWS
    # A setting stands once, beside the first of its rows.
    shown = [
        (setting if not at or rows[at - 1][0] != setting else "", *others)
        for at, (setting, *others) in enumerate(rows[:SHOWN_ROWS])
    ]
    table = tabulate(shown, _HEADERS, "simple", disable_numparse=True, colalign=_ALIGNMENT)
    return f"{table}\n… and {more} more" if more > 0 else table


def _rows(old: Sequence[Run], new: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """One row for each mean or number of runs that changed, ordered by task and method."""
    # Results of an earlier form lack some keys: settings are matched by those of both.
    apart = {key for keys in keys_apart(old, new) for key in keys}
    keys = [key for key in SETTINGS if key not in apart]
    names = Names([*old, *new], keys)
    settings: dict[str, tuple[list[Run], list[Run]]] = defaultdict(lambda: ([], []))
    for side, runs in enumerate((old, new)):
        for run in runs:
            settings[setting_of(run, keys)][side].append(run)
    for was, now in sorted(settings.values(), key=lambda sides: _order((sides[0] or sides[1])[0])):
        name = names.setting((now or was)[0])
        if len(was) != len(now):
            yield name, "runs", str(len(was) or "–"), str(len(now) or "–"), ""
        if was and now:
            yield from _changed_means(name, was, now)


def _order(run: Run) -> tuple[Any, ...]:
    numbers = [run.get(key) for key in ("bits", "lam")]
    return (
        str(run.get("task")),
        str(run.get("method")),
        *(-1.0 if number is None else number for number in numbers),
        setting_of(run, SETTINGS),
    )


def _changed_means(name: str, was: Sequence[Run], now: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    for quantity in _QUANTITIES:
        old, new = quantity.mean(was), quantity.mean(now)
        if old != new:
            change = "" if old is None or new is None else f"{new - old:+.3g}"
            yield name, quantity.title, quantity.text(old), quantity.text(new), change


def _other_values(old: Sequence[Run], new: Sequence[Run]) -> Iterator[str]:
    """What else changed: keys of the records, and values that the table has no means of."""
    for title, keys in zip(("no longer", "new"), keys_apart(old, new), strict=True):
        if keys:
            yield f"{title} in metrics.json: {', '.join(keys)}"
    present: dict[Any, Mapping[str, Any]] = {run.get("run_id"): run for run in new}
    shown = {quantity.key for quantity in _QUANTITIES}
    changed = Counter(
        key
        for run in old
        for key in {*run} & {*present.get(run.get("run_id"), ())} - shown
        if run[key] != present[run.get("run_id")][key]
    )
    if changed:
        counts = ", ".join(f"{key} in {count} runs" for key, count in sorted(changed.items()))
        yield f"also changed: {counts}"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
