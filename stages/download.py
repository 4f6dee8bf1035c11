"""Second stage: a suite's data sets and starting weights.

What a user has is used where it lies; the rest is downloaded and checked. Writes
data/SUITE/NAME.safetensors and data/SUITE/starts/TASK.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ecqx.coding.checkpoint import read_state
from ecqx.coding.coded_state import write_coded_state
from ecqx.experiment.jobs import processes
from stages import paths
from stages.command import command, run_command_line, suite_argument
from stages.roots import IMAGENET, choose, data_roots, find_checkpoint
from stages.settings.base import load
from stages.settings.data import DownloadSettings
from stages.settings.tasks import TaskSettings


@command
@suite_argument
def main(suite: str) -> None:
    """Write the data sets and the starting weights."""
    settings = load(suite, DownloadSettings)
    roots = data_roots(settings.data.root)
    # Data sets take minutes to read; a missing checkpoint is reported before that.
    starts = {name: _starting_weights(name, task, roots) for name, task in settings.tasks.items()}
    for name, candidates in settings.data.sets.items():
        chosen, root = choose(candidates, roots)
        data = chosen.build(root, processes())
        print(f"{name}: {data.label}", file=sys.stderr)
        data.save(paths.data(suite, name))
    for name, state in starts.items():
        path = paths.start(suite, name)
        if state is None:
            path.unlink(missing_ok=True)
        else:
            write_coded_state(path, state, {})


def _starting_weights(
    name: str, task: TaskSettings, roots: Sequence[Path]
) -> dict[str, Tensor] | None:
    """The state_dict that a task's pre-training starts from; None for random weights."""
    if task.start is None:
        return None
    if task.start.checkpoint == IMAGENET:
        # torchvision takes seconds to import, which suites without it need not wait for.
        from ecqx.models.weights import imagenet_weights

        return imagenet_weights(task.model["name"], roots[0])
    path = find_checkpoint(task.start, roots)
    if path is None:
        print(f"{name}: no {task.start.checkpoint}, starts at random", file=sys.stderr)
        return None
    return read_state(path)


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
