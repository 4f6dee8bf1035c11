"""Accepts the present results of a suite as its baseline: results/SUITE/baseline.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import derived, paths
from stages.check import read_baseline, read_runs
from stages.command import command, run_command_line, suite_argument
from stages.provenance import changes, machine, packages
from stages.status import stale_results


@command
@suite_argument
def main(suite: str) -> None:
    """Write results/SUITE/baseline.json."""
    for stage, reason in stale_results(suite):
        raise InputError(
            f"results of suite {suite} are not those of this code ({stage}: {reason}): run "
            f"`make paper-results SUITE={suite}`, then `make baseline SUITE={suite}`"
        )
    click.echo(accept(Path(), suite))


def accept(root: Path, suite: str) -> str:
    """Write the baseline of a suite and return what was done, in one line.

    Runs that are accepted already and were not made on this machine, as in a fresh clone, keep
    their machine and packages. ``InputError`` if code or settings differ from the last commit, or
    there are no results.
    """
    changed = changes(root)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InputError(
            f"code or settings differ from the last commit ({changed[0]}{more}): commit them, run "
            f"`make paper-results SUITE={suite}`, then `make baseline SUITE={suite}`"
        )
    results = root / paths.results(suite)
    content = {
        "files": derived.checksums(results),
        "verdicts": derived.verdicts(results),
        "runs": read_runs(root, suite),
    }
    path = results / "baseline.json"
    runs = len(content["runs"])
    accepted = _accepted(root, suite)
    made_here = (results / "provenance.json").exists()
    if not made_here and accepted.get("runs") == content["runs"]:
        content = {**accepted, **content}
    else:
        content = {"machine": machine(), "packages": packages(), **content}
    if content == accepted:
        return f"{path}: these {runs} runs are the baseline already"
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return f"{path}: {runs} runs accepted as the baseline of suite {suite}; commit it"


def _accepted(root: Path, suite: str) -> Mapping[str, Any]:
    # A broken baseline is no reason not to write a new one.
    with suppress(InputError):
        return read_baseline(root, suite) or {}
    return {}


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
