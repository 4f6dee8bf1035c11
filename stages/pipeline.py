"""Prints the path of a suite's pipeline, for DVC: ``python -m stages.pipeline [SUITE]``."""

from __future__ import annotations

from collections.abc import Sequence

from stages import suites
from stages.command import run_command_line


def main(arguments: Sequence[str]) -> int:
    """Print the path, by default that of the default suite."""
    print(suites.pipeline_path(*arguments[:1] or [suites.default()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
