"""What a method's training step costs, beside a step in full precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecqx.experiment.train import Training
from ecqx.training.device import find_device
from ecqx.training.step_cost import step_cost


@dataclass(frozen=True)
class Cost:
    """A job (`ecqx.experiment.jobs.Job`) that counts the work of a training's step.

    It is the same for every seed, so that one training stands for all of them.

    Attributes
    ----------
    training : Training
        With a method that constrains the weights.
    key : str
        Hash of everything that the cost depends on.
    """

    training: Training
    key: str

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        """Count both steps on one batch; nothing is written.

        Returns
        -------
        dict
            ``cost``: floating-point operations of a step of the training over those of a step in
            full precision.
        """
        device = find_device(self.training.device)
        data = self.training.task.load_data(device)
        batch = next(data.train.batches(self.training.fit.batch_size))
        constrained, _ = self.training.prepare(data, device)
        plain, _ = replace(self.training, method=None).prepare(data, device)
        return {"cost": step_cost(constrained, *batch) / step_cost(plain, *batch)}
