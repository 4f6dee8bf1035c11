"""Copies of the work tree in which commands run, as a user would run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from workplace import REPOSITORY

from stages import suites

PROGRAMS = Path(sys.prefix) / "bin"
# What `make` leaves to the commands that it runs; the suite of an outer `make` is not the clone's.
_OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "SUITE", "PART")


@dataclass(frozen=True)
class Clone:
    """A repository with this code, and what a command printed there."""

    root: Path
    output: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Of a command there: with the clone's own code, not the installed one."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ECQX_", "GIT_")) and name not in _OF_MAKE
        }
        return kept | {
            "PATH": os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(self.root),
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc" / "tmp" / "site"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, which may fail."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *command: str, **environment: str) -> str:
        """Run a command there that must succeed; what it printed."""
        done = self.call(*command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "worker stopped" not in done.stderr
        return done.stdout

    def at_once(self, *commands: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
        """Start commands at the same moment."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda command: self.call(*command), commands))

    def clone(self, root: Path) -> Clone:
        """A clone of it, with a link to the installed environment."""
        self.git("clone", "--quiet", ".", str(root))
        (root / ".venv").symlink_to(sys.prefix)
        return Clone(root)

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=test", "-c", "user.email=test@test", *arguments)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")

    def json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def settings_of(self, suite: str) -> dict[str, Any]:
        """The settings of a suite that is not the default one."""
        return yaml.safe_load(self._params(suite).read_text())  # type: ignore[no-any-return]

    def change_settings(self, suite: str, change: Callable[[dict[str, Any]], None]) -> None:
        settings = self.settings_of(suite)
        change(settings)
        self._params(suite).write_text(yaml.safe_dump(settings, sort_keys=False))

    def _params(self, suite: str) -> Path:
        return self.root / suites.FOLDER / suite / suites.PARAMS

    def params_files(self) -> dict[str, tuple[int, bytes]]:
        """Modification time and content of every suite's settings."""
        paths = [self.root / suites.PARAMS, *self.root.glob(f"{suites.FOLDER}/*/{suites.PARAMS}")]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def add_large_output(self, size: int) -> None:
        """Give the default suite a stage `large`, whose output has this number of bytes."""
        path = self.root / suites.PIPELINE
        content, output = yaml.safe_load(path.read_text()), "data/large-${suite}"
        write = f"mkdir -p data && head -c {size} /dev/urandom > {output}"
        content["stages"]["large"] = {"wdir": "${root}", "cmd": write, "outs": [output]}
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def digests(self, output: str) -> dict[str, str]:
        """Checksum of each file of an output, by its path."""
        path = self.root / output
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return {str(f.relative_to(self.root)): checksum(f) for f in files if f.is_file()}


def checksum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def copy_work_tree(root: Path, with_results: bool = False) -> None:
    """The work tree's files, committed or not, as a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [Path(name) for name in filter(None, listed.split("\0"))]
    # Loops that are compiled already, which takes seconds and is no part of what is tested.
    compiled = [path.relative_to(REPOSITORY) for path in REPOSITORY.glob("ecqx/**/*.nb?")]
    for name in [*names, *compiled]:
        source, target = REPOSITORY / name, root / name
        is_result = name.name == suites.LOCK or name.parts[0] == "results"
        if (with_results or not is_result) and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    (root / ".venv").symlink_to(sys.prefix)
    clone = Clone(root)
    clone.git("init", "--quiet")
    clone.commit()
