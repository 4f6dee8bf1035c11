"""Where a user's own data lies: the folders of ``data.root``, or the one of ECQX_DATA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ecqx.errors import InputError
from stages.settings.data import DataSet
from stages.settings.tasks import Start

VARIABLE = "ECQX_DATA"
IMAGENET = "imagenet"


def data_roots(named: Sequence[str]) -> list[Path]:
    """The folders that are searched, from those of ``data.root``; downloads go to the first.

    Raises
    ------
    InputError
        If ECQX_DATA names no folder.
    """
    if folder := os.environ.get(VARIABLE):
        if not Path(folder).is_dir():
            raise InputError(f"{VARIABLE}: {folder} is no folder with data sets")
        return [Path(folder)]
    return [Path(root).expanduser() for root in named]


def choose(candidates: Sequence[DataSet], roots: Sequence[Path]) -> tuple[DataSet, Path]:
    """The first available data set and its folder; else the last, and the folder for downloads."""
    for candidate in candidates:
        for root in roots:
            if candidate.available(root):
                return candidate, root
    return candidates[-1], roots[0]


def find_checkpoint(start: Start, roots: Sequence[Path]) -> Path | None:
    """The file of a task's start; None if there is none and none is required.

    Raises
    ------
    InputError
        If it is required and not there.
    """
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
