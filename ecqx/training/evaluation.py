"""How good a network is on a split."""

from __future__ import annotations

import torch
from torch import nn

from ecqx.data.tensors import Split
from ecqx.modules import evaluation_mode, main_output
from ecqx.training.objectives import Scores, objective_of

# What the inputs of one batch of an evaluation may hold, in elements.
EVALUATED_AT_ONCE = 2**24


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> float:
    """The metric that the split's targets ask for: of `scores`, the first.

    Parameters
    ----------
    model : Module
        Evaluated in eval mode, its modules' modes are restored.
    split : Split
    batch_size : int
        At most; images that are large go through in smaller batches.

    Returns
    -------
    float
        Fraction of one.
    """
    return scores(model, split, batch_size)[objective_of(split.targets).metric]


@torch.no_grad()
def scores(model: nn.Module, split: Split, batch_size: int = 512) -> Scores:
    """All metrics that the split's targets ask for, by name; parameters as for `evaluate`."""
    elements = split.inputs[0].numel()
    batches = split.batches(max(1, min(batch_size, EVALUATED_AT_ONCE // elements)))
    with evaluation_mode(model):
        return objective_of(split.targets).score((main_output(model(x)), y) for x, y in batches)
