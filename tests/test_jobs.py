"""The job runner: what is finished stays, damaged results are made again, unused ones removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest

from ecqx.errors import InputError
from ecqx.experiment import jobs
from ecqx.experiment.jobs import (
    NO_PROGRESS,
    PROCESSES,
    PROGRESS,
    RECORD,
    checksum,
    key_of,
    read_record,
    remove_unused,
    run_all,
    run_jobs,
)

RUNS = Path("runs")


@dataclass(frozen=True)
class Made:
    """A job that notes each of its runs, and is interrupted once on request."""

    key: str
    is_interrupted: bool = False
    seconds: float = 0.0

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        with RUNS.open("a") as file:
            file.write(f"{self.key}\n")
        sleep(self.seconds)
        went_on = progress.exists()
        if self.is_interrupted and not went_on:
            progress.write_text("half")
            raise KeyboardInterrupt
        (folder / "result").write_text(f"result of {self.key}")
        return {"went_on": went_on, "files": sorted(path.name for path in folder.iterdir())}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with jobs in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PROCESSES, "1")
    monkeypatch.delenv(NO_PROGRESS, raising=False)
    return tmp_path


def ran() -> list[str]:
    """Keys of the jobs that ran since the last call."""
    lines = RUNS.read_text().split() if RUNS.exists() else []
    RUNS.unlink(missing_ok=True)
    return lines


def made(*keys: str) -> list[Made]:
    return [Made(key) for key in keys]


def test_each_key_is_run_once_and_keeps_its_record() -> None:
    folders = run_jobs("train", "suite", made("b", "a", "b"))
    assert ran() == ["b", "a"]
    assert folders == {key: Path("work/train") / key for key in ("b", "a")}
    for key, folder in folders.items():
        assert (folder / "result").read_text() == f"result of {key}"
        assert read_record(folder)["went_on"] is False


def test_no_worker_is_started_for_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers were started for all jobs once, to find most of them finished."""
    folders = run_jobs("train", "suite", made("a", "b"))
    monkeypatch.setattr(jobs, "Parallel", lambda **_: pytest.fail("workers were started"))
    assert run_jobs("train", "suite", made("a", "b")) == folders
    assert run_jobs("train", "other", made("b"))["b"] == folders["b"]
    with pytest.raises(pytest.fail.Exception):
        run_jobs("train", "suite", made("a", "c"))
    assert ran() == ["a", "b"]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a changed result": lambda folder: (folder / "result").write_text("other"),
    "a missing result": lambda folder: (folder / "result").unlink(),
    "a missing record": lambda folder: (folder / RECORD).unlink(),
    "no JSON": lambda folder: (folder / RECORD).write_text('{"record": '),
    "another record": lambda folder: (folder / RECORD).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_are_made_again_and_no_others(damage: str) -> None:
    folders = run_jobs("train", "suite", made("a", "b"))
    before = {path.name: path.read_bytes() for path in folders["a"].iterdir() if path.is_file()}
    DAMAGES[damage](folders["a"])
    ran()
    run_jobs("train", "suite", made("a", "b"))
    assert ran() == ["a"]
    assert (folders["a"] / "result").read_bytes() == before["result"]
    run_jobs("train", "suite", made("a", "b"))
    assert ran() == []


def test_interrupted_jobs_go_on_where_they_were() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_jobs("train", "suite", [Made("a"), Made("b", is_interrupted=True), Made("c")])
    folders = run_jobs("train", "suite", [Made("a"), Made("b", is_interrupted=True), Made("c")])
    assert ran() == ["a", "b", "b", "c"]
    assert [read_record(folders[key])["went_on"] for key in "abc"] == [False, True, False]
    assert not (folders["b"] / PROGRESS).exists()


def test_without_progress_everything_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = run_jobs("train", "suite", made("a"))
    (folders["a"] / "of an older version").touch()
    with pytest.raises(KeyboardInterrupt):
        run_jobs("train", "suite", [Made("b", is_interrupted=True)])
    ran()
    monkeypatch.setenv(NO_PROGRESS, "1")
    folders = run_jobs("train", "suite", made("a", "b"))
    assert ran() == ["a", "b"]
    assert read_record(folders["b"])["went_on"] is False
    assert not (folders["a"] / "of an older version").exists()


def test_two_that_need_the_same_result_at_once_make_it_once(place: Path) -> None:
    job, folder = Made("a", seconds=0.3), Path("work/train/a")
    folder.mkdir(parents=True)
    both = [Thread(target=jobs.run_job, args=((job, folder),)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert ran() == ["a"]
    assert jobs._is_finished(folder)


def test_exactly_what_no_owner_named_in_its_last_run_is_removed() -> None:
    assert remove_unused() == []
    run_jobs("train", "one", made("shared", "old"))
    run_jobs("train", "two", made("shared", "second"))
    run_jobs("other", "one", made("old"))
    assert remove_unused() == []
    run_jobs("train", "one", made("shared", "new"))
    assert remove_unused() == [Path("work/train/old")]
    # The other owner still needs what they shared.
    run_jobs("train", "one", made("new"))
    assert remove_unused() == []
    run_jobs("train", "two", made("second"))
    assert remove_unused() == [Path("work/train/shared")]
    left = sorted(path.as_posix() for path in Path("work").glob("*/*") if path.is_dir())
    assert left == ["work/other/old", "work/train/new", "work/train/second"]
    shutil.rmtree("work/train/second")
    assert remove_unused() == []


# -- calls over processes --------------------------------------------------------------------------


def squared(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def test_results_come_in_order_from_as_many_processes_as_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PROCESSES, "2")
    results = run_all(squared, [3, 1, 2, 5], "squares")
    assert [value for value, _ in results] == [9, 1, 4, 25]
    assert os.getpid() not in {process for _, process in results}
    # Short work is done here, before another process would have started.
    monkeypatch.setattr(jobs, "Parallel", lambda **_: pytest.fail("workers were started"))
    assert run_all(squared, [3, 1], "squares", alone=60.0) == [
        *((9, os.getpid()), (1, os.getpid()))
    ]


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_a_number_of_processes_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES, value)
    with pytest.raises(InputError, match=f"^{PROCESSES} must be a whole number above 0, not "):
        run_jobs("train", "suite", made("a"))


def test_keys_know_values_and_not_their_order() -> None:
    assert key_of(a=1, b={"c": 2, "d": None}) == key_of(b={"d": None, "c": 2}, a=1)
    assert len({key_of(a=value) for value in (1, 1.5, "1", None, True, [1], {"a": 1})}) == 7
    with pytest.raises(ValueError, match="JSON"):
        key_of(a=float("nan"))


def test_checksums_are_those_of_the_content(place: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (place / name).write_bytes(content)
    assert checksum(place / "a") == checksum(place / "b") != checksum(place / "c")
