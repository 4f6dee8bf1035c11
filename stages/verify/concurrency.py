"""Two suites at once in one clone, one of them with an output of gigabytes: both succeed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from stages import suites
from stages.provenance import git
from stages.verify.determinism import clone_environment, make_clone
from stages.verify.document import Section
from stages.verify.workplace import settings_of, write_settings

# DVC hashes an output with the repository locked; another DVC gives up after three seconds unless
# it is told to wait.
LARGE = 4 << 30
PLOT = "accuracy against sparsity"
# Only `make`: the environment is there, and a fresh clone's files are newer.
MAKE = ("make", "--silent", "--assume-old", ".venv/installed", "paper-results")


def concurrency(root: Path, suite: str) -> Section:
    """``make paper-results`` of the default suite and of another one, at the same moment."""
    with tempfile.TemporaryDirectory(prefix="ecqx-verify-") as folder:
        clone = Path(folder) / "clone"
        make_clone(root, clone)
        default = _shorten_default_suite(clone, suite)
        add_large_output(clone / suites.PIPELINE, LARGE)
        _commit(clone)
        before = states(clone)
        codes = [done.returncode for done in at_once(clone, MAKE, [*MAKE, f"SUITE={suite}"])]
        rows = [
            ("both succeed", not any(codes)),
            ("no params.yaml was written to", states(clone) == before),
            *_what_dvc_says(clone, default, suite),
        ]
    shown = [(name, "yes" if good else "**no**") for name, good in rows]
    table = tabulate(shown, ("what", "holds"), "github")
    text = (
        f"`make paper-results` and `make paper-results SUITE={suite}` at the same moment in one "
        f"clone, from nothing. The default suite has the settings of `{suite}` under its own name, "
        f"so that both need the same trainings, and one more output of {LARGE >> 30} GiB.\n\n"
        f"{table}"
    )
    good = sum(found for _, found in rows)
    figures = f"{good} of {len(rows)} properties hold"
    return Section(f"concurrency {suite}", "Two suites at once", text, good == len(rows), figures)


def add_large_output(pipeline: Path, size: int) -> None:
    """Give a pipeline one more stage, whose output has so many bytes."""
    content = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    path = "data/large-${suite}"
    content["stages"]["large"] = {
        "wdir": "${root}",
        "cmd": f"mkdir -p data && head -c {size} /dev/urandom > {path}",
        "outs": [path],
    }
    pipeline.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def at_once(clone: Path, *commands: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """Start commands at the same moment; what became of them."""
    started = [
        subprocess.Popen(
            command,
            cwd=clone,
            env=clone_environment(clone),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    outputs = [process.communicate()[0] for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, output)
        for process, output in zip(started, outputs, strict=True)
    ]


def states(clone: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every suite's settings."""
    paths = [clone / suites.PARAMS, *sorted((clone / suites.FOLDER).glob(f"*/{suites.PARAMS}"))]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def _shorten_default_suite(clone: Path, suite: str) -> str:
    """Give the default suite the settings of another one, and change a title in both."""
    settings, name = settings_of(clone, suite), suites.default()
    titles = settings["report"]["titles"]
    titles |= {task: f"{title}, changed" for task, title in titles.items()}
    (clone / suites.params_path(suite)).write_text(yaml.safe_dump(settings, sort_keys=False))
    write_settings(clone, {**settings, "suite": name})
    return name


def _commit(clone: Path) -> None:
    who = ("-c", "user.name=verify", "-c", "user.email=verify@example.org")
    git(clone, *who, "commit", "--quiet", "--all", "--message", "settings")


def _what_dvc_says(clone: Path, *names: str) -> Iterator[tuple[str, bool]]:
    """What holds after both suites were run, in words, and whether it does."""
    pipelines = [str(suites.pipeline_path(name)) for name in names]
    yield "`dvc status`: nothing is left to do", _dvc(clone, "status", "--json", *pipelines) == {}
    params = _dvc(clone, "params", "diff", "--json", "HEAD~1") or {}
    settings = {str(suites.params_path(name)) for name in names}
    yield "`dvc params diff HEAD~1` has both", {*settings} <= {*params}
    metrics = {f"results/{name}/summary.json" for name in names}
    shown = _dvc(clone, "metrics", "diff", "--json") or {}
    yield "`dvc metrics diff` has both", metrics <= {*shown}
    for command in (["show"], ["diff", "HEAD"]):
        plots = (_dvc(clone, "plots", *command, "--json") or {}).get("data", {})
        drawn = all(plots.get(f"{path}::{PLOT}") for path in pipelines)
        yield f"`dvc plots {' '.join(command)}` has both", drawn


def _dvc(clone: Path, *arguments: str) -> Any:
    """The JSON that a DVC command prints; None where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=clone,
        env=clone_environment(clone),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None
