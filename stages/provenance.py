"""Records which commit, machine and packages made the results, in results/SUITE/provenance.json.

It contains neither paths nor the machine's name, since others will read it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import paths
from stages.command import command, run_command_line, suite_argument

_PIPELINE = "ecqx[pipeline]"
# This repository itself, and what only installs.
_LEFT_OUT = {"ecqx", "setuptools"}
# Instruction sets that determine in which order a CPU adds: they change the last digits.
_SIMD = re.compile(r"avx\w*|fma|sse4_\d|amx\w*|asimd\w*|sve\w*")


@command
@suite_argument
def main(suite: str) -> None:
    """Write results/SUITE/provenance.json and say where the results are."""
    write(Path(), suite)
    click.echo(
        f"The results of suite {suite} are in results/{suite}/, all on one page: report.html"
    )


def write(root: Path, suite: str) -> None:
    """Write ``provenance.json`` beside the suite's results."""
    content = {**_commit(root), "machine": machine(), "packages": packages()}
    path = root / paths.results(suite) / "provenance.json"
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _commit(root: Path) -> dict[str, Any]:
    try:
        head = git(root, "rev-parse", "HEAD").strip()
        return {"commit": head, "modified": bool(changes(root))}
    except InputError:
        # Results are valid without a known commit.
        return {"commit": None, "modified": None}


def changes(root: Path) -> list[str]:
    """Files that differ from the last commit, apart from what a run of the pipeline writes."""
    status = git(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    files = [entry[3:] for entry in status.split("\0") if entry]
    return [
        name for name in files if Path(name).name != "dvc.lock" and not name.startswith("results/")
    ]


def git(root: Path, *arguments: str) -> str:
    """Output of a git command; ``InputError`` with git's message if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise InputError("git is not installed") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"git {arguments[0]}: {error.stderr.strip()}") from error
    return done.stdout


def machine() -> dict[str, Any]:
    """What determines the last digits of a result, apart from the packages."""
    cpu = _read("/proc/cpuinfo")
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return {
        "processor": _field(cpu, "model name") or platform.processor() or platform.machine(),
        "instructions": sorted(set(_SIMD.findall(_field(cpu, "flags") or _field(cpu, "Features")))),
        "cores": os.cpu_count(),
        "gpus": [_field(_read(str(card)), "Model") for card in cards],
        "system": _system(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*?)\s*$", text, re.M)
    return found[1] if found else ""


def _system() -> str:
    kernel = f"{platform.system()} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def packages() -> dict[str, str]:
    """Versions of the packages that the pipeline needs, directly or not, sorted."""
    versions: dict[str, str] = {}
    waiting, seen = [Requirement(_PIPELINE)], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        versions[name] = found.version
        waiting += [
            requirement
            for requirement in map(Requirement, found.requires or [])
            if _is_needed(requirement, wanted.extras)
        ]
    return {name: versions[name] for name in sorted({*versions} - _LEFT_OUT)}


def _is_needed(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a distribution that is installed with some extras needs this here."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
