"""What is stale, and why. Computes nothing, changes nothing.

DVC's own status sees that a file of the code changed, not whether a result depends on it. This
command compares the fingerprints of the code with those that the suite's dvc.lock recorded, and
adds what DVC says of settings and data.

With --check the exit code is 1 where a committed result is not that of the code: for the suites
named, by default all whose params.yaml says `published: true`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from stages import fingerprint, paths, suites
from stages.command import command, run_command_line

NEVER_RUN = "has not been run"


@dataclass(frozen=True)
class Stale:
    """A stage that would not give its recorded results now, and why."""

    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


@command
@click.option("--check", is_flag=True, help="Compare code and committed results alone.")
@click.argument("named", metavar="[SUITE…]", nargs=-1)
def main(check: bool, named: tuple[str, ...]) -> int:
    """Print what is stale."""
    for name in named:
        suites.check_known(name)
    if check:
        stale = [f"{name}: {found}" for name in named or published() for found in stale_code(name)]
        click.echo("".join(f"{line}\n" for line in stale), nl=False)
        return int(bool(stale))
    for name in named or (suites.default(),):
        click.echo("\n".join(map(str, _stale(name))) or "nothing is stale")
    return 0


def published() -> Iterator[str]:
    """The suites whose committed results have to be those of the code."""
    for name in suites.names():
        if suites.read_params(suites.params_path(name)).get("published") is True:
            yield name


def _stale(suite: str) -> list[Stale]:
    """All that is stale; a stage that was never run for that reason alone."""
    code = list(stale_code(suite))
    never_run = {found.stage for found in code if found.reason == NEVER_RUN}
    return code + [found for found in stale_data(suite) if found.stage not in never_run]


def stale_code(suite: str, folder: Path = Path()) -> Iterator[Stale]:
    """The stages that dvc.lock recorded with another fingerprint than that of the code."""
    recorded = _recorded(suite, folder)
    for stage, now in fingerprint.fingerprints_of(suite, folder).items():
        if stage not in recorded:
            yield Stale(stage, NEVER_RUN)
        elif recorded[stage] != _md5(fingerprint.text(now).encode()):
            then = _read(folder / paths.fingerprint(suite, stage), recorded[stage])
            what = "; ".join(_differences(then, now)) if then else "code or packages"
            yield Stale(stage, f"changed {what}")


def _recorded(suite: str, folder: Path) -> dict[str, str]:
    """MD5 of the fingerprint that each stage last ran with, from dvc.lock."""
    lock = folder / suites.lock_path(suite)
    content = yaml.safe_load(lock.read_text()) if lock.exists() else {}
    stages = {paths.fingerprint(suite, stage).as_posix(): stage for stage in fingerprint.STAGES}
    return {
        stages[entry["path"]]: entry["md5"]
        for recorded in content.get("stages", {}).values()
        for entry in recorded.get("deps", ())
        if entry["path"] in stages
    }


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read(path: Path, md5: str) -> dict[str, Any] | None:
    """The fingerprint with this MD5, if its file is still there."""
    content = path.read_bytes() if path.exists() else b""
    return json.loads(content) if _md5(content) == md5 else None


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two fingerprints of a stage, part by part."""
    for part in sorted({*then, *now}):
        old, new = then.get(part), now.get(part)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            if changed:
                yield f"{part} {', '.join(changed)}"
        elif old != new:
            yield part


def stale_data(suite: str) -> Iterator[Stale]:
    """What DVC says of settings, data and results."""
    dvc = [sys.executable, "-m", "dvc", "status", "--json", str(suites.pipeline_path(suite))]
    result = subprocess.run(dvc, stdout=subprocess.PIPE, check=True, text=True)
    for address, changes in json.loads(result.stdout).items():
        stage = address.rpartition(":")[2]
        if stage != "fingerprint":
            yield from (Stale(stage, reason) for change in changes for reason in _reasons(change))


def _reasons(change: str | Mapping[str, Any]) -> Iterator[str]:
    """One change as DVC reports it, in words; fingerprints are left out."""
    if isinstance(change, str):
        yield change
        return
    for kind, entries in change.items():
        for name, state in entries.items():
            if name.startswith("fingerprints/"):
                continue
            if isinstance(state, Mapping):
                yield from (f"{name}: {setting} {what}" for setting, what in state.items())
            else:
                yield f"{name} {state}" if kind == "changed deps" else f"its output {name} {state}"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
