"""Where data and checkpoints are looked for, and what the first stage makes of them."""

from __future__ import annotations

import io
import socket
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_suite import changed, write
from PIL import Image

from ecqx.coding.coded_state import read_coded_state
from ecqx.data import TensorData, downloads, speech
from ecqx.errors import InputError
from stages import download
from stages.command import run_command_line
from stages.download import VARIABLE, choose, data_roots, find_checkpoint
from stages.settings.base import load
from stages.settings.data import Digits, DownloadSettings, ImageFolder
from stages.settings.tasks import Start


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with no folder named from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


# -- folders ---------------------------------------------------------------------------------------


def test_roots_are_folders_some_in_the_home_of_a_person() -> None:
    assert data_roots(["here", "../there"]) == [Path("here"), Path("../there")]
    assert data_roots(["~/sets"]) == [Path.home() / "sets"]


@pytest.mark.parametrize("root", [None, "", "datasets", [], 5, [1], ["x", ""]])
def test_roots_that_are_none(root: object) -> None:
    write(changed(("data.root", root)))
    with pytest.raises(InputError) as caught:
        load("smoke", DownloadSettings)
    assert one_line(caught.value).startswith("params.yaml: data.root")


def test_the_environment_names_a_folder_in_their_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(folder))
    assert data_roots(["here"]) == [folder]
    monkeypatch.setenv(VARIABLE, "")
    assert data_roots(["here"]) == [Path("here")]
    (folder / "file").touch()
    for wrong in ("missing", "file"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(InputError) as caught:
            data_roots(["here"])
        assert one_line(caught.value) == f"{VARIABLE}: {wrong} is no folder with data sets"


# -- data sets -------------------------------------------------------------------------------------


def things(path: str = "things", validation: int = 2) -> ImageFolder:
    return ImageFolder(name="image_folder", path=path, validation=validation, seed=0, size=8)


def write_images(path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for word in ("ant", "bee"):
            (path / split / word).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / word / f"{i}.png")
    return path


def test_the_first_available_data_set_is_taken(folder: Path) -> None:
    roots = [folder / "one", folder / "two"]
    first, second, last = things("first"), things("second"), things("last")
    assert choose([first, second, last], roots) == (last, roots[0])
    write_images(roots[1] / "second")
    assert choose([first, second, last], roots) == (second, roots[1])
    write_images(roots[0] / "second")
    assert choose([first, second, last], roots) == (second, roots[0])
    # The order of the data sets counts for more than that of the folders.
    write_images(roots[1] / "first")
    assert choose([first, second, last], roots) == (first, roots[1])
    digits = Digits(name="digits", seed=0)
    assert choose([last, digits], roots) == (digits, roots[0])


@pytest.mark.parametrize("ending", [".tar.xz", ".tar.gz", ".tar"])
def test_archives_count_as_available(folder: Path, ending: str) -> None:
    tree = write_images(folder / "things")
    whole = things().build(folder, 1)
    path = folder / "packed" / f"things{ending}"
    path.parent.mkdir()
    with tarfile.open(path, "w" if ending == ".tar" else f"w:{ending[5:]}") as tar:  # type: ignore[call-overload]
        tar.add(tree, "things")
    assert things().available(path.parent)
    packed = things().build(path.parent, 1)
    assert torch.equal(packed.train.inputs, whole.train.inputs)
    assert packed.label == whole.label == "things"


def test_an_image_folder_that_is_nowhere(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        things().build(folder, 1)
    assert one_line(caught.value).startswith(f"{folder / 'things'}: no such folder (train/<class>/")


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "models", "../models"])
def test_checkpoints_lie_in_the_root_or_its_models_or_beside_it(folder: Path, place: str) -> None:
    roots = [folder / "a" / "data", folder / "b" / "data"]
    for root in roots:
        root.mkdir(parents=True)
    file = (roots[1] / place).resolve() / "start.pt"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    found = find_checkpoint(Start(checkpoint="start.pt"), roots)
    assert found is not None
    assert found.resolve() == file
    (roots[0] / "start.pt").touch()
    assert find_checkpoint(Start(checkpoint="start.pt"), roots) == roots[0] / "start.pt"


def test_checkpoints_that_are_nowhere(folder: Path) -> None:
    (folder / "start.pt").mkdir()  # a folder is no checkpoint
    assert find_checkpoint(Start(checkpoint="start.pt", required=False), [folder]) is None
    with pytest.raises(InputError) as caught:
        find_checkpoint(Start(checkpoint="start.pt"), [folder, folder / "x"])
    message = one_line(caught.value)
    assert message.startswith(f"start.pt: not in {folder} or {folder / 'x'}, ")
    assert "data.root" in message
    assert VARIABLE in message


# -- the stage -------------------------------------------------------------------------------------

Ran = tuple[int, str]
Run = Callable[..., Ran]
START = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


def params(
    data: list[dict[str, Any]], start: dict[str, Any] | None, root: object = ("sets",)
) -> dict[str, Any]:
    """Suite smoke with one data set and one task."""
    model = {"name": "mlp_gsc", "in_features": 192, "num_classes": 2}
    task = {"data": "made", "model": model} | ({"start": start} if start else {})
    roots = list(root) if isinstance(root, tuple) else root
    return changed(("data", {"root": roots, "sets": {"made": data}}), ("tasks", {"mlp": task}))


IMAGES = {"name": "image_folder", "path": "things", "validation": 2, "seed": 0, "size": 8}
SPEECH = {
    **{"name": "speech_commands", "archive": "test", "seed": 0, "draws": 2, "volume": 0.1},
    **{"coefficients": 15, "window": 4096, "hop": 640},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the stage: its exit code and what it wrote to stderr."""

    def stage(settings: dict[str, Any]) -> Ran:
        write(settings)
        monkeypatch.setattr(sys, "argv", ["download", "smoke"])
        code = run_command_line(download.main)
        out, error = capfd.readouterr()
        assert out == ""
        return code, error

    return stage


def files(folder: Path) -> set[str]:
    """What lies in the working directory, but for the given data and the settings."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {name for name in found if not name.startswith(("sets/", "params.yaml"))}


def test_data_and_starting_weights_are_written(folder: Path, run: Run) -> None:
    write_images(folder / "sets" / "things")
    (folder / "models").mkdir()
    torch.save({"state_dict": START}, folder / "models" / "start.pt")
    assert run(params([SPEECH, IMAGES], {"checkpoint": "start.pt"})) == (0, "made: things\n")
    written = {"data/smoke/made.safetensors", "data/smoke/starts/mlp.safetensors"}
    assert files(folder) == written | {"models/start.pt"}
    data = TensorData.load("data/smoke/made.safetensors")
    assert data.classes == ("ant", "bee")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 2, 4]
    expected = things().build(folder / "sets", 1)
    assert torch.equal(data.test.inputs, expected.test.inputs)
    assert data.train.preparation == expected.train.preparation
    state = read_coded_state("data/smoke/starts/mlp.safetensors").state
    assert state.keys() == START.keys()
    assert all(torch.equal(state[name], START[name]) for name in START)
    # Once more: the same bytes.
    before = {name: (folder / name).read_bytes() for name in written}
    assert run(params([SPEECH, IMAGES], {"checkpoint": "start.pt"}))[0] == 0
    assert {name: (folder / name).read_bytes() for name in written} == before


def test_the_environment_decides_where_to_look(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(folder / "elsewhere" / "things")
    monkeypatch.setenv(VARIABLE, "elsewhere")
    assert run(params([IMAGES], None)) == (0, "made: things\n")
    monkeypatch.setenv(VARIABLE, "nowhere")
    before = files(folder)
    assert run(params([IMAGES], None)) == (2, f"{VARIABLE}: nowhere is no folder with data sets\n")
    assert files(folder) == before


def test_a_start_that_is_not_required_may_be_missing(folder: Path, run: Run) -> None:
    write_images(folder / "sets" / "things")
    settings = params([IMAGES], {"checkpoint": "start.pt", "required": False})
    torch.save(START, folder / "sets" / "start.pt")
    assert run(settings)[0] == 0
    assert (folder / "data/smoke/starts/mlp.safetensors").is_file()
    (folder / "sets" / "start.pt").unlink()
    code, said = run(settings)
    assert code == 0
    assert "mlp: no start.pt, starts at random\n" in said
    # Weights of an earlier run would be taken for this one's.
    assert files(folder) == {"data/smoke/made.safetensors"}


@pytest.mark.parametrize("content", [None, b"no checkpoint", b""])
def test_a_start_that_is_missing_or_damaged_is_told_before_data_are_read(
    folder: Path, run: Run, content: bytes | None
) -> None:
    write_images(folder / "sets" / "things")
    if content is not None:
        (folder / "sets" / "start.pt").write_bytes(content)
    code, said = run(params([IMAGES], {"checkpoint": "start.pt"}))
    assert code == 2
    assert said.count("\n") == 1
    assert "start.pt" in said
    assert files(folder) == set()


def test_data_that_cannot_be_read_leave_nothing(folder: Path, run: Run) -> None:
    path = write_images(folder / "sets" / "things")
    torch.save(START, folder / "sets" / "start.pt")
    (path / "train" / "bee" / "3.png").write_bytes(b"no image")
    code, said = run(params([IMAGES], {"checkpoint": "start.pt"}))
    assert code == 2
    assert said.startswith("sets/things: train/bee/3.png: ")
    assert said.count("\n") == 1
    assert files(folder) == set()


def test_without_network_and_data(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/archive.tar.gz"
        closed = replace(speech.SOURCES["test"], url=url)
        monkeypatch.setitem(speech.SOURCES, "test", closed)
        monkeypatch.setattr(downloads, "RETRIES", 0)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        code, said = run(params([IMAGES, SPEECH], None, root=("sets", "other")))
    assert (code, said.count("\n")) == (2, 1)
    assert url in said
    assert "data.root" in said
    assert VARIABLE in said
    assert files(folder) == set()
    assert not [path for path in folder.rglob("sets/[!.]*") if path.is_file()]


def test_a_damaged_archive_is_told(folder: Path, run: Run) -> None:
    tree, packed = write_images(folder / "tree"), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        tar.add(tree, "things")
    (folder / "sets").mkdir()
    (folder / "sets" / "things.tar.xz").write_bytes(packed.getvalue()[:-200])
    code, said = run(params([IMAGES], None))
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("sets/things.tar.xz: ")
    assert not (folder / "data").exists()
