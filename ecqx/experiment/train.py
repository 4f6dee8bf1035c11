"""One training of a pipeline, from a checkpoint or random weights to an uncoded model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ecqx.coding.coded_state import read_coded_state, write_coded_state
from ecqx.data.tensors import TensorData
from ecqx.experiment.task import Task
from ecqx.models.loading import load_weights
from ecqx.training.constraint import Constraint
from ecqx.training.device import find_device
from ecqx.training.settings import FitSettings, steps_per_epoch
from ecqx.training.trainer import Trainer

if TYPE_CHECKING:
    from ecqx.methods.interface import Method

RESULT = "network.safetensors"


@dataclass(frozen=True)
class Training:
    """A training job (`ecqx.experiment.jobs.Job`).

    Without a ``method`` it trains in full precision, without a ``start`` (a checkpoint of
    `write_coded_state`) from random weights. ``key`` is a hash of the other fields, the data, the
    start's contents and the code.
    """

    task: Task
    fit: FitSettings
    seed: int
    method: Method | None
    start: Path | None
    device: str
    key: str

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        """Train, or resume from saved progress; returns ``history``, a record an epoch."""
        device = find_device(self.device)
        data = self.task.load_data(device)
        trainer, constraint = self.prepare(data, device)
        history = trainer.fit(resume=progress)
        if self.method is None or constraint is None:
            write_coded_state(folder / RESULT, trainer.model.state_dict(), {})
        else:
            self.method.save(folder / RESULT, trainer.model, constraint)
        return {"history": [asdict(epoch) for epoch in history]}

    def prepare(self, data: TensorData, device: torch.device) -> tuple[Trainer, Constraint | None]:
        """The trainer at its start, and the method's constraint on the weights."""
        model = self.task.build(self.seed)
        if self.start is not None:
            load_weights(model, read_coded_state(self.start).state, str(self.start))
        model.to(device)
        fit, constraint = self.fit, None
        if self.method is not None:
            constraint = self.method.constrain(
                model, fit.epochs * steps_per_epoch(len(data.train), fit)
            )
            if self.method.selection == "last":
                fit = replace(fit, selection="last")
        return Trainer(model, data.train, data.validation, fit, self.seed, constraint), constraint
