"""The running average of the relevances of weights during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ecqx.relevance.settings import LRP

if TYPE_CHECKING:
    from ecqx.relevance.weights import Attributor


class RelevanceAverage:
    """Signed running average ``r ← (1 - α)·r_new + α·r_old`` of the relevances of weights.

    Attributes
    ----------
    values : dict of str to Tensor
        Averaged relevance by parameter name; empty before the first batch.
    combine : callable, optional
        Makes the relevances of a whole batch of those of this process's samples and their number:
        see `ecqx.training.distributed`.
    """

    def __init__(self, lrp: LRP) -> None:
        self.lrp = lrp
        self.attributor: Attributor | None = None
        self.values: dict[str, Tensor] = {}
        self.steps = 0
        self.combine: Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None = None

    def update(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Add the relevances of one batch, where it is this batch's turn; return the averages."""
        if self.steps % self.lrp.every == 0:
            self._add(model, inputs[: self.lrp.samples], targets[: self.lrp.samples])
        self.steps += 1
        return self.values

    def _add(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        # zennit takes seconds to import, which ECQ and a look at settings need not wait for.
        from ecqx.relevance.weights import Attributor

        lrp = self.lrp
        if self.attributor is None or self.attributor.model is not model:
            self.attributor = Attributor(
                model, lrp.composite, lrp.canonizer, lrp.output, lrp.weight_rule
            )
        new = self.attributor(inputs, targets)
        if self.combine is not None:
            new = self.combine(new, len(targets))
        for name, relevance in new.items():
            old = self.values.get(name)
            self.values[name] = relevance if old is None else relevance.lerp(old, lrp.alpha)

    def __getstate__(self) -> dict[str, Any]:
        """What can be copied to another model and process: hooks belong to this one."""
        return {**self.__dict__, "attributor": None, "combine": None}

    def start_epoch(self) -> None:
        """Begin with a measurement, and forget the past where the settings ask for it."""
        self.steps = 0
        if self.lrp.restart:
            self.values = {}


def check_reached(names: Iterable[str], relevances: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` for the first parameter that has no relevance."""
    for name in names:
        if name not in relevances:
            raise ValueError(
                f"no relevance reaches {name}: it has no part in the output, or is used without "
                "a call of its layer; exclude it or use ECQ (relevance=None)"
            )
