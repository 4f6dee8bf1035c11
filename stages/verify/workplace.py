"""A folder in which stages run in this process: the settings, the code, a repository of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from ecqx.errors import InputError
from ecqx.experiment.jobs import NO_PROGRESS, PROCESSES
from stages import fingerprint, suites

STAGES = ("fingerprint", *fingerprint.STAGES)


def settings_of(root: Path, suite: str) -> dict[str, Any]:
    """Settings of a suite of the repository ``root``, unchecked."""
    with chdir(root):
        return dict(suites.read_params(suites.params_path(suite)))


def prepare(folder: Path, root: Path, settings: Mapping[str, Any]) -> Path:
    """Make such a folder: a repository whose default suite has these settings.

    The code is that of ``root``, by links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ecqx", "stages", suites.PIPELINE, "constraints.txt"):
        (folder / name).symlink_to(root / name)
    write_settings(folder, settings)
    (folder / ".gitignore").write_text((root / ".gitignore").read_text() + "/.dvc/\n")
    who = ["-c", "user.name=verify", "-c", "user.email=verify@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "-m", "-"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make these the settings of the folder's default suite."""
    content = {**settings, "root": ".", "params": suites.PARAMS}
    (folder / suites.PARAMS).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def outputs(place: Path, stage: str, suite: str) -> list[Path]:
    """What a stage writes, as dvc.yaml says; DVC removes it before it runs the stage."""
    pipeline = yaml.safe_load((place / suites.PIPELINE).read_text(encoding="utf-8"))
    entries = [
        entry for kind in ("outs", "metrics") for entry in pipeline["stages"][stage].get(kind, [])
    ]
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
    return [place / name.replace("${suite}", suite) for name in names]


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
