"""The loss and the metrics of each kind of task: one label, several labels, a label a pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ecqx.errors import InputError
from ecqx.labels import UNLABELLED, LabelKind, is_labelled

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Objective:
    """Loss and metrics of one kind of task.

    ``loss`` maps logits and targets to a scalar. ``score`` maps the logits and targets of all
    batches of a split to the ``metrics`` by name, fractions of one; the first one is the "accuracy"
    of results.
    """

    loss: Loss
    metrics: tuple[str, ...]
    score: Callable[[Batches], Scores]

    @property
    def metric(self) -> str:
        """Name of the metric that models are compared and selected by."""
        return self.metrics[0]


def objective_of(targets: Tensor) -> Objective:
    """The objective for a split's targets; `ValueError` if there is none.

    Targets are classes, integers of shape (N,); several labels, floats of shape (N, C); or a label
    per pixel, integers of shape (N, H, W). -100 is ignored, and of pixels 255 if it is no class.
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        return CLASSIFICATION
    if targets.ndim == 2 and targets.is_floating_point():
        return MULTILABEL
    if targets.ndim == 3 and not targets.is_floating_point():
        return SEGMENTATION
    raise InputError(
        f"no objective for targets of shape {tuple(targets.shape)}, {targets.dtype}: classes are "
        "integers of shape (N,), several labels floats of shape (N, C), labels of pixels integers "
        "of shape (N, H, W)"
    )


def check_fit(logits: Tensor, targets: Tensor, splits: Iterable[Tensor]) -> None:
    """Raise ``InputError`` unless a network's logits fit the targets of a batch and of splits.

    ``splits`` are all targets of the splits: a label out of range may come in any batch.
    """
    kind, objective = LabelKind.of(logits, targets), objective_of(targets)
    if kind.several != (objective is MULTILABEL):
        raise InputError(
            f"the network returns logits of shape {tuple(logits.shape)} for targets of shape "
            f"{tuple(targets.shape)}: a single logit takes targets of its own shape, floats 0 or "
            "1; for two classes a network returns two logits"
        )
    for split in splits:
        kind.check(kind.extent(split))


def _top1(batches: Batches) -> Scores:
    correct = samples = 0
    for logits, targets in batches:
        correct += int((logits.argmax(1) == targets).sum())
        samples += int(is_labelled(targets, logits.shape[1]).sum())
    if not samples:
        raise ValueError("top-1 accuracy needs a sample with a label")
    return {"top-1 accuracy": correct / samples}


def _mean_average_precision(batches: Batches) -> Scores:
    """Average precision per class, its mean over the classes that occur."""
    # Imported late: torchmetrics takes seconds, and tasks with one label do not need it.
    from torchmetrics.functional.classification import binary_average_precision

    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    occurring = targets.any(dim=0)
    if not occurring.any():
        raise ValueError("mean average precision needs a sample with a label")
    ranked, present = _rescaled(logits[:, occurring]), targets[:, occurring].long()
    precisions = [
        float(binary_average_precision(ranked[:, c], present[:, c])) for c in range(ranked.shape[1])
    ]
    return {"mean average precision": fmean(precisions)}


def _rescaled(logits: Tensor) -> Tensor:
    """Logits of each class rescaled to [0, 1] in float64, in the same order.

    torchmetrics applies a sigmoid to values outside [0, 1], which makes large logits equal.
    """
    logits = logits.double()
    lowest, highest = logits.amin(dim=0), logits.amax(dim=0)
    return (logits - lowest) / (highest - lowest).clamp(min=torch.finfo(torch.float64).tiny)


def _intersection_over_union(batches: Batches) -> Scores:
    """Mean IoU over the classes that occur or are predicted, and the share of correct pixels."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    confusion: Any = None
    for logits, targets in batches:
        if confusion is None:
            confusion = MulticlassConfusionMatrix(logits.shape[1], ignore_index=UNLABELLED)
            confusion = confusion.to(logits.device)
        confusion.update(logits.argmax(1), _of_torch(targets, logits))
    matrix = confusion.compute().double()
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    if not matrix.any():
        raise ValueError("mean IoU needs a pixel with a label")
    return {
        "mean IoU": float((hits[union > 0] / union[union > 0]).mean()),
        "pixel accuracy": float(hits.sum() / matrix.sum()),
    }


def _pixel_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the pixels that have a label; zero where none has."""
    targets = _of_torch(targets, logits)
    summed = F.cross_entropy(logits, targets, reduction="sum")
    return summed / (targets != UNLABELLED).sum().clamp(min=1)


def _of_torch(targets: Tensor, logits: Tensor) -> Tensor:
    """Pixel labels with torch's mark at those that do not count."""
    return torch.where(is_labelled(targets, logits.shape[1]), targets, UNLABELLED)


CLASSIFICATION = Objective(F.cross_entropy, ("top-1 accuracy",), _top1)
MULTILABEL = Objective(
    F.binary_cross_entropy_with_logits, ("mean average precision",), _mean_average_precision
)
SEGMENTATION = Objective(
    _pixel_cross_entropy, ("mean IoU", "pixel accuracy"), _intersection_over_union
)
