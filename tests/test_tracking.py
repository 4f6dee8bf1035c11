"""Trackers: what is sent to each, where its files lie, and how it is refused."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import running
from running import Refused, Run, on, record

from ecqx.experiment import tracking
from ecqx.training.trainer import Trainer

# The fixtures of these tests.
place, run, refused, tree = running.place, running.run, running.refused, running.tree

KEY = "0123456789abcdef" * 2 + "01234567"


class Recorder:
    """Stands in for a tracker."""

    def __init__(self, *config: Any) -> None:
        self.config, self.logged, self.finished = config, list[dict[str, float]](), False
        self.steps: list[int] = []

    def __enter__(self) -> Callable[[dict[str, float], int], None]:
        return self.log

    def log(self, values: dict[str, float], step: int) -> None:
        assert not self.finished
        self.steps.append(step)
        self.logged.append(values)

    def __exit__(self, *_: object) -> None:
        self.finished = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    made: list[Recorder] = []

    def make_recorder(*config: Any) -> Recorder:
        made.append(Recorder(*config))
        return made[-1]

    monkeypatch.setattr(tracking, "wandb", make_recorder)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    return made


def test_epochs_and_results_are_tracked(
    tree: Path, place: Path, run: Run, recorders: list[Recorder]
) -> None:
    own = ("--wandb", "--wandb_key", KEY, "--wandb_run_name", "mine")
    code, out, error = run(*on(tree, "--epochs", 2, *own))
    assert code == 0
    (recorder,) = recorders
    assert recorder.finished
    folder, name, key, config = recorder.config
    assert (folder, name, key) == (Path("results"), "mine", KEY)
    assert KEY not in json.dumps(config) + out + error
    noted = record(place / "results")
    for logged, epoch in zip(recorder.logged, noted["epochs"], strict=False):
        assert set(logged.values()) == {epoch["loss"], epoch["accuracy"], epoch["sparsity"]}
    assert recorder.steps == [1, 2, 2]
    summary = recorder.logged[-1]
    assert summary["bytes"] == noted["bytes"]
    accuracy = noted["scores"]["decoded file"]["top-1 accuracy"]
    assert summary["test/decoded file/top-1 accuracy"] == accuracy


def test_a_tracker_is_finished_whatever_happens(
    tree: Path, run: Run, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stop)
    assert run(*on(tree, "--wandb"))[0] == 130
    assert recorders[0].finished


def test_offline_files_lie_below_the_results_without_the_key(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, _, error = run(*on(tree, "--epochs", 1, "--wandb", "--wandb_key", KEY))
    assert (code, error) == (0, "")
    (log,) = (place / "results/wandb").glob("offline-run-*/*.wandb")
    wanted = (b"quantized training/loss", b"test/decoded file/top-1 accuracy", b"ECQx_NNCodec")
    deadline = time.monotonic() + 60
    # A process of Weights & Biases writes it, and goes on after the run has ended.
    while not all(name in joined(log.read_bytes()) for name in wanted):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert KEY.encode() not in joined(log.read_bytes())
    files = [
        file for file in place.parent.rglob("*") if file.is_file() and tree not in file.parents
    ]
    assert all(place / "results" in file.parents for file in files)
    assert not any(KEY.encode() in file.read_bytes() for file in files)


def joined(log: bytes) -> bytes:
    """The records of a file of Weights & Biases, which come in pieces, 32 KiB a block."""
    block, header, records = 2**15, 7, b""
    for start in range(0, len(log), block):
        content = log[start : start + block]
        # The file has a header of its own, of the same length.
        position = header if start == 0 else 0
        while position + header <= len(content):
            length = int.from_bytes(content[position + 4 : position + 6], "little")
            position += header + length
            records += content[position - length : position]
    return records


@pytest.mark.parametrize("key", ["short", KEY[:-1], KEY[:-1] + "!", KEY + " "])
def test_a_key_that_cannot_be_one(tree: Path, refused: Refused, key: str) -> None:
    error = refused(*on(tree, "--wandb", "--wandb_key", key))
    assert "--wandb_key" in error
    assert key not in error


def test_wandb_that_is_not_installed(
    tree: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert "pip install 'ecqx[wandb]'" in refused(*on(tree, "--wandb"))


def test_a_server_that_refuses(
    tree: Path, place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def init(**settings: Any) -> None:
        (Path(settings["dir"]) / "wandb").mkdir()
        raise wandb.errors.CommError(f"The key {KEY} is not valid.\nAsk somebody else.")

    monkeypatch.setattr(wandb, "init", init)
    error = refused(*on(tree, "--wandb", "--wandb_key", KEY))
    assert "The key (key) is not valid; give a valid --wandb_key" in error


# -- DVCLive and TensorBoard -----------------------------------------------------------------------


def course(folder: Path, tracker: str) -> dict[str, list[tuple[int, float]]]:
    """What a tracker's files say of each number: (step, value)."""
    if tracker == "dvclive":
        files = sorted((folder / "plots/metrics").rglob("*.tsv"))
        rows = {file: list(csv.DictReader(file.open(), delimiter="\t")) for file in files}
        return {
            file.relative_to(folder / "plots/metrics").with_suffix("").as_posix(): [
                (int(row["step"]), float(row[file.stem])) for row in found
            ]
            for file, found in rows.items()
        }
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("tracker", ["dvclive", "tensorboard"])
def test_an_interrupted_course_goes_on(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    pytest.importorskip(tracker)
    arguments = on(tree, "--pretrain_epochs", 1, "--epochs", 2)
    step = Trainer.step

    def interrupted(self: Trainer, *batch: Any) -> Any:
        if self.quantizer is not None and len(self.history) == 1:
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", interrupted)
        assert run(*arguments, "--tracker", tracker)[0] == 130
    code, _, error = run(*arguments, "--tracker", tracker)
    assert code == 0
    assert all("goes on" in line or "not repeated" in line for line in error.splitlines())
    noted = record(place / "results")
    folder = place / "results" / tracker / "resnet20_folder_4bit_lam0.05"
    expected = {
        f"quantized training/{name}": [
            (number + 2, pytest.approx(epoch[key])) for number, epoch in enumerate(noted["epochs"])
        ]
        for name, key in (
            ("loss", "loss"),
            ("validation top-1 accuracy", "accuracy"),
            ("sparsity", "sparsity"),
        )
    }
    found = course(folder, tracker)
    assert {name: found[name] for name in expected} == expected
    assert found["bytes"] == [(3, noted["bytes"])]
    assert [number for number, _ in found["pre-training/loss"]] == [1]
    # Run again, it begins anew.
    assert run(*arguments, "--tracker", tracker)[0] == 0
    again = course(folder, tracker)
    assert {name: len(values) for name, values in again.items()} == {
        name: len(values) for name, values in found.items()
    }
    files = [file for file in place.rglob("*") if file.is_file()]
    assert all(place / "results" in file.parents for file in files)


def test_settings_are_shown_beside_the_numbers(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("dvclive")
    config = {"lam": 0.05, "lrp": True, "max_batches": None, "model": "resnet20"}
    with tracking.dvclive(tmp_path, "mine", config, resume=False):
        pass
    assert yaml.safe_load((tmp_path / "dvclive/mine/params.yaml").read_text()) == config


def test_several_trackers_at_once(
    tree: Path, run: Run, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "tensorboard", tracking.wandb)
    both = ("--tracker", "tensorboard", "--tracker", "wandb", "--wandb")
    assert run(*on(tree, "--epochs", 0, *both))[0] == 0
    assert len(recorders) == 2
    assert recorders[0].logged == recorders[1].logged != []
    assert all(recorder.finished for recorder in recorders)


@pytest.mark.parametrize("tracker", ["dvclive", "tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(
    tree: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert f"pip install 'ecqx[{tracker}]'" in refused(*on(tree, "--tracker", tracker))


def test_a_tracker_that_does_not_exist(tree: Path, refused: Refused) -> None:
    assert "dvclive" in refused(*on(tree, "--tracker", "paper"))
