"""A suite runs twice in fresh clones, by other numbers of processes, and gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from clones import Clone
from workplace import OUTPUTS, REPOSITORY

from stages import suites

LOCK = "dvc.lock of the suite"


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> str:
    """The suite that ``--suite`` names, or the default one."""
    with chdir(REPOSITORY):
        name: str = pytestconfig.getoption("suite") or suites.default()
        suites.check_known(name)
    return name


@pytest.fixture(scope="module")
def runs(tree: Clone, suite: str, tmp_path_factory: pytest.TempPathFactory) -> list[Clone]:
    """Both clones, run without run cache and saved progress."""
    return [
        run_in_clone(tree, tmp_path_factory.mktemp("clone") / "clone", suite, processes)
        for processes in (os.cpu_count() or 1, (os.cpu_count() or 1) + 1)
    ]


def run_in_clone(tree: Clone, root: Path, suite: str, processes: int) -> Clone:
    clone = tree.clone(root)
    with chdir(root):
        pipeline = str(suites.pipeline_path(suite))
    environment = {"ECQX_NO_PROGRESS": "1", "ECQX_PROCESSES": str(processes)}
    clone.run("dvc", "repro", "--force", "--no-run-cache", pipeline, **environment)
    return clone


@pytest.mark.parametrize(
    "output",
    [*(output for outputs in OUTPUTS.values() for output in outputs), LOCK],
    ids=lambda output: output.replace("${suite}", "SUITE"),
)
def test_both_runs_wrote_the_same_bytes(
    output: str, suite: str, runs: list[Clone], record_property: Callable[[str, object], None]
) -> None:
    first, second = runs
    with chdir(first.root):
        lock = suites.folder(suite) / suites.LOCK
    path = str(lock) if output == LOCK else output.replace("${suite}", suite)
    digests = first.digests(path)
    record_property("files", len(digests))
    record_property("bytes", sum((first.root / name).stat().st_size for name in digests))
    # Only on the baseline's machine: on another one the last digits may differ.
    changed = first.git("status", "--porcelain", "--", path)
    tracked = first.git("ls-files", "--", path)
    record_property("as committed", ("no" if changed else "yes") if tracked else "")
    assert digests
    assert digests == second.digests(path)
