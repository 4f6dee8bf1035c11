"""Records which commit, machine and packages made the results, in results/SUITE/provenance.json.

It contains neither paths nor the machine's name, since others will read it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from contextlib import suppress
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
    content: dict[str, Any] = {"commit": None, "modified": None}
    with suppress(InputError):  # results are valid without a known commit
        head = git(root, "rev-parse", "HEAD").strip()
        content = {"commit": head, "modified": bool(changes(root))}
    content |= {"machine": machine(), "packages": packages()}
    path = root / paths.results(suite) / "provenance.json"
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
    system = f"{platform.system()} {platform.machine()}"
    with suppress(OSError, KeyError):
        system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {system}"
    return {
        "processor": _field(cpu, "model name") or platform.processor() or platform.machine(),
        "instructions": sorted(set(_SIMD.findall(_field(cpu, "flags") or _field(cpu, "Features")))),
        "cores": os.cpu_count(),
        "gpus": [_field(_read(str(card)), "Model") for card in cards],
        "system": system,
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


def packages() -> dict[str, str]:
    """Versions of the packages that the pipeline needs, directly or not, sorted."""
    versions: dict[str, str] = {}
    waiting, seen = [Requirement(_PIPELINE)], set()
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) not in seen:
            seen.add((name, extras))
            with suppress(metadata.PackageNotFoundError):
                found = metadata.distribution(name)
                versions[name] = found.version
                waiting += [
                    needed
                    for needed in map(Requirement, found.requires or [])
                    if needed.marker is None
                    or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
                ]
    return {name: versions[name] for name in sorted({*versions} - _LEFT_OUT)}


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
