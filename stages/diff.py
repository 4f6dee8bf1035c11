"""What changed in a suite's results against committed ones, in one table.

Verdicts that changed; per setting the means over seeds of accuracy, sparsity, bytes and compression
ratio that changed, and settings that only one side has; then what else changed in metrics.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from ecqx.errors import InputError
from ecqx.report.formats import Column, to_terminal
from ecqx.report.regression import SETTINGS, Names, Run, keys_apart, setting_of
from ecqx.report.statistics import grouped
from stages import derived, paths
from stages.check import SHOWN_ROWS, read_runs
from stages.command import command, run_command_line, suite_argument
from stages.provenance import git

_HEADERS = ("setting", "quantity", "old", "new", "difference")
_ALIGNMENT = ("left", "left", "right", "right", "right")
# Keys of the records whose means are shown.
_QUANTITIES = (
    Column("accuracy", "accuracy (%)", "number", 2, 100),
    Column("sparsity", "sparsity (%)", "number", 2, 100),
    Column("bytes", "bytes", "number"),
    Column("compression_ratio", "ratio", "number", 2),
)


@command
@suite_argument
@click.option("--rev", metavar="REV", default="HEAD", help="Compare with this git revision.")
def main(suite: str, rev: str) -> None:
    """Show what changed in the results of a suite."""
    click.echo(difference(Path(), suite, rev))


def difference(root: Path, suite: str, rev: str = "HEAD") -> str:
    """What changed in the results of a suite against those of a revision, to be shown.

    ``InputError`` if there is no such revision, or one side has no results.
    """
    folder = paths.results(suite)
    metrics = _at(root, rev, folder / "metrics.json")
    if metrics is None:
        raise InputError(f"{rev} has no {folder / 'metrics.json'} to compare with")
    old, new = json.loads(metrics), read_runs(root, suite)
    claims = derived.read_verdicts(_at(root, rev, folder / derived.CLAIMS) or "")
    verdicts = derived.changed_verdicts(claims, derived.verdicts(root / folder), counts=False)
    rows = [*((d.setting, d.quantity, d.old, d.new, "") for d in verdicts), *_rows(old, new)]
    # A setting stands once, beside the first of its rows.
    shown = [
        (setting if i == 0 else "", *cells)
        for setting, group in groupby(rows, itemgetter(0))
        for i, (_, *cells) in enumerate(group)
    ]
    parts = [to_terminal(_HEADERS, shown, _ALIGNMENT, SHOWN_ROWS), *_other_values(old, new)]
    return "\n".join(filter(None, parts)) or f"{suite}: the results are those of {rev}."


def _at(root: Path, rev: str, path: Path) -> str | None:
    """The contents of a file at a revision; None where it has no such file."""
    name = path.as_posix()
    # An option's name for a revision must not pass for an option.
    if not git(root, "ls-tree", "--name-only", "--end-of-options", rev, "--", name):
        return None
    return git(root, "show", f"{rev}:{name}")


def _rows(old: Sequence[Run], new: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """One row for each mean or number of runs that changed, ordered by task and method."""
    # Results of an earlier version lack some keys: settings are matched by those of both.
    apart = {key for keys in keys_apart(old, new) for key in keys}
    keys = [key for key in SETTINGS if key not in apart]
    names = Names([*old, *new], keys)
    sides = [grouped(runs, lambda run: setting_of(run, keys)) for runs in (old, new)]
    settings = [(sides[0].get(key, []), sides[1].get(key, [])) for key in {**sides[0], **sides[1]}]
    for was, now in sorted(settings, key=lambda runs: _order((runs[0] or runs[1])[0])):
        name = names.setting((now or was)[0])
        if len(was) != len(now):
            yield name, "runs", str(len(was) or "–"), str(len(now) or "–"), ""
        if was and now:
            yield from _changed_means(name, was, now)


def _order(run: Run) -> tuple[Any, ...]:
    numbers = [-1.0 if run.get(key) is None else run[key] for key in ("bits", "lam")]
    return (str(run.get("task")), str(run.get("method")), *numbers, setting_of(run, SETTINGS))


def _changed_means(name: str, was: Sequence[Run], now: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    for quantity in _QUANTITIES:
        old, new = (_mean(runs, quantity.key) for runs in (was, now))
        if old != new:
            change = ""
            if old is not None and new is not None:
                change = f"{quantity.scale * (new - old):+.3g}"
            yield name, quantity.header, quantity.text(old), quantity.text(new), change


def _mean(runs: Sequence[Run], key: str) -> float | None:
    known = [run[key] for run in runs if run.get(key) is not None]
    return fmean(known) if known else None


def _other_values(old: Sequence[Run], new: Sequence[Run]) -> Iterator[str]:
    """What else changed: keys of the records, and values that the table has no means of."""
    for title, keys in zip(("no longer", "new"), keys_apart(old, new), strict=True):
        if keys:
            yield f"{title} in metrics.json: {', '.join(keys)}"
    present: dict[Any, Run] = {run.get("run_id"): run for run in new}
    shown = {quantity.key for quantity in _QUANTITIES}
    pairs = [(run, present.get(run.get("run_id"), {})) for run in old]
    changed = Counter(
        key for was, now in pairs for key in {*was} & {*now} - shown if was[key] != now[key]
    )
    if changed:
        counts = ", ".join(f"{key} in {count} runs" for key, count in sorted(changed.items()))
        yield f"also changed: {counts}"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
