"""A stage that notes its epochs: ``python -m stages.verify.watched STAGE SUITE LOG``.

One line as an epoch was trained, one as its state was saved: what was saved is never trained again.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from ecqx.training.trainer import Epoch, Trainer
from stages.command import run_command_line


def main(arguments: list[str]) -> int:
    """Run the stage in this process."""
    stage, suite, log = arguments
    module = import_module(f"stages.{stage}")
    _note_epochs(Path(log))
    code: int = module.main([suite])
    return code


def _note_epochs(log: Path) -> None:
    fit, run_epoch, save = Trainer.fit, Trainer.run_epoch, Trainer.save

    def note(trainer: Trainer, what: str) -> None:
        line = f"{what} {trainer.watched} {len(trainer.history)}\n"  # type: ignore[attr-defined]
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, line.encode())
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

    for name, watched in (
        ("fit", watched_fit),
        ("run_epoch", watched_epoch),
        ("save", watched_save),
    ):
        setattr(Trainer, name, watched)


if __name__ == "__main__":
    sys.exit(run_command_line(lambda words: main(list(words))))
