"""The settings of a training. Imports no torch, so that checking them takes no time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

OptimizerName = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine"]
Selection = Literal["best", "last"]


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained; `ValueError` for the first setting that is out of range.

    Attributes
    ----------
    epochs : int
        At least 0.
    lr : float
        Initial learning rate, above 0.
    batch_size : int
        At least 1. A single sample left over after the full batches of an epoch is dropped, since
        BatchNorm cannot be trained on it.
    optimizer : {"adam", "sgd"}
        SGD has momentum 0.9.
    schedule : {"constant", "cosine"}
        Of the learning rate, set for each epoch: ``cosine`` falls from ``lr`` towards 0.
    weight_decay : float
        On the parameters that are not quantized (all, without a quantizer), at least 0.
    max_batches : int, optional
        Upper limit of batches per epoch, at least 1.
    patience : int, optional
        Stop when validation accuracy has not risen by ``min_delta``, a fraction of one, for this
        many epochs, at least 1.
    selection : {"best", "last"}
        Epoch whose state is kept: the best on the validation split (the last of equally good ones,
        since its sparsity has settled longest), or the last.
    """

    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 64
    optimizer: OptimizerName = "adam"
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    max_batches: int | None = None
    patience: int | None = None
    min_delta: float = 0.001
    selection: Selection = "best"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("max_batches", 1), ("patience", 1)):
            value = getattr(self, name)
            is_absent = value is None and name in ("max_batches", "patience")
            if not is_absent and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be a whole number, at least {least}, not {value!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a finite number above 0, not {self.lr!r}")
        for name in ("weight_decay", "min_delta"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be a finite number, at least 0, not {value!r}")
        for name, choices in (
            ("optimizer", OptimizerName),
            ("schedule", Schedule),
            ("selection", Selection),
        ):
            if (value := getattr(self, name)) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name} must be one of {known}, not {value!r}")


def steps_per_epoch(samples: int, fit: FitSettings) -> int:
    """Number of training steps in an epoch over ``samples`` samples."""
    batches, left_over = divmod(samples, fit.batch_size)
    if left_over > 1 or (left_over == 1 and batches == 0):
        batches += 1
    return batches if fit.max_batches is None else min(batches, fit.max_batches)
