"""A folder in which stages run in this process: the settings, the code, a repository of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from ecqx.errors import InputError
from stages.parallel import NO_PROGRESS, PROCESSES

STAGES = ("download", "pretrain", "quantize", "encode", "evaluate", "report")
# What DVC removes before it runs a stage.
OUTPUTS = {
    "download": ("data/{}",),
    "pretrain": ("checkpoints/{}",),
    "quantize": ("quantized/{}",),
    "encode": ("bitstreams/{}",),
    "evaluate": (
        "relevance/{}.safetensors",
        "samples/{}.safetensors",
        *(f"results/{{}}/{name}" for name in ("layers.json", "metrics.json", "curves.csv")),
        "results/{}/summary.json",
    ),
    "report": tuple(
        f"results/{{}}/{name}" for name in ("claims.md", "figures", "report.html", "tables")
    ),
}


def prepare(folder: Path, root: Path, params: str) -> Path:
    """Make such a folder: a repository that holds ``params`` and links to the code of ``root``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ecqx", "stages"):
        (folder / name).symlink_to(root / name)
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    (folder / ".gitignore").write_text((root / ".gitignore").read_text() + "/.dvc/\n")
    who = ["-c", "user.name=verify", "-c", "user.email=verify@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "-m", "-"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


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
