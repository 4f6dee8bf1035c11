"""What a full disk, a read-only folder, damage and malice do to the pipeline: one line, no loss."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from running import in_this_process
from tiny import REPOSITORY, tiny

from stages.command import run_command_line
from stages.verify import kills
from stages.verify.workplace import prepare, run_stages, working_in

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

BEFORE_REPORT = ("download", "pretrain", "quantize", "encode", "evaluate")
Digests = dict[str, bytes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline ran."""
    place = prepare(tmp_path_factory.mktemp("faults") / "place", REPOSITORY, tiny())
    with working_in(place):
        run_stages("smoke", *BEFORE_REPORT)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, and this process in it."""
    copy = tmp_path / "place"
    shutil.copytree(finished, copy, symlinks=True)
    monkeypatch.setenv("ECQX_PROCESSES", "1")
    with chdir(copy):
        yield copy


def contents(*folders: str) -> Digests:
    """Every file below, hidden ones too."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Run a stage as its command does: exit code and what it says."""

    def run(stage: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [stage, "smoke"])
        capsys.readouterr()
        code = run_command_line(import_module(f"stages.{stage}").main)
        return code, capsys.readouterr().err

    return run


def assert_one_line(result: tuple[int, str], *told: str) -> None:
    code, said = result
    assert code == 2, said
    lines = [line for line in said.splitlines() if line and "it/s" not in line]
    assert len(lines) == 1, said
    for words in told:
        assert words in lines[0]


# -- disks -----------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: str, options: str) -> Iterator[None]:
    Path(folder).mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def small_disk(folder: str) -> Iterator[None]:
    """A disk that is too small for a checkpoint, in the place of a folder."""
    with mounted(folder, "size=256k"):
        yield


@contextmanager
def small_files(_: str) -> Iterator[None]:
    """A limit of the system on the size of a file, which all networks exceed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("limit", "told"), [(small_disk, "No space left on device"), (small_files, "File too large")]
)
@pytest.mark.parametrize(
    ("stage", "folder", "name"),
    [
        ("pretrain", "checkpoints", "checkpoints/smoke/mlp-0.safetensors"),
        ("pretrain", "work", "/epoch.pt"),
        ("encode", "bitstreams", ".ecqx"),
    ],
)
def test_a_full_disk(
    place: Path,
    ends: Callable[[str], tuple[int, str]],
    limit: Callable[[str], AbstractContextManager[None]],
    told: str,
    stage: str,
    folder: str,
    name: str,
) -> None:
    expected = contents("checkpoints", "bitstreams")
    others = contents("data", "quantized", "results")
    shutil.rmtree(folder)
    with limit(folder):
        result = ends(stage)
        assert_one_line(result, name, told)
        # What had room before is whole, and nothing else is there.
        assert all(expected.get(path) == content for path, content in contents(folder).items())
    assert contents("data", "quantized", "results") == others
    assert ends(stage)[0] == 0
    assert contents("checkpoints", "bitstreams") == expected


def test_a_read_only_results_folder(place: Path, ends: Callable[[str], tuple[int, str]]) -> None:
    before = contents("results", "bitstreams", "quantized", "checkpoints")
    with mounted("results", "ro"):
        assert_one_line(ends("evaluate"), "results/smoke", "Read-only file system")
    assert contents("results", "bitstreams", "quantized", "checkpoints") == before
    shutil.rmtree("results/smoke")
    assert ends("evaluate")[0] == 0
    assert contents("results", "bitstreams", "quantized", "checkpoints") == before


# -- damage ----------------------------------------------------------------------------------------


def cut_off(path: Path) -> bytes:
    """Cut a file in half; what it held."""
    whole = path.read_bytes()
    path.unlink()  # other names of the same file keep what they have
    path.write_bytes(whole[: len(whole) // 2])
    return whole


@pytest.mark.parametrize(
    ("damaged", "stage"),
    [
        ("data/smoke/digits.safetensors", "pretrain"),
        ("data/smoke/digits.safetensors", "evaluate"),
        ("checkpoints/smoke/mlp-0.safetensors", "quantize"),
        ("quantized/smoke/*.safetensors", "encode"),
        ("bitstreams/smoke/*.ecqx", "evaluate"),
    ],
)
def test_a_damaged_input_is_named(
    place: Path, ends: Callable[[str], tuple[int, str]], damaged: str, stage: str
) -> None:
    outputs = ("checkpoints", "quantized", "bitstreams", "results")
    expected = contents(*outputs)
    path = next(Path().glob(damaged))
    whole = cut_off(path)
    assert_one_line(ends(stage), str(path))
    path.write_bytes(whole)
    assert ends(stage)[0] == 0
    assert contents(*outputs) == expected


def test_damaged_progress_is_told_and_damaged_results_are_made_again(
    place: Path, ends: Callable[[str], tuple[int, str]]
) -> None:
    expected = contents("checkpoints", "quantized")
    progress = next(Path("work/pretrain").glob("*/epoch.pt"))
    cut_off(progress)
    assert_one_line(ends("pretrain"), str(progress), "delete it to begin anew")
    progress.unlink()
    assert ends("pretrain")[0] == 0
    for result in Path("work/quantize").glob("*/result.safetensors"):
        cut_off(result)
    next(Path("work/quantize").glob("*/history.json")).write_text('[{"lo')
    assert ends("quantize")[0] == 0
    assert contents("checkpoints", "quantized") == expected


# -- malice ----------------------------------------------------------------------------------------


class Malicious:
    """Unpickled as pickle does by itself, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def write_malicious(path: Path) -> None:
    """A file that does harm where it is unpickled, as is shown first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pickle.loads(pickle.dumps(Malicious()))
    Path("harm").rmdir()
    torch.save({"state_dict": {"w": Malicious()}, "history": Malicious()}, path)


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "ecqx"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "{}", "--output", "out.ecqx"],
        ["decode", "{}", "--output", "out.safetensors"],
        ["info", "{}"],
        ["run", "--model", "mlp_gsc", "--dataset", "digits", "--model_path", "{}"],
    ],
)
def test_commands_refuse_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_malicious(Path(f"evil.{suffix}"))
    filled = [word.format(f"evil.{suffix}") for word in arguments]
    code, out, said = in_this_process(monkeypatch, capsys, filled[0])(*filled[1:])
    assert (code, out) == (2, "")
    assert f"evil.{suffix}" in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"evil.{suffix}"]


def test_stages_refuse_code(place: Path, ends: Callable[[str], tuple[int, str]]) -> None:
    for progress in Path("work/pretrain").glob("*/epoch.pt"):
        write_malicious(progress)
        assert_one_line(ends("pretrain"), str(progress), "damaged")
        progress.unlink()
    for path, stage in (
        (Path("checkpoints/smoke/mlp-0.safetensors"), "quantize"),
        (next(Path("bitstreams/smoke").glob("*.ecqx")), "evaluate"),
        (next(Path("quantized/smoke").glob("*.safetensors")), "encode"),
        (Path("data/smoke/digits.safetensors"), "pretrain"),
    ):
        write_malicious(path)
        assert ends(stage)[0] == 2
    assert not Path("harm").exists()


def test_a_start_that_holds_code_is_refused(
    place: Path, ends: Callable[[str], tuple[int, str]]
) -> None:
    Path("params.yaml").write_text(tiny(start={"checkpoint": "evil.pt"}))
    write_malicious(Path("datasets/evil.pt"))
    assert_one_line(ends("download"), "evil.pt", "no checkpoint that can be loaded safely")
    assert not Path("harm").exists()


# -- kills -----------------------------------------------------------------------------------------


def test_a_killed_stage_goes_on_after_its_last_epoch(place: Path) -> None:
    """One kill, at the first epoch that is saved; `make verify` has many, at random moments."""
    expected = contents("checkpoints")
    shutil.rmtree("work")
    victim = kills.Victim(place, "smoke", "pretrain")
    process = victim.start()
    while not victim.log.exists() or "saved" not in victim.log.read_text():
        assert process.poll() is None
        time.sleep(0.005)
    kills.end(process)
    victim.finish()
    trained, repeated = victim.epochs()
    assert repeated == 0
    assert trained >= 6  # two seeds, three epochs
    assert contents("checkpoints") == expected
