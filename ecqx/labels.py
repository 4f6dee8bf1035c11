"""Labels: which of them count, and whether they fit a network's logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecqx.errors import InputError

# Labels that loss, metrics and relevance ignore: torch's losses have -100. Pixels also have 255,
# but not for a network of more than 255 classes, where 255 is a class.
UNLABELLED = -100
IGNORED_LABEL = 255
# Samples whose labels are looked at together.
_PART = 512


def is_labelled(targets: Tensor, classes: int) -> Tensor:
    """Where labels count, for classes of shape (B,) or pixels of shape (B, …), not uint8."""
    counted = targets != UNLABELLED
    if targets.ndim > 1 and classes <= IGNORED_LABEL:
        counted &= targets != IGNORED_LABEL
    return counted


@dataclass(frozen=True)
class LabelKind:
    """What the labels of a network say.

    Attributes
    ----------
    classes : int
        Number of logits for each sample or pixel.
    several : bool
        Each logit has a label of its own, 0 or 1; otherwise a label is one of the classes.
    """

    classes: int
    several: bool

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor) -> LabelKind:
        """The kind of targets that fit logits of shape (B, C) or (B, C, …) or (B,).

        ``InputError`` if the shapes do not fit, or classes are no integers.
        """
        if targets.shape == logits.shape:
            return cls(1 if logits.ndim < 2 else logits.shape[1], several=True)
        if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
            raise InputError(
                f"targets of shape {tuple(targets.shape)} do not fit logits of "
                f"{tuple(logits.shape)}"
            )
        classes = logits.shape[1]
        if targets.is_floating_point() and classes > 1:
            raise InputError(
                f"targets of shape {tuple(targets.shape)} are classes, integers from 0 to "
                f"{classes - 1}, not {targets.dtype}"
            )
        return cls(classes, several=classes == 1)

    def counted(self, targets: Tensor) -> Tensor:
        """The labels that count, 0 in place of the others; not uint8, in which -100 is 156."""
        if targets.is_floating_point():
            return targets
        targets = targets.long()
        if self.several and self.classes > 1:
            return targets
        return torch.where(is_labelled(targets, self.classes), targets, 0)

    def extent(self, targets: Tensor) -> Tensor:
        """The lowest and the highest label that counts, shape (2,)."""
        if targets.numel() == 0:
            return targets.new_zeros(2)
        found = [torch.stack(self.counted(part).aminmax()) for part in torch.split(targets, _PART)]
        return found[0] if len(found) == 1 else torch.stack(torch.stack(found).aminmax())

    def check(self, extent: Tensor) -> None:
        """Raise ``InputError`` for a label out of range; ``extent`` lies on the CPU."""
        low, high = extent.tolist()
        # NaN is in no range.
        if low >= 0 and high <= (1 if self.several else self.classes - 1):
            return
        if self.several:
            raise InputError(
                f"targets hold values from {low:g} to {high:g}; labels of single logits are 0 or "
                "1, and a regression has none"
            )
        raise InputError(
            f"targets hold labels from {low} to {high}, but the model has the classes 0 to "
            f"{self.classes - 1}; -100 marks what to ignore, of pixels 255 too"
        )
