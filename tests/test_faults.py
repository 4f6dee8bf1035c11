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
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, chdir, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Victim, end
from running import in_this_process
from tiny import tiny
from workplace import OUTPUTS, prepare, run_stages, working_in, write_settings

from ecqx.data.tensors import Split, TensorData
from ecqx.experiment import jobs
from ecqx.experiment.jobs import PROGRESS, RECORD
from ecqx.experiment.task import Task
from ecqx.experiment.train import RESULT, Training
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer
from stages.command import run_command_line

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

BEFORE_REPORT = ("fingerprint", "download", "pretrain", "quantize", "encode", "evaluate")
Digests = dict[str, bytes]


def tiny_with_one_seed(**task: object) -> dict[str, Any]:
    return tiny(**task) | {"seeds": [0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipeline ran."""
    place = prepare(tmp_path_factory.mktemp("faults") / "place", tiny_with_one_seed())
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


NO_SPACE, TOO_LARGE = "No space left on device", "File too large"


@pytest.mark.parametrize(
    ("stage", "folder", "name", "limit", "told"),
    [
        ("pretrain", "work", f"/{PROGRESS}", small_disk, NO_SPACE),
        ("pretrain", "work", f"/{PROGRESS}", small_files, TOO_LARGE),
        # Second names of the files in work/, and copies on another disk.
        ("pretrain", "checkpoints", "checkpoints/smoke/mlp-0.safetensors", small_disk, NO_SPACE),
        ("encode", "bitstreams", ".ecqx", small_disk, NO_SPACE),
        ("encode", "bitstreams", ".ecqx", small_files, TOO_LARGE),
    ],
)
def test_a_full_disk(
    place: Path,
    ends: Callable[[str], tuple[int, str]],
    stage: str,
    folder: str,
    name: str,
    limit: Callable[[str], AbstractContextManager[None]],
    told: str,
) -> None:
    expected, work = contents("checkpoints", "bitstreams"), contents("work")
    others = contents("data", "quantized", "results")
    shutil.rmtree(folder)
    with limit(folder):
        result = ends(stage)
        assert_one_line(result, name, told)
        # What had room before is whole, and nothing else is there.
        whole = expected | work
        assert all(whole.get(path) == content for path, content in contents(folder).items())
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


@contextmanager
def interrupted_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have trainings interrupted as soon as they have saved their first epoch."""
    save = Trainer.save

    def then_interrupt(trainer: Trainer, path: Path) -> None:
        save(trainer, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", then_interrupt)
        yield


def test_damaged_progress_is_told_and_damaged_results_are_made_again(
    place: Path, ends: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents("checkpoints", "quantized")
    for result in Path("work/quantize").glob(f"*/{RESULT}"):
        cut_off(result)
    next(Path("work/quantize").glob(f"*/{RECORD}")).write_text('{"reco')
    assert ends("quantize")[0] == 0
    shutil.rmtree("work/pretrain")
    with interrupted_after_an_epoch(monkeypatch):
        assert ends("pretrain")[0] == 130
    (progress,) = Path("work/pretrain").glob(f"*/{PROGRESS}")
    cut_off(progress)
    assert_one_line(ends("pretrain"), str(progress), "delete it to begin anew")
    progress.unlink()
    assert ends("pretrain")[0] == 0
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
    for record in Path("work/pretrain").glob(f"*/{RECORD}"):
        record.unlink()
        write_malicious(progress := record.with_name(PROGRESS))
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
    write_settings(Path(), tiny_with_one_seed(start={"checkpoint": "evil.pt"}))
    write_malicious(Path("datasets/evil.pt"))
    assert_one_line(ends("download"), "evil.pt", "no checkpoint that can be loaded safely")
    assert not Path("harm").exists()


# -- kills -----------------------------------------------------------------------------------------


def test_a_killed_stage_goes_on_after_its_last_epoch(place: Path) -> None:
    """One kill, at the first epoch that is saved; `make verify` has many, at random moments."""
    expected = contents("checkpoints")
    shutil.rmtree("work")
    victim = Victim(place, "smoke", "pretrain", OUTPUTS["pretrain"])
    process = victim.start()
    while not victim.log.exists() or "saved" not in victim.log.read_text():
        assert process.poll() is None
        time.sleep(0.005)
    end(process)
    victim.finish()
    trained, repeated = victim.epochs()
    assert repeated == 0
    assert trained >= 3  # those of one seed
    assert contents("checkpoints") == expected


@dataclass(frozen=True)
class Counted:
    """A job that takes a while and notes that it ran."""

    key: str = "key"

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        with Path("ran").open("a") as log:
            log.write(".")
        time.sleep(0.3)
        (folder / "result").write_text("whole")
        return {}


def test_suites_that_need_the_same_training_at_once_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(jobs.PROCESSES, "1")
    with ThreadPoolExecutor() as suites:
        found = list(suites.map(lambda name: jobs.run_jobs("kind", name, [Counted()]), "ab"))
    assert found[0] == found[1]
    assert Path("ran").read_text() == "."


def test_what_a_killed_write_left_is_no_part_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left = Path("work/kind/key/.result.abcdef.part")
    left.parent.mkdir(parents=True)
    left.write_text("hal")
    jobs.run_jobs("kind", "suite", [Counted()])
    left.unlink()
    jobs.run_jobs("kind", "suite", [Counted()])
    assert Path("ran").read_text() == "."


def with_dropout(folder: Path) -> Training:
    """A training of two epochs of a network with dropout."""
    noise = torch.Generator().manual_seed(0)
    split = Split(torch.rand(8, 3, 32, 32, generator=noise), torch.arange(8) % 3)
    data = folder / "data.safetensors"
    TensorData(split, split, split, tuple("abc"), "made").save(data)
    task = Task({"name": "squeezenet1_1", "num_classes": 3}, data)
    fit = FitSettings(epochs=2, lr=1e-4, batch_size=4, selection="last")
    return Training(task, fit, 1, None, None, "cpu", "key")


def test_an_interrupted_training_drops_what_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = with_dropout(tmp_path)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    expected = training.run(whole, whole / PROGRESS)
    with interrupted_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        training.run(resumed, resumed / PROGRESS)
    assert training.run(resumed, resumed / PROGRESS) == expected
    assert (resumed / RESULT).read_bytes() == (whole / RESULT).read_bytes()


def test_a_training_that_was_killed_at_its_end_repeats_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(jobs.PROCESSES, "1")
    training = with_dropout(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "checksum", killed)
        with pytest.raises(KeyboardInterrupt):
            jobs.run_jobs("kind", "suite", [training])
    monkeypatch.setattr(Trainer, "run_epoch", killed)
    folders = jobs.run_jobs("kind", "suite", [training])
    assert {path.name for path in folders["key"].glob("[!.]*")} == {RESULT, RECORD}
