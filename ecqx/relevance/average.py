"""The running average of the relevances of weights during training."""

from __future__ import annotations

from torch import Tensor, nn

from ecqx.relevance.settings import LRP


class RelevanceAverage:
    """Signed running average ``r ← (1 - α)·r_new + α·r_old`` of the relevances of weights.

    Attributes
    ----------
    values : dict of str to Tensor
        Averaged relevance by parameter name; empty before the first batch.
    """

    def __init__(self, lrp: LRP) -> None:
        self.lrp = lrp
        self.values: dict[str, Tensor] = {}

    def update(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Add the relevances of one batch and return the averages."""
        # zennit takes seconds to import, which ECQ and a look at settings need not wait for.
        from ecqx.relevance.weights import weight_relevance

        lrp = self.lrp
        new = weight_relevance(
            model, inputs, targets, lrp.composite, lrp.canonizer, lrp.output, lrp.weight_rule
        )
        for name, relevance in new.items():
            old = self.values.get(name)
            self.values[name] = relevance if old is None else relevance.lerp(old, lrp.alpha)
        return self.values

    def restart(self) -> None:
        """Forget the past."""
        self.values = {}
