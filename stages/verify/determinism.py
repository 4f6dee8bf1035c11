"""Two forced runs in two fresh clones, compared byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from tabulate import tabulate

from ecqx.errors import InputError
from stages import suites
from stages.provenance import changes, git
from stages.verify.document import Section


def determinism(root: Path, suite: str) -> Section:
    """Two forced runs in two fresh clones of HEAD, with different numbers of processes."""
    if changes(root):
        print("The work tree differs from HEAD: the clones hold HEAD.", file=sys.stderr)
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="ecqx-verify-") as folder:
        first = _run_in_clone(root, Path(folder) / "first", suite, cores)
        second = _run_in_clone(root, Path(folder) / "second", suite, cores + 1)
        rows = _compare(first, second, suite)
        unchanged = not git(first, "status", "--porcelain").strip()
    table = tabulate(rows, ("output", "files", "bytes", "second run"), "github")
    text = (
        f"Suite `{suite}`. Two fresh clones, each run in full (`dvc repro -f`) without run cache "
        "and without saved progress, the second with one worker process more than the first. "
        "Compared byte for byte:\n\n"
        f"{table}\n\n"
        f"Both {'equal' if unchanged else 'differ from'} what is committed; on another machine "
        "than the baseline's the last digits may differ."
    )
    passed = all(row[-1] == _SAME for row in rows)
    same = sum(row[-1] == _SAME for row in rows)
    figures = f"{same} of {len(rows)} outputs the same"
    title = f"Determinism of suite {suite}"
    return Section(f"determinism {suite}", title, text, passed, figures)


_SAME, _OTHER = "the same", "**differs**"


def _run_in_clone(root: Path, clone: Path, suite: str, processes: int) -> Path:
    """Clone HEAD and run the whole pipeline there; the clone's folder."""
    make_clone(root, clone)
    environment = clone_environment(clone, ECQX_NO_PROGRESS="1", ECQX_PROCESSES=str(processes))
    command = ["dvc", "repro", "--force", "--no-run-cache", str(suites.pipeline_path(suite))]
    done = subprocess.run(command, cwd=clone, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise InputError(f"the pipeline of suite {suite} failed in the clone, see above")
    return clone


def make_clone(root: Path, clone: Path) -> None:
    """Clone HEAD, with a link to the installed environment."""
    git(root, "clone", "--quiet", str(root.resolve()), str(clone))
    (clone / ".venv").symlink_to(sys.prefix)


_OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "SUITE", "PART")


def clone_environment(clone: Path, **more: str) -> dict[str, str]:
    """The environment of a command that runs in a clone."""
    programs = str(Path(sys.prefix) / "bin")
    return {
        # Not what the make that runs these checks was given: its SUITE would be the clone's.
        **{name: value for name, value in os.environ.items() if name not in _OF_MAKE},
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        # Of this clone, not what the environment has installed.
        "PYTHONPATH": str(clone),
        **more,
    }


def _compare(first: Path, second: Path, suite: str) -> list[list[str | int]]:
    """One row per output of the suite, and one for its dvc.lock."""
    lock = str(suites.lock_path(suite))
    outputs = sorted({lock, *_outputs(first, suite), *_outputs(second, suite)})
    rows: list[list[str | int]] = []
    for output in outputs:
        here, there = digests(first, output), digests(second, output)
        size = sum((first / name).stat().st_size for name in here)
        rows.append([f"`{output}`", len(here), size, _SAME if here == there and here else _OTHER])
    return rows


def _outputs(clone: Path, suite: str) -> list[str]:
    """Paths that the suite's stages wrote, as dvc.lock names them."""
    lock = yaml.safe_load((clone / suites.lock_path(suite)).read_text(encoding="utf-8"))
    return [out["path"] for stage in lock["stages"].values() for out in stage.get("outs", [])]


def digests(clone: Path, output: str) -> dict[str, str]:
    """Checksum of each file of an output, by its path in the clone."""
    path = clone / output
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        str(file.relative_to(clone)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }
