"""Removes the saved results of trainings that no suite's last run used, from work/."""

from __future__ import annotations

import click

from ecqx.experiment.jobs import remove_unused
from stages.command import command, run_command_line


@command
def main() -> None:
    """Remove them."""
    removed = remove_unused()
    click.echo(f"Removed {len(removed)} results from work/ that no suite uses any more.")


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
