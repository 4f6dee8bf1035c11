"""Remarks of one line about settings, data and result that a person should look at again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ecqx.data.tensors import Split, TensorData
from ecqx.errors import InputWarning
from ecqx.experiment.search_settings import SearchSettings
from ecqx.experiment.settings import RunSettings
from ecqx.labels import is_labelled
from ecqx.models.networks import MODELS
from ecqx.training.objectives import SEGMENTATION, objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch

# Fewer validation samples, or training steps an epoch, are worth a remark.
FEW_SAMPLES, FEW_STEPS = 100, 10
# An accuracy is called at chance if it exceeds chance by at most this many standard errors.
DEVIATIONS = 2.0
# Samples whose labels are counted together.
_PART = 512


def remark(line: str) -> None:
    """Make a remark, which commands print as one line."""
    warnings.warn(line, InputWarning, stacklevel=2)


@contextmanager
def interruption_explained(how: str) -> Iterator[None]:
    """Add to a ``KeyboardInterrupt`` of the block how its work goes on; commands print it."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(how)
        raise


def remarks_before(
    settings: RunSettings,
    data: TensorData,
    still_random: Sequence[str],
    on_relevance: Sequence[str],
) -> Iterator[str]:
    """Remarks before the training.

    ``still_random`` are tensors that no weights were loaded into, ``on_relevance`` what
    `ecqx.relevance.weights.Attributor` remarks.
    """
    if still_random:
        yield (
            "the weights to start from are for another number of classes: "
            f"{', '.join(still_random)} start from random values"
        )
    no_weights = settings.model_path is None and not settings.model_rand_int
    if no_weights and settings.model in MODELS and not settings.pretrain_epochs:
        yield (
            f"{settings.model} starts from random weights; --model_path names a checkpoint, "
            "--pretrain_epochs trains one"
        )
    for remark in on_relevance:
        yield f"{settings.model}: {remark}; compare with ECQ (without --lrp)"
    if settings.epochs or settings.pretrain_epochs:
        yield from _on_size(data, settings.training)


def remarks_before_search(
    settings: SearchSettings, data: TensorData, accuracy: float
) -> Iterator[str]:
    """Remarks before the first trial; ``accuracy`` is that of full precision on validation data."""
    yield from _on_size(data, settings.training(settings.lr[0]))
    validation = data.validation
    sample = 100 / len(validation)
    if settings.max_drop < sample:
        yield (
            f"one validation sample is {sample:.2f} points, more than max_drop "
            f"{settings.max_drop:g}: only a file that loses hardly any is within it"
        )
    advice = "there is nothing to keep: check labels and learning rate, or raise pretrain_epochs"
    chance = remark_on_chance(accuracy, validation, "validation", len(data.classes), advice)
    if chance is not None:
        yield f"full precision: {chance}"


def _on_size(data: TensorData, fit: FitSettings) -> Iterator[str]:
    """Remarks on few validation samples, and on few steps of a training."""
    samples = len(data.validation)
    if samples < FEW_SAMPLES:
        # Half of a 95 % interval of a share, at most.
        points = 100 / math.sqrt(samples)
        yield (
            f"only {samples} samples validate, so the accuracy that chooses the epoch is uncertain "
            f"by up to {points:.0f} points; {FEW_SAMPLES} or more are better"
        )
    steps = steps_per_epoch(len(data.train), fit)
    if steps < FEW_STEPS:
        more = "smaller --batch_size"
        if steps == fit.max_batches:
            more = "larger --max_batches"
        yield (
            f"an epoch has only {steps} training steps, few for a network, and its BatchNorm, to "
            f"follow the quantized weights; a {more} gives more"
        )


def remark_on_chance(
    accuracy: float, split: Split, name: str, classes: int, advice: str
) -> str | None:
    """A remark if an accuracy on a split of this name is that of a guess; it ends with the advice.

    ``accuracy`` is the task's first metric (`ecqx.training.objectives.Objective.metric`).
    """
    metric = objective_of(split.targets).metric
    guess = guessed(split.targets, classes)
    error = math.sqrt(guess * (1 - guess) / len(split))
    if accuracy > guess + DEVIATIONS * error:
        return None
    return (
        f"{metric} {accuracy:.2%} on {len(split):,} {name} samples is at chance: the most frequent "
        f"class alone gives {guess:.2%}; {advice}"
    )


def guessed(targets: Tensor, classes: int) -> float:
    """The first metric of a network that finds the most frequent class everywhere.

    With several labels a sample: of random logits.
    """
    if targets.is_floating_point():
        shares = targets.mean(dim=0)
        return float(shares[shares > 0].mean())
    counts = torch.zeros(classes, dtype=torch.int64, device=targets.device)
    for part in torch.split(targets, _PART):
        labels = part.long()
        counts += torch.bincount(labels[is_labelled(labels, classes)], minlength=classes)
    share = int(counts.max()) / int(counts.sum())
    is_union = objective_of(targets) is SEGMENTATION
    return share / int((counts > 0).sum()) if is_union else share
