"""Accepts the present results as the suite's baseline: ``python -m stages.baseline [SUITE]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ecqx.errors import InputError
from ecqx.files import write_text
from ecqx.report.regression import Run
from stages.check import Part, parts_of, read_baseline, read_runs
from stages.command import run_command_line
from stages.provenance import changes, machine, packages
from stages.suite import selected


def main(arguments: Sequence[str]) -> int:
    """Write results/SUITE/baseline.json and, where there is one, that of the comparison."""
    if len(arguments) > 1:
        raise InputError("usage: python -m stages.baseline [SUITE]")
    root = Path()
    print(accept(root, selected(root, *arguments)))
    return 0


def accept(root: Path, suite: str) -> str:
    """Write the baselines of a suite; what was done, in one line for each.

    Results that are the baseline's already and were not made here (a fresh clone's) are left alone:
    this machine did not measure them.

    Raises
    ------
    InputError
        If code or settings differ from the last commit, or there are no results.
    """
    changed = changes(root)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise InputError(
            f"code or settings differ from the last commit ({changed[0]}{more}): commit them, run "
            f"`make paper-results SUITE={suite}`, then `make baseline SUITE={suite}`"
        )
    return "\n".join(_accept(root, part) for part in parts_of(root, suite))


def _accept(root: Path, part: Part) -> str:
    runs = read_runs(root, part)
    path = root / part.baseline
    made_here = (path.parent / "provenance.json").exists()
    if not made_here and _are_accepted(root, part, runs):
        return f"{path}: these {len(runs)} runs are the baseline already"
    content = {"machine": machine(), "packages": packages(), "runs": runs}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return f"{path}: {len(runs)} runs accepted as the baseline of suite {part.name}; commit it"


def _are_accepted(root: Path, part: Part, runs: Sequence[Run]) -> bool:
    # A broken baseline is no reason not to write a new one.
    with suppress(InputError):
        accepted = read_baseline(root, part)
        return accepted is not None and accepted["runs"] == runs
    return False


if __name__ == "__main__":
    sys.exit(run_command_line(main))
