"""Stages that are killed; run as a script, a stage that notes its epochs: STAGE SUITE LOG."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import torch

from ecqx.experiment.jobs import NO_PROGRESS, PROCESSES
from ecqx.training.trainer import Epoch, Trainer
from stages.command import run_command_line


class Victim:
    """A stage in a folder where those before it have run.

    ``outputs`` are the paths that it writes; DVC removes them before it runs a stage.
    """

    def __init__(self, place: Path, suite: str, stage: str, outputs: Iterable[str]) -> None:
        self.place = place
        self.log, self.progress = place / f"{stage}.log", place / "work" / stage
        self.outputs = [place / name.replace("${suite}", suite) for name in outputs]
        self.command = [sys.executable, __file__, stage, suite, str(self.log)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it without its outputs, in a process group of its own."""
        for path in self.outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != NO_PROGRESS}
        environment |= {PROCESSES: "1", "PYTHONPATH": str(self.place)}
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        return subprocess.Popen(
            self.command, cwd=self.place, env=environment, start_new_session=True, **quiet
        )

    def finish(self) -> float:
        """Run it to its end; the seconds that it took."""
        started = time.monotonic()
        assert self.start().wait() == 0
        return time.monotonic() - started

    def kill_after(self, seconds: float) -> bool:
        """Start it and kill it at that moment; False if it had ended before."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return True
        return False

    def forget(self) -> None:
        """Remove its progress, so that it has work to do."""
        shutil.rmtree(self.progress, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def written(self) -> dict[str, str]:
        """Checksum of each output file."""
        return dict(self._digests(*self.outputs))

    def saved(self) -> dict[str, str]:
        """Checksum of each file of its progress."""
        return dict(self._digests(self.progress))

    def half_written(self, outputs: dict[str, str], progress: dict[str, str]) -> list[str]:
        """Files under their final names that are not those of an undisturbed run."""
        wrong = [name for name, digest in self.written().items() if outputs.get(name) != digest]
        for name, digest in self.saved().items():
            is_whole = progress.get(name) == digest
            # A saved state is removed at the end: there is nothing to compare it with.
            if not (_is_readable(self.place / name) if name.endswith(".pt") else is_whole):
                wrong.append(name)
        return wrong

    def epochs(self) -> tuple[int, int]:
        """Epochs that were trained since `forget`, and those of them that had been saved before."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        saved, trained, repeated = set[str](), 0, 0
        for line in lines:
            what, _, epoch = line.partition(" ")
            if what == "saved":
                saved.add(epoch)
            else:
                trained += 1
                repeated += epoch in saved
        return trained, repeated

    def _digests(self, *paths: Path) -> Iterator[tuple[str, str]]:
        """Checksums of complete files; those in progress have a name that begins with a dot."""
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not file.name.startswith("."):
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    yield str(file.relative_to(self.place)), digest


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `Victim.start` with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_readable(path: Path) -> bool:
    try:
        return "history" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a truncated file raises nearly anything
        return False


def run_noting_epochs(arguments: list[str]) -> int:
    """Run a stage that adds a line to the log when an epoch was trained and when it was saved."""
    stage, suite, log = arguments
    module = import_module(f"stages.{stage}")
    fit, run_epoch, save = Trainer.fit, Trainer.run_epoch, Trainer.save

    def note(trainer: Trainer, what: str) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, f"{what} {trainer.watched} {len(trainer.history)}\n".encode())  # type: ignore[attr-defined]
        os.close(descriptor)

    def watched_fit(self: Trainer, resume: Path) -> list[Epoch]:
        self.watched = resume.parent.name  # type: ignore[attr-defined]
        return fit(self, resume=resume)

    def watched_epoch(self: Trainer) -> Epoch:
        epoch = run_epoch(self)
        note(self, "trained")
        return epoch

    def watched_save(self: Trainer, path: Path) -> None:
        save(self, path)
        note(self, "saved")

    Trainer.fit, Trainer.run_epoch, Trainer.save = watched_fit, watched_epoch, watched_save  # type: ignore[method-assign]
    code: int = module.main([suite])
    return code


if __name__ == "__main__":
    sys.exit(run_command_line(lambda words: run_noting_epochs(list(words))))
