"""`ecqx run`: an experiment that is interrupted ends as if it had not been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import torch
from running import Run, on, write_tree

import ecqx
from ecqx import models
from ecqx.coding import bitstream
from ecqx.experiment.run import GOES_ON

# The fixtures of these tests.
place, run, tree = running.place, running.run, running.tree


@pytest.mark.parametrize("model", ["resnet20", "squeezenet1_1"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The second network has dropout."""
    arguments = on(tree, "--epochs", 3, "--pretrain_epochs", 1, "--lrp", "--model", model)
    arguments += ["--image_size", 20]
    assert run(*arguments, "--results", "whole")[0] == 0
    update = ecqx.ECQx.update
    steps = []

    def interrupted(self: ecqx.ECQx, x: Any, y: Any) -> None:
        steps.append(len(y))
        if len(steps) == 4:
            raise KeyboardInterrupt
        update(self, x, y)

    with monkeypatch.context() as patched:
        patched.setattr(ecqx.ECQx, "update", interrupted)
        code, out, error = run(*arguments)
    assert (code, out) == (130, "")
    assert error.strip() == f"ecqx: interrupted; {GOES_ON}"
    assert not list((place / "results").glob("*.ecqx"))
    code, _, error = run(*arguments)
    assert code == 0
    assert "quantized training goes on after its last finished epoch" in error
    for whole in (place / "whole").iterdir():
        assert (place / "results" / whole.name).read_bytes() == whole.read_bytes()
    # File, record and pre-trained network, but no progress.
    assert len(list((place / "results").iterdir())) == 3


def test_other_settings_do_not_go_on(
    tree: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bitstream, "save", stop)
        assert run(*on(tree, "--epochs", 1))[0] == 130
    for other in (["--lr", 0.01], ["--model_path", "other.pt"], ["--data_path", "more"]):
        write_tree(place / "more", train=13) if "more" in other else None
        torch.save(models.build("resnet20", num_classes=3).state_dict(), place / "other.pt")
        arguments = on(tree, "--epochs", 1, *other)
        if "other.pt" in other:
            arguments.remove("--model_rand_int")
        code, _, error = run(*arguments)
        assert code == 0
        assert "goes on" not in error
        for result in (place / "results").glob("resnet20*"):
            result.unlink()
    assert "goes on" in run(*on(tree, "--epochs", 1))[2]


def test_progress_belongs_to_the_device_that_is_found(
    tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with monkeypatch.context() as patched:
        patched.setattr(bitstream, "save", stop)
        assert run(*on(tree, "--epochs", 1, "--device", "auto"))[0] == 130
    assert "goes on" in run(*on(tree, "--epochs", 1, "--device", "cpu"))[2]
