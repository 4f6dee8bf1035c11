"""The settings of LRP within training. Imports no zennit, so that checking them takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Output = Literal["output", "probability", "ones"]
WeightRule = Literal["epsilon", "gamma"]
RelevanceOf = Literal["stepped", "quantized", "full_precision"]
Additions = Literal["split", "whole"]

COMPOSITES = (
    "epsilon_plus_flat_bn_pass",
    "epsilon_plus_flat",
    "alpha2_beta1_flat_bn_pass",
    "alpha2_beta1_flat",
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon_flat",
    "epsilon_flat_bn",
    "epsilon_gamma_flat",
    "epsilon_gamma_flat_bn",
    "epsilon_gamma_flat_bn_pass",
    "attnlrp",
    "attnlrp_values",
)
CANONIZERS = ("vgg", "resnet", "resnetcifar", "mobilenet")
OUTPUTS: tuple[Output, ...] = ("output", "probability", "ones")
WEIGHT_RULES: tuple[WeightRule, ...] = ("epsilon", "gamma")
RELEVANCE_OF: tuple[RelevanceOf, ...] = ("stepped", "quantized", "full_precision")
ADDITIONS: tuple[Additions, ...] = ("split", "whole")
DEFAULT_COMPOSITE = "epsilon_plus_flat_bn_pass"
DEFAULT_CANONIZER = "resnet"


class RelevanceWarning(UserWarning):
    """Names what LRP has no rule for."""


@dataclass(frozen=True)
class LRP:
    """How relevance is measured during quantized training.

    Attributes
    ----------
    composite, canonizer, output, weight_rule
        See `ecqx.weight_relevance`.
    additions : {"split", "whole"}
        How relevance passes the residual additions of the suite's own ResNets: each branch has its
        share, or all of it (published; the sum grows at each block).
    alpha : float
        Share of the previous relevance in the running average, in [0, 1).
    of : {"stepped", "quantized", "full_precision"}
        Weights whose relevance is measured. ``stepped`` (published): the quantized weights after
        an optimizer step of their own, which is discarded afterwards. ``quantized``: every zero
        weight has relevance zero. ``full_precision``: the latent weights.
    restart : bool
        Forget the average at the start of each epoch (published).
    every : int
        Measure at every n-th training step and keep the average in between; published is 1.
    samples : int, optional
        Measure on the first n samples of a batch (of each process's part); None takes all
        (published).

    Raises
    ------
    ValueError
        For the first setting that is out of range.
    """

    composite: str = DEFAULT_COMPOSITE
    canonizer: str = DEFAULT_CANONIZER
    output: Output = "output"
    weight_rule: WeightRule = "epsilon"
    alpha: float = 0.1
    of: RelevanceOf = "stepped"
    restart: bool = True
    every: int = 1
    samples: int | None = None
    additions: Additions = "split"

    def __post_init__(self) -> None:
        check_choice("composite", self.composite, COMPOSITES)
        check_choice("canonizer", self.canonizer, CANONIZERS)
        check_choice("lrp_output", self.output, OUTPUTS)
        check_choice("weight_rule", self.weight_rule, WEIGHT_RULES)
        check_choice("relevance_of", self.of, RELEVANCE_OF)
        check_choice("additions", self.additions, ADDITIONS)
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), not {self.alpha}")
        for setting, value in (("every", self.every), ("samples", self.samples)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{setting} must be a whole number above 0, not {value}")


def check_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` if ``value`` is none of the choices."""
    if value not in choices:
        raise ValueError(f"{setting} must be one of {', '.join(choices)}, not {value!r}")
