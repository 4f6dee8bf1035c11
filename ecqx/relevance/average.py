"""The settings of LRP within training, and the running average of the relevances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ecqx.relevance.canonizers import CANONIZERS, DEFAULT_CANONIZER
from ecqx.relevance.composites import COMPOSITES, DEFAULT_COMPOSITE
from ecqx.relevance.weights import OUTPUTS, WEIGHT_RULES, Output, WeightRule, weight_relevance

RelevanceOf = Literal["stepped", "quantized", "full_precision"]
RELEVANCE_OF: tuple[RelevanceOf, ...] = ("stepped", "quantized", "full_precision")


@dataclass(frozen=True)
class LRP:
    """How relevance is measured during quantized training.

    Attributes
    ----------
    composite, canonizer, output, weight_rule
        See `ecqx.weight_relevance`.
    alpha : float
        Share of the previous relevance in the running average, in [0, 1).
    of : {"stepped", "quantized", "full_precision"}
        Whose weights are judged: ``stepped`` (published) are the quantized weights after an
        optimizer step of their own, which is thrown away afterwards; ``quantized`` gives every
        zero weight relevance zero; ``full_precision`` are the copies that are trained.
    restart : bool
        Forget the average at the start of each epoch (published).
    """

    composite: str = DEFAULT_COMPOSITE
    canonizer: str = DEFAULT_CANONIZER
    output: Output = "output"
    weight_rule: WeightRule = "epsilon"
    alpha: float = 0.1
    of: RelevanceOf = "stepped"
    restart: bool = True

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for the first setting that is out of range."""
        for name, value, choices in (
            ("composite", self.composite, COMPOSITES),
            ("canonizer", self.canonizer, CANONIZERS),
            ("lrp_output", self.output, OUTPUTS),
            ("weight_rule", self.weight_rule, WEIGHT_RULES),
            ("relevance_of", self.of, RELEVANCE_OF),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), not {self.alpha}")


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
