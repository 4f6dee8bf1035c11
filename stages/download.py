"""Second stage: a suite's data sets and starting weights.

What a user has in the folders of ``data.root``, or in that of ECQX_DATA, is used where it lies; the
rest is downloaded and checked. Writes data/SUITE/NAME.safetensors and
data/SUITE/starts/TASK.safetensors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ecqx.coding.checkpoint import read_state
from ecqx.coding.coded_state import write_coded_state
from ecqx.errors import InputError
from ecqx.experiment.jobs import processes
from stages import paths
from stages.command import command, run_command_line, suite_argument
from stages.settings.base import load
from stages.settings.data import DataSet, DownloadSettings
from stages.settings.tasks import Start, TaskSettings

VARIABLE = "ECQX_DATA"
IMAGENET = "imagenet"


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


def data_roots(named: Sequence[str]) -> list[Path]:
    """The folders that are searched; ``InputError`` if ECQX_DATA names none."""
    if folder := os.environ.get(VARIABLE):
        if not Path(folder).is_dir():
            raise InputError(f"{VARIABLE}: {folder} is no folder with data sets")
        return [Path(folder)]
    return [Path(root).expanduser() for root in named]


def choose(candidates: Sequence[DataSet], roots: Sequence[Path]) -> tuple[DataSet, Path]:
    """The first available data set and its folder; else the last, and the folder for downloads."""
    places = ((candidate, root) for candidate in candidates for root in roots)
    available = (place for place in places if place[0].available(place[1]))
    return next(available, (candidates[-1], roots[0]))


def find_checkpoint(start: Start, roots: Sequence[Path]) -> Path | None:
    """The file of a task's start; ``InputError`` if it is required and not there."""
    for root in roots:
        for folder in (root, root / "models", root.parent / "models"):
            if (path := folder / start.checkpoint).is_file():
                return path
    if start.required:
        where = " or ".join(map(str, roots))
        raise InputError(
            f"{start.checkpoint}: not in {where}, nor in models/ there or beside it; put it there, "
            f"or let data.root or {VARIABLE} name the folder that has it"
        )
    return None


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
