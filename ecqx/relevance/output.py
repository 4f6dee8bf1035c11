"""Where relevance starts: at the logits that the labels of a batch name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecqx.labels import LabelKind
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
    kind = LabelKind.of(logits, targets)
    check = check or LabelCheck()
    check.add(kind, targets)
    if output == "output":
        start = logits
    elif output == "probability":
        start = logits.sigmoid() if kind.several else logits.softmax(dim=1)
    else:
        start = torch.ones_like(logits)
    return _present(kind, logits, targets) * start / logits.shape[0]


def _present(kind: LabelKind, logits: Tensor, targets: Tensor) -> Tensor:
    """One at the logits of present labels, shape of the logits; a label out of range is ignored."""
    if kind.several:
        return kind.counted(targets).reshape(logits.shape).to(logits.dtype)
    targets = targets.long()
    # A label that is ignored is no class.
    is_class = (targets >= 0) & (targets < kind.classes)
    chosen = torch.where(is_class, targets, 0).unsqueeze(1)
    return torch.zeros_like(logits).scatter_(1, chosen, 1.0) * is_class.unsqueeze(1)


class LabelCheck:
    """Looks at the range of labels, on a GPU without waiting for it.

    On the CPU a label out of range is refused at once. What lies on a GPU is copied while it
    computes, and refused by the first later call that finds the copy complete; until then such a
    label is ignored.
    """

    def __init__(self, waits: bool = True) -> None:
        self.waits = waits
        self._pending: list[tuple[LabelKind, Tensor, Any]] = []

    def add(self, kind: LabelKind, targets: Tensor) -> None:
        """Look at the labels of a batch, and at those of earlier ones."""
        self._pending.append((kind, *_on_its_way(kind.extent(targets))))
        self._look(self.waits)

    def finish(self) -> None:
        """Look at all labels, and wait for them."""
        self._look(wait=True)

    def _look(self, wait: bool) -> None:
        while self._pending:
            kind, extent, copied = self._pending[0]
            if copied is not None:
                if wait:
                    copied.synchronize()
                elif not copied.query():
                    return
            del self._pending[0]
            kind.check(extent)


def _on_its_way(extent: Tensor) -> tuple[Tensor, Any]:
    """A copy for the CPU, and the event after which it is complete; None for complete already."""
    if not extent.is_cuda:
        return extent, None
    copy = extent.to("cpu", non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copy, event
