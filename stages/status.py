"""What is stale, and why. Computes nothing, changes nothing.

DVC's own status sees that a file of the code changed, not whether a result depends on it. This
command compares the fingerprints of the code with those that the suite's dvc.lock recorded, and
adds what DVC says of settings and data.

With --check the exit code is 1 where a committed result is not that of the committed code and
settings, or not the one that was recorded: for the suites named, by default all whose params.yaml
says `published: true`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages import fingerprint, paths, suites
from stages.command import command, run_command_line

NEVER_RUN = "has not been run"
# A stage that would not give its recorded results now, and why.
Stale = tuple[str, str]


@command
@click.option("--check", is_flag=True, help="Judge committed results alone.")
@click.argument("named", metavar="[SUITE…]", nargs=-1)
def main(check: bool, named: tuple[str, ...]) -> int:
    """Print what is stale."""
    for name in named:
        suites.check_known(name)
    if check:
        stale = [
            f"{name}: {stage}: {reason}\n"
            for name in named or suites.published()
            for stage, reason in stale_results(name)
        ]
        click.echo("".join(stale), nl=False)
        return int(bool(stale))
    for name in named or (suites.default(),):
        code = list(_stale_code(name, _recorded(name)))
        # For a stage that was never run, that reason alone.
        never_run = {stage for stage, reason in code if reason == NEVER_RUN}
        found = code + [stale for stale in _stale_data(name) if stale[0] not in never_run]
        click.echo("\n".join(map(": ".join, found)) or "nothing is stale")
    return 0


def _recorded(suite: str) -> dict[str, Any]:
    """What dvc.lock recorded of each stage."""
    lock = suites.folder(suite) / suites.LOCK
    # DVC writes YAML 1.2, in which 5e-06 is a number.
    content = YAML(typ="safe", pure=True).load(lock) if lock.exists() else {}
    return dict(content.get("stages", {}))


def stale_results(suite: str) -> Iterator[Stale]:
    """The stages that dvc.lock recorded with other code, settings or files than there are."""
    stages = _recorded(suite)
    yield from _stale_code(suite, stages)
    for stage, content in stages.items():
        for path, recorded in content.get("params", {}).items():
            settings = suites.read_params(Path(path))
            for name, value in recorded.items():
                if _setting(settings, name) != value:
                    yield stage, f"changed setting {name}"
        for output in content.get("outs", ()):
            path = Path(output["path"])
            # Most outputs are not committed; folders have no checksum of one file.
            if path.is_file() and _md5(path.read_bytes()) != output["md5"]:
                yield stage, f"changed {path}"


def _setting(settings: Any, name: str) -> Any:
    """The setting of a dotted name; None where there is none."""
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def _stale_code(suite: str, stages: Mapping[str, Any]) -> Iterator[Stale]:
    """The stages that dvc.lock recorded with another fingerprint than that of the code."""
    recorded = {
        dependency["path"]: dependency["md5"]
        for stage in stages.values()
        for dependency in stage.get("deps", ())
    }
    for stage, now in fingerprint.fingerprints_of(suite).items():
        path = paths.fingerprint(suite, stage)
        md5 = recorded.get(path.as_posix())
        if md5 is None:
            yield stage, NEVER_RUN
        elif md5 != _md5(fingerprint.text(now).encode()):
            # What was recorded can only be said while its file is still there.
            then = path.read_bytes() if path.exists() else b""
            is_recorded = _md5(then) == md5
            what = _differences(json.loads(then), now) if is_recorded else ["code or packages"]
            yield stage, f"changed {'; '.join(what)}"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


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


def _stale_data(suite: str) -> Iterator[Stale]:
    """What DVC says of settings, data and results."""
    dvc = [sys.executable, "-m", "dvc", "status", "--json", str(suites.pipeline_path(suite))]
    result = subprocess.run(dvc, stdout=subprocess.PIPE, check=True, text=True)
    for address, changes in json.loads(result.stdout).items():
        stage = address.rpartition(":")[2]
        if stage != "fingerprint":
            yield from ((stage, reason) for change in changes for reason in _reasons(change))


def _reasons(change: str | Mapping[str, Any]) -> Iterator[str]:
    """One change as DVC reports it, in words; fingerprints are left out."""
    if isinstance(change, str):
        yield change
        return
    for kind, entries in change.items():
        for name, state in entries.items():
            if isinstance(state, Mapping):
                yield from (f"{name}: {setting} {what}" for setting, what in state.items())
            elif not name.startswith("fingerprints/"):
                yield f"{name} {state}" if kind == "changed deps" else f"its output {name} {state}"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
