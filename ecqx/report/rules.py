"""The rules by which all methods are compared. Imports nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Losses of validation accuracy that a user may allow, fractions of one.
LOSSES = (0.005, 0.01, 0.02)
# A network that loses more accuracy than this, a fraction of one, has collapsed.
COLLAPSE = 0.1


def loss_in_words(loss: float) -> str:
    """A loss of accuracy, a fraction of one, in points."""
    return f"{100 * loss:g} point{'' if loss == 0.01 else 's'}"


@dataclass(frozen=True)
class Fairness:
    """What all methods are compared by on one task.

    ``ratios`` is the range of compression ratios of the area under the curve, ``trials`` the number
    of trials of every method that has a setting to choose.
    """

    ratios: tuple[float, float]
    trials: int

    def __post_init__(self) -> None:
        low, high = self.ratios
        if not 0 < low < high:
            raise ValueError(f"ratios must be [low, high], 0 < low < high, not [{low:g}, {high:g}]")
        if self.trials < 1:
            raise ValueError(f"trials must be 1 or more, not {self.trials}")


@dataclass(frozen=True)
class Rules:
    """What all methods are compared by.

    ``loss`` is how far the validation accuracy of a file may lie below that of full precision, a
    fraction of one.
    """

    loss: float
    tasks: Mapping[str, Fairness]

    def __post_init__(self) -> None:
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss must be a fraction from 0 to 1, not {self.loss}")

    @property
    def loss_in_words(self) -> str:
        """The loss that is allowed, in points."""
        return loss_in_words(self.loss)
