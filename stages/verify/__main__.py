"""``python -m stages.verify [SUITE] [PART…]``: all parts where none is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ecqx.errors import InputError
from stages import suites
from stages.command import run_command_line
from stages.verify.concurrency import concurrency
from stages.verify.determinism import determinism
from stages.verify.document import DOCUMENT, Section, record
from stages.verify.fuzzing import fuzzing
from stages.verify.kills import kills
from stages.verify.overview import overview
from stages.verify.regressions import regressions, silence

# What is tried on every machine is the small suite; determinism is a property of the suite chosen.
SMALL = "smoke"
PARTS: dict[str, Callable[[Path, str], Section]] = {
    check.__name__: check
    for check in (fuzzing, regressions, silence, kills, concurrency, determinism)
}


def main(arguments: Sequence[str]) -> int:
    """Run the parts; 1 if one of them failed."""
    parts = [word for word in arguments if word in PARTS]
    named = [word for word in arguments if word not in PARTS]
    if len(named) > 1:
        raise InputError(f"usage: python -m stages.verify [SUITE] [PART…], of {', '.join(PARTS)}")
    root = Path().resolve()
    for name in named:
        suites.check_known(name)
    default = suites.default()
    passed = True
    for name in parts or PARTS:
        usual = default if name == "determinism" else SMALL
        section = PARTS[name](root, *named or [usual])
        record(root / DOCUMENT, section)
        verdict = "FAILED" if section.passed is False else "passed"
        print(f"\n{section.title}\n\n{section.text}\n\n{verdict}", flush=True)
        passed = passed and section.passed is not False
    table = overview((root / DOCUMENT).read_text(encoding="utf-8"))
    record(root / DOCUMENT, table, first=True)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(run_command_line(main))
