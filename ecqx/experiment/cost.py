"""What a method's training step costs, relative to a step in full precision, in counted work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ecqx.experiment.train import Training
from ecqx.training.device import find_device
from ecqx.training.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """A job (`ecqx.experiment.jobs.Job`) that counts the work of a training step.

    It is the same for every seed: one ``training``, with a method, stands for all.
    """

    training: Training
    key: str

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        """Count one step of the training and one in full precision; ``cost`` is their quotient."""
        device = find_device(self.training.device)
        data = self.training.task.load_data(device)
        batch = next(data.train.batches(self.training.fit.batch_size))
        constrained, _ = self.training.prepare(data, device)
        plain, _ = replace(self.training, method=None).prepare(data, device)
        return {"cost": step_cost(constrained, *batch) / step_cost(plain, *batch)}


def step_cost(trainer: Trainer, inputs: Tensor, targets: Tensor) -> int:
    """Floating-point operations of matrix products and convolutions in one training step.

    Two for each multiplication and addition, of forward and backward passes and of the relevance.
    What is done once a weight (quantizing, the optimizer) does not grow with the batch and is not
    counted. The steps change the trainer's model.
    """
    # The first step with relevance also runs the model once to place the rules.
    trainer.step(inputs, targets)
    with FlopCounterMode(display=False) as counter:
        trainer.step(inputs, targets)
    return int(counter.get_total_flops())
