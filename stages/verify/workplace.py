"""A folder in which stages run in this process: the settings, the code, a repository of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import yaml

from ecqx.errors import InputError
from stages.parallel import NO_PROGRESS, PROCESSES

STAGES = (
    *("download", "pretrain", "quantize", "encode", "evaluate", "report"),
    *("compare", "verdict"),
)


def prepare(folder: Path, root: Path, params: str) -> Path:
    """Make such a folder: a repository that holds ``params`` and links to the code of ``root``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ecqx", "stages", "constraints.txt", "dvc.yaml"):
        (folder / name).symlink_to(root / name)
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    (folder / ".gitignore").write_text((root / ".gitignore").read_text() + "/.dvc/\n")
    who = ["-c", "user.name=verify", "-c", "user.email=verify@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "-m", "-"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def outputs(place: Path, stage: str, suite: str) -> list[Path]:
    """What a stage writes, as dvc.yaml says; DVC removes it before it runs the stage."""
    pipeline = yaml.safe_load((place / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    listed = [*pipeline.get("outs", []), *pipeline.get("metrics", [])]
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]
    return [place / name.replace("${item.suite}", suite) for name in names]


@contextmanager
def working_in(folder: Path, processes: int = 1) -> Iterator[None]:
    """Be in the folder, take nothing from saved progress, and have so many processes."""
    environment = {NO_PROGRESS: "1", PROCESSES: str(processes)}
    with chdir(folder), patch.dict(os.environ, environment):
        yield


def run_stages(suite: str, *stages: str) -> None:
    """Run stages of the pipeline here, in this process."""
    for stage in stages:
        code = import_module(f"stages.{stage}").main([suite])
        if code:
            raise InputError(f"stage {stage} ended with {code}")
