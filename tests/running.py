"""What the tests of `ecqx run` share: the command in this process, and an image folder for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from ecqx.cli import main as cli
from ecqx.experiment import remarks

# Limits of remarks on tiny data, which most tests of `ecqx run` have.
REMARKS = {name: getattr(remarks, name) for name in ("FEW_SAMPLES", "FEW_STEPS", "DEVIATIONS")}
Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str
) -> Run:
    """Runs the program `ecqx` in this process: exit code, stdout, stderr."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ecqx", *command, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run_command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, without network and without a person's settings."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("ECQX_DATA", "WANDB_API_KEY", "WANDB_MODE", "WANDB_CACHE_DIR", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def get(_: requests.Session, url: str, **__: Any) -> None:
        raise requests.exceptions.SSLError

    monkeypatch.setattr(requests.Session, "get", get)
    return here


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`ecqx run` in this process, without its remarks on tiny data."""
    for name, value in {"FEW_SAMPLES": 0, "FEW_STEPS": 0, "DEVIATIONS": -1e9}.items():
        monkeypatch.setattr(remarks, name, value)
    return in_this_process(monkeypatch, capsys, "run")


@pytest.fixture
def refused(run: Run, place: Path) -> Refused:
    """Run a command that must be refused with one line and leave nothing; returns the line."""

    def run_refused(*arguments: object) -> str:
        before = sorted(place.parent.rglob("*"))
        code, out, error = run(*arguments)
        assert (code, out) == (2, "")
        assert error.startswith("ecqx: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        assert sorted(place.parent.rglob("*")) == before
        return error

    return run_refused


def write_tree(root: Path, train: int = 12, test: int = 5, side: int = 8) -> Path:
    """An image folder of three classes, which differ in their colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for k, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (side, side, 3), dtype=np.uint8)
                pixels[..., 2 - k] += 60
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "colours")


def on(tree: Path, *more: object) -> list[object]:
    """Arguments of a quick experiment on an image folder, with two batches an epoch."""
    small = ("--image_size", 8, "--batch_size", 8, "--max_batches", 2, "--model_rand_int")
    return ["--dataset", "folder", "--data_path", tree, *small, *more]


def record(results: Path) -> dict[str, Any]:
    (path,) = results.glob("*.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content
