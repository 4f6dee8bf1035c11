"""What the training loop asks of a quantizer, or of another constraint on weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Constraint(Protocol):
    """A quantizer, or another method that constrains weights in training."""

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer; the decay is for what is not constrained."""

    def start_epoch(self) -> None:
        """Called before the first batch of each epoch."""

    def transfer_gradients(self) -> None:
        """Called between the backward pass and the optimizer's step."""

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Called with the batch after the optimizer's step."""

    def sparsity(self) -> float:
        """Share of constrained weights that are zero, in [0, 1]."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, the model's own state included."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state; ``ValueError`` if it does not fit."""
