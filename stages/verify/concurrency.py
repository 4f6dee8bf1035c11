"""Two pipelines at once in one clone: one works, the other is told so, and nothing is corrupted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from stages.verify.determinism import clone_environment, digests, make_clone
from stages.verify.document import Section

# Far enough for both to want the same files, and no longer.
LAST_STAGE = "pretrain"
_YES = {True: "yes", False: "**no**"}


def concurrency(root: Path, suite: str) -> Section:
    """``make paper-results`` and ``dvc repro``, each twice at once, and one beside the other."""
    bare = ["dvc", "repro", "--force", "--no-run-cache", f"{LAST_STAGE}@{suite}"]
    ours = ["python", "-m", "stages.suite", suite, "--", *bare]
    rows, outputs, passed = [], list[dict[str, str]](), True
    with tempfile.TemporaryDirectory(prefix="ecqx-verify-") as folder:
        clone = Path(folder) / "clone"
        make_clone(root, clone)
        _name_suite(clone, suite)
        for name, first, second in (
            ("`make paper-results` twice", ours, ours),
            ("`dvc repro` twice", bare, bare),
            ("`dvc repro` beside `make paper-results`", ours, bare),
        ):
            codes, said = _both(clone, first, second)
            clean = _run(clone, ["dvc", "status", f"{LAST_STAGE}@{suite}"])
            whole = clean.returncode == 0 and "up to date" in clean.stdout
            outputs.append(digests(clone, f"checkpoints/{suite}"))
            same = bool(outputs[0]) and outputs[-1] == outputs[0]
            rows.append((name, *codes, f"`{said}`" if said else "", _YES[whole], _YES[same]))
            passed = passed and 0 in codes and whole and same and (codes == (0, 0) or bool(said))
    headers = (
        *("at once", "first", "second", "what the refused one says"),
        *("`dvc status` is clean", "checkpoints the same"),
    )
    text = (
        f"Suite `{suite}` up to the stage {LAST_STAGE}, from nothing, two commands at the same "
        "moment in one clone; exit codes, and the error of the refused one.\n\n"
        f"{tabulate(rows, headers, 'github')}"
    )
    good = sum("**no**" not in row for row in rows)
    figures = f"{good} of {len(rows)} pairs without corruption"
    return Section(f"concurrency {suite}", "Two pipelines at once", text, passed, figures)


def _name_suite(clone: Path, suite: str) -> None:
    """Let params.yaml name the suite, for commands that do not choose one."""
    path = clone / "params.yaml"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [f"suite: {suite}\n" if line.startswith("suite:") else line for line in lines]
    path.write_text("".join(changed), encoding="utf-8")


def _both(clone: Path, first: Sequence[str], second: Sequence[str]) -> tuple[tuple[int, int], str]:
    """Start both from nothing; their exit codes and the message of the one that failed."""
    _run(clone, ["git", "clean", "-fdxq", "-e", ".venv", "data", "checkpoints", "work"])
    _run(clone, ["git", "checkout", "--quiet", "dvc.lock"])
    environment = clone_environment(clone, ECQX_NO_PROGRESS="1", ECQX_PROCESSES="1")
    started = [
        subprocess.Popen(
            command,
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in (first, second)
    ]
    outputs = [process.communicate()[0] for process in started]
    codes = (started[0].returncode, started[1].returncode)
    refused = [output for code, output in zip(codes, outputs, strict=True) if code]
    return codes, _message(refused[0], clone) if refused else ""


def _message(output: str, clone: Path) -> str:
    """The error at the end of what a command printed, without what differs from run to run."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    start = max((n for n, line in enumerate(lines) if line.startswith("ERROR")), default=-1)
    programs = f"{Path(sys.prefix) / 'bin'}{os.sep}"
    message = " ".join(lines[start:]).replace(programs, "").replace(str(clone), ".")
    return re.sub(r"\b\d{2,}\b", "N", message)


def _run(clone: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=clone,
        env=clone_environment(clone),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        check=False,
    )
