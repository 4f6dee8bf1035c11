"""The metrics of a network on a split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ecqx.data.tensors import Split
from ecqx.labels import is_labelled
from ecqx.modules import evaluation_mode, main_output
from ecqx.training.objectives import CLASSIFICATION, Scores, objective_of

# Elements that the inputs of one batch may hold.
MOST_ELEMENTS = 2**24


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> float:
    """The metric of a model that models are selected by (`Objective.metric`), a fraction of one.

    The model is evaluated in eval mode and its modes are restored. ``batch_size`` is an upper
    limit: large images are evaluated in smaller batches.
    """
    return scores(model, split, batch_size)[objective_of(split.targets).metric]


@torch.no_grad()
def scores(model: nn.Module, split: Split, batch_size: int = 512) -> Scores:
    """All metrics of a model on a split by name, otherwise as `evaluate`."""
    with evaluation_mode(model):
        return objective_of(split.targets).score(_outputs(model, split, batch_size))


def _outputs(
    model: nn.Module, split: Split, batch_size: int = 512
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets of all batches."""
    for x, y in batches_to_evaluate(split, batch_size):
        yield main_output(model(x)), y


@torch.no_grad()
def scores_and_loss(model: nn.Module, split: Split) -> tuple[Scores, float]:
    """All metrics as `scores`, and the mean loss of the samples."""
    objective = objective_of(split.targets)
    total = 0.0

    def outputs() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal total
        for logits, y in _outputs(model, split):
            total += float(objective.loss(logits, y)) * len(y)
            yield logits, y

    with evaluation_mode(model):
        found = objective.score(outputs())
    return found, total / len(split)


@torch.no_grad()
def scores_and_correct(model: nn.Module, split: Split) -> tuple[Scores, Tensor | None]:
    """All metrics as `scores`, and whether each sample that has a label is classified correctly.

    The latter is a tensor of bool on the CPU, shape (N,); None in tasks of other kinds, whose
    samples have several labels.
    """
    objective = objective_of(split.targets)
    found: list[Tensor] = []

    def outputs() -> Iterator[tuple[Tensor, Tensor]]:
        for logits, y in _outputs(model, split):
            if objective is CLASSIFICATION:
                found.append((logits.argmax(1) == y)[is_labelled(y, logits.shape[1])])
            yield logits, y

    with evaluation_mode(model):
        metrics = objective.score(outputs())
    return metrics, torch.cat(found).cpu() if found else None


def batches_to_evaluate(split: Split, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a split in order, smaller than ``batch_size`` where samples are large."""
    elements = split.inputs[0].numel()
    return split.batches(max(1, min(batch_size, MOST_ELEMENTS // elements)))
