"""Prints the path of a suite's pipeline, for DVC."""

from __future__ import annotations

import click

from stages import suites
from stages.command import command, run_command_line, suite_argument


@command
@suite_argument
def main(suite: str) -> None:
    """Print the path."""
    click.echo(suites.pipeline_path(suite))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
