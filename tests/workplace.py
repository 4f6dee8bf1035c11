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

from ecqx.experiment.jobs import NO_PROGRESS, PROCESSES
from stages import suites

REPOSITORY = Path(__file__).resolve().parents[1]
# The stages in their order, and what each writes; `${suite}` stands for the suite's name.
_PIPELINE = yaml.safe_load((REPOSITORY / suites.PIPELINE).read_text(encoding="utf-8"))["stages"]
OUTPUTS: dict[str, list[str]] = {
    stage: [
        entry if isinstance(entry, str) else next(iter(entry))
        for kind in ("outs", "metrics")
        for entry in content.get(kind, [])
    ]
    for stage, content in _PIPELINE.items()
}
STAGES = tuple(OUTPUTS)


def settings_of(suite: str) -> dict[str, Any]:
    """Settings of a suite of this repository, unchecked."""
    with chdir(REPOSITORY):
        return dict(suites.read_params(suites.params_path(suite)))


def prepare(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Make a repository whose default suite has these settings, with links to this code."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ecqx", "stages", suites.PIPELINE, "constraints.txt"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_settings(folder, settings)
    (folder / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text() + "/.dvc/\n")
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "-m", "-"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make these the settings of the folder's default suite."""
    content = {**settings, "root": ".", "params": suites.PARAMS}
    (folder / suites.PARAMS).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@contextmanager
def working_in(folder: Path, processes: int = 1) -> Iterator[None]:
    """Work in the folder with this number of processes, and ignore saved progress."""
    environment = {NO_PROGRESS: "1", PROCESSES: str(processes)}
    with chdir(folder), patch.dict(os.environ, environment):
        yield


def run_stages(suite: str, *stages: str) -> None:
    """Run stages of the pipeline here, in this process."""
    for stage in stages:
        assert not import_module(f"stages.{stage}").main([suite]), stage
