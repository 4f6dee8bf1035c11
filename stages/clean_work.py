"""Removes results of trainings that no suite's last run used: ``python -m stages.clean_work``."""

from __future__ import annotations

from ecqx.experiment.jobs import remove_unused
from stages.command import command, run_command_line


@command
def main() -> int:
    """Remove them from work/."""
    removed = remove_unused()
    print(f"Removed {len(removed)} results from work/ that no suite uses any more.")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
