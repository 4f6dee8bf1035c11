"""The running average of the relevances of weights during training."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ecqx.modules import Inputs, each_tensor
from ecqx.relevance.processes import Processes
from ecqx.relevance.settings import LRP

if TYPE_CHECKING:
    from ecqx.relevance.weights import Attributor


class RelevanceAverage:
    """Signed running average ``r ← (1 - α)·r_new + α·r_old`` of the relevances of weights.

    Attributes
    ----------
    values : dict of str to Tensor
        Averaged relevance by parameter name; empty before the first batch.
    processes : Processes, optional
        Whose mean is taken.
    """

    def __init__(self, lrp: LRP, processes: Processes | None = None) -> None:
        self.lrp, self.processes = lrp, processes
        self.attributor: Attributor | None = None
        self.values: dict[str, Tensor] = {}
        self.steps = 0

    def update(
        self, model: nn.Module, inputs: Inputs, targets: Tensor, needed: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Add the relevances of one batch, at every `LRP.every`-th step; return the averages.

        Raises
        ------
        ValueError
            If the layer of a parameter in ``needed`` has no rule, or no relevance reaches it; or if
            a label is out of range (`ecqx.relevance.output.LabelCheck`).
        """
        if self.steps % self.lrp.every == 0:
            first = slice(self.lrp.samples)
            # A number, such as how many samples are accumulated, is no batch.
            inputs = each_tensor(inputs, lambda tensor: tensor[first] if tensor.ndim else tensor)
            self._add(model, inputs, targets[first], needed)
        self.steps += 1
        return self.values

    def _add(
        self, model: nn.Module, inputs: Inputs, targets: Tensor, needed: Collection[str]
    ) -> None:
        # Imported late: zennit takes seconds, and ECQ does not need it.
        from ecqx.relevance.weights import Attributor, warn

        is_new = self.attributor is None or self.attributor.model is not model
        if is_new:
            self.attributor = Attributor(model, self.lrp)
        assert self.attributor is not None
        new = self.attributor(inputs, targets)
        for name in needed:
            if name not in new and name not in self.values:
                why = self.attributor.without_relevance([name])
                raise ValueError(f"{why}; exclude it or use ECQ (relevance=None)")
        if is_new:
            warn(self.attributor)
        if self.processes is not None:
            new = self.processes.mean(new, len(targets))
        for name, relevance in new.items():
            old = self.values.get(name)
            self.values[name] = relevance if old is None else relevance.lerp(old, self.lrp.alpha)

    def __getstate__(self) -> dict[str, Any]:
        """What can be copied to another model or process: without hooks."""
        return {**self.__dict__, "attributor": None}

    def check_labels(self) -> None:
        """Raise ``ValueError`` if a label was out of range; waits for a GPU."""
        if self.attributor is not None:
            self.attributor.labels.finish()

    def start_epoch(self) -> None:
        """Measure at the next step; forget the average where `LRP.restart` is set."""
        self.check_labels()
        self.steps = 0
        if self.lrp.restart:
            self.values = {}
