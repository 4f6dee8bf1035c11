"""Tables, figure, verdict and page of the comparison: ``python -m stages.verdict SUITE``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from ecqx.files import write_text
from ecqx.progress import sign
from ecqx.report import comparison
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.report import origin_of

NOTHING = "This suite compares nothing: its section `comparison` in params.yaml is empty.\n"


@sign("drawing the comparison")
def main(arguments: Sequence[str]) -> int:
    """Write results/SUITE/comparison."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    out = paths.comparison(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if wanted.comparison is None:
        # A folder without a file would be none in git.
        write_text(out / "verdict.md", NOTHING)
        return 0
    text = paths.compared_metrics(suite).read_text()
    runs = json.loads(text)
    comparison.build(
        runs,
        out,
        suite,
        {name: task.title for name, task in wanted.tasks.items()},
        wanted.comparison.rules(),
        origin_of(wanted, runs),
    )
    write_text(out / "metrics.json", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
