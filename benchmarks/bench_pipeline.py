"""What the pipeline costs beside the work of its stages: starts of processes, imports, DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from stages import fingerprint

FINGERPRINTS = "from stages.fingerprint import fingerprints_of; fingerprints_of('embedded')"
DVC = Path(sys.executable).with_name("dvc")


@pytest.mark.parametrize("stage", ["fingerprint", *fingerprint.STAGES])
def test_start(benchmark: BenchmarkFixture, stage: str) -> None:
    """A stage's process, from its start to where it would begin to work."""
    command = [sys.executable, "-c", f"import stages.{stage}"]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=3, warmup_rounds=1)
    benchmark.extra_info["overhead"] = f"start and imports of stage {stage}"


def test_worker(benchmark: BenchmarkFixture) -> None:
    """A worker process of a sweep, which imports what a training needs."""
    command = [
        sys.executable,
        "-c",
        "import stages.quantize, ecqx.relevance.weights, ecqx.assignment.loops",
    ]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=3, warmup_rounds=1)
    benchmark.extra_info["overhead"] = "start and imports of a worker process of a sweep"


def test_fingerprints(benchmark: BenchmarkFixture) -> None:
    """What the code of every stage of the default suite amounts to."""
    command = [sys.executable, "-c", FINGERPRINTS]
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=3, warmup_rounds=1)
    benchmark.extra_info["overhead"] = "fingerprints of a suite"


@pytest.mark.skipif(not DVC.exists(), reason="needs dvc beside this Python")
def test_dvc(benchmark: BenchmarkFixture) -> None:
    """What DVC takes to see that all stages of a suite are up to date, or not."""
    command = [str(DVC), "status", "--quiet", "dvc.yaml"]
    benchmark.pedantic(lambda: subprocess.run(command, check=False), rounds=3, warmup_rounds=1)
    benchmark.extra_info["overhead"] = "dvc: looks at all stages of a suite once"
