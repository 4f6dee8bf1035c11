"""First stage: a suite's data set as one file of tensors, ``python -m stages.download SUITE``."""

from __future__ import annotations

from collections.abc import Sequence

from ecqx.data import digits
from stages import paths, settings
from stages.command import run_command_line, suite_of


def main(arguments: Sequence[str]) -> int:
    """Write data/SUITE.safetensors."""
    suite = suite_of(arguments)
    wanted = settings.load(suite).data
    digits(wanted.seed, wanted.limit).save(paths.data(suite))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
