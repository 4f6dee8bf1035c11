"""Where relevance starts: at the logits that the labels of a batch name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecqx.modules import is_labelled
from ecqx.relevance.settings import Output


def output_relevance(
    logits: Tensor, targets: Tensor, output: Output, check: LabelCheck | None = None
) -> Tensor:
    """Relevance at the network's output, shape of ``logits``: zero but at the targets' logits.

    Parameters
    ----------
    logits : Tensor, shape (B, C) or (B, C, …)
    targets, output
        As for `ecqx.weight_relevance`. A single logit (C = 1) is one label, present or not.
    check : LabelCheck, optional
        Looks at the range of the labels without waiting for a GPU; None waits.

    Raises
    ------
    ValueError
        If the shape of the targets does not fit the logits, or a label is out of range.
    """
    labels = _labels(logits, targets)
    check = check or LabelCheck()
    check.add(labels)
    if check.waits:
        check.finish()
    if output == "output":
        start = logits
    elif output == "probability":
        start = logits.softmax(dim=1) if labels.are_classes else logits.sigmoid()
    else:
        start = torch.ones_like(logits)
    return labels.present * start / logits.shape[0]


@dataclass(frozen=True)
class _Labels:
    """The labels of a batch.

    Attributes
    ----------
    present : Tensor
        One at the logits of present classes, shape of the logits; labels out of range are ignored.
    are_classes : bool
        One class for each sample or pixel; otherwise each logit has a label of its own.
    extent : Tensor, shape (2,)
        The lowest and the highest label that counts.
    highest : int
        The highest label allowed.
    """

    present: Tensor
    are_classes: bool
    extent: Tensor
    highest: int

    def check(self, extent: Tensor) -> None:
        """Raise ``ValueError`` for a label out of range; ``extent`` is a copy on the CPU."""
        low, high = extent.tolist()
        # NaN is in no range.
        if low >= 0 and high <= self.highest:
            return
        if self.are_classes:
            raise ValueError(
                f"targets hold labels from {low} to {high}, but the model has the classes 0 to "
                f"{self.highest}; -100 marks what to ignore, of pixels 255 too"
            )
        raise ValueError(
            f"targets hold values from {low:g} to {high:g}; several labels are 0 or 1, and "
            "relevance needs labels: train a regression by ECQ (relevance=None)"
        )


def _labels(logits: Tensor, targets: Tensor) -> _Labels:
    """The labels of targets that fit the logits; ``ValueError`` for others."""
    if targets.shape == logits.shape:
        present = targets.to(logits.dtype)
        return _Labels(present, False, _extent(present), 1)
    if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    classes = logits.shape[1]
    if targets.is_floating_point() and classes > 1:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} are classes, integers from 0 to "
            f"{classes - 1}, not {targets.dtype}"
        )
    targets = targets if targets.is_floating_point() else targets.long()
    counted = is_labelled(targets, classes)
    labels = torch.where(counted, targets, 0)
    if classes == 1:
        present = labels.unsqueeze(1).to(logits.dtype)
        return _Labels(present, False, _extent(labels), 1)
    counted = counted & (labels >= 0) & (labels < classes)
    chosen = labels.clamp(0, classes - 1).unsqueeze(1)
    present = torch.zeros_like(logits).scatter_(1, chosen, 1.0) * counted.unsqueeze(1)
    return _Labels(present, True, _extent(labels), classes - 1)


def _extent(labels: Tensor) -> Tensor:
    """The lowest and the highest label, shape (2,); zeros without any."""
    if labels.numel() == 0:
        return labels.new_zeros(2)
    return torch.stack(labels.aminmax())


class LabelCheck:
    """Looks at the range of labels, on a GPU without waiting for it.

    On the CPU a label out of range is refused at once. What lies on a GPU is copied while it
    computes, and refused by the first later call that finds the copy complete; until then such a
    label is ignored.
    """

    def __init__(self, waits: bool = True) -> None:
        self.waits = waits
        self._pending: list[tuple[_Labels, Tensor, Any]] = []

    def add(self, labels: _Labels) -> None:
        """Look at the labels of a batch, and at those of earlier ones."""
        self._pending.append((labels, *_on_its_way(labels.extent)))
        self._look(wait=False)

    def finish(self) -> None:
        """Look at all labels, and wait for them."""
        self._look(wait=True)

    def _look(self, wait: bool) -> None:
        while self._pending:
            labels, extent, copied = self._pending[0]
            if copied is not None:
                if wait:
                    copied.synchronize()
                elif not copied.query():
                    return
            del self._pending[0]
            labels.check(extent)


def _on_its_way(extent: Tensor) -> tuple[Tensor, Any]:
    """A copy for the CPU, and the event after which it is complete; None for complete already."""
    if not extent.is_cuda:
        return extent, None
    copy = extent.to("cpu", non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copy, event
