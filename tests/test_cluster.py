"""The same jobs on a Dask cluster: a small local one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecqx.errors import InputError
from ecqx.experiment.jobs import SCHEDULER, run_all

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def folder(
    cluster: distributed.LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv(SCHEDULER, cluster.scheduler_address)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def squared(job: int) -> tuple[int, int]:
    """Leave a file in the folder of the pipeline."""
    Path(f"{job}.txt").write_text(str(job * job))
    return job * job, os.getpid()


def killed_once(job: int) -> int:
    """The process of job 3 is killed when it is first tried."""
    mark = Path("killed")
    if job == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(f"{job}.log").open("a") as log:
        log.write("done\n")
    return job * job


def test_jobs_run_in_other_processes_and_come_back_in_order(folder: Path) -> None:
    results = run_all(squared, list(range(20)), "test")
    assert [value for value, _ in results] == [i * i for i in range(20)]
    assert os.getpid() not in {process for _, process in results}
    assert sorted(int(path.stem) for path in folder.glob("*.txt")) == list(range(20))


def test_a_killed_worker_loses_nothing(folder: Path) -> None:
    assert run_all(killed_once, list(range(12)), "test") == [i * i for i in range(12)]
    assert (folder / "killed").exists()
    assert len(list(folder.glob("*.log"))) == 12


def test_an_error_of_a_job_comes_back(folder: Path) -> None:
    with pytest.raises(InputError, match="job 2 is bad"):
        run_all(refused, [1, 2], "test")


def refused(job: int) -> int:
    if job == 2:
        raise InputError("job 2 is bad")
    return job


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", ""])
def test_no_scheduler_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCHEDULER, address)
    monkeypatch.setattr("ecqx.experiment.jobs.SECONDS_TO_WAIT", 0.5)
    with pytest.raises(InputError, match=rf"^{SCHEDULER}: no Dask scheduler answers at ") as error:
        run_all(squared, [1], "test")
    assert "\n" not in str(error.value)
