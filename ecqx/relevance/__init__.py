"""Relevance of weights: rules, composites and canonizers for zennit, and the hook itself.

What needs zennit is imported when it is first used: it takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ecqx.relevance.average import RelevanceAverage
from ecqx.relevance.settings import (
    CANONIZERS,
    COMPOSITES,
    DEFAULT_CANONIZER,
    DEFAULT_COMPOSITE,
    LRP,
    OUTPUTS,
    RELEVANCE_OF,
    WEIGHT_RULES,
)

if TYPE_CHECKING:
    from ecqx.relevance.attribution import WeightRelevanceHook, with_weight_relevance
    from ecqx.relevance.canonizers import build_canonizer
    from ecqx.relevance.composites import build_composite
    from ecqx.relevance.weights import Attributor, output_relevance, weight_relevance

_HOMES = {
    "Attributor": "ecqx.relevance.weights",
    "WeightRelevanceHook": "ecqx.relevance.attribution",
    "build_canonizer": "ecqx.relevance.canonizers",
    "build_composite": "ecqx.relevance.composites",
    "output_relevance": "ecqx.relevance.weights",
    "weight_relevance": "ecqx.relevance.weights",
    "with_weight_relevance": "ecqx.relevance.attribution",
}

__all__ = [
    "CANONIZERS",
    "COMPOSITES",
    "DEFAULT_CANONIZER",
    "DEFAULT_COMPOSITE",
    "LRP",
    "OUTPUTS",
    "RELEVANCE_OF",
    "WEIGHT_RULES",
    "Attributor",
    "RelevanceAverage",
    "WeightRelevanceHook",
    "build_canonizer",
    "build_composite",
    "output_relevance",
    "weight_relevance",
    "with_weight_relevance",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ecqx.relevance' has no attribute {name!r}")
