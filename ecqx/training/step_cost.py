"""What a training costs, in counted work: the same on every machine."""

from __future__ import annotations

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ecqx.training.trainer import Trainer


def step_cost(trainer: Trainer, inputs: Tensor, targets: Tensor) -> int:
    """Floating-point operations of one training step: matrix products and convolutions.

    Parameters
    ----------
    trainer : Trainer
        Takes the step, so its model is another one afterwards.
    inputs, targets : Tensor
        The batch.

    Returns
    -------
    int
        Two for each multiplication and addition, of forward and backward passes and of the
        relevance; what is done a weight (quantizing, the optimizer) does not grow with the batch
        and is not counted.
    """
    with FlopCounterMode(display=False) as counter:
        trainer.step(inputs, targets)
    return int(counter.get_total_flops())
