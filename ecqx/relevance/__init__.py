"""Relevance of weights: rules, composites and canonizers for zennit, and the hook itself.

What needs zennit, which takes seconds to import, is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecqx.lazy import lazy_names
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
    from ecqx.relevance.average import RelevanceAverage
    from ecqx.relevance.canonizers import build_canonizer
    from ecqx.relevance.composites import build_composite
    from ecqx.relevance.output import output_relevance
    from ecqx.relevance.weights import Attributor, weight_relevance

_HOMES = {
    "Attributor": "ecqx.relevance.weights",
    "RelevanceAverage": "ecqx.relevance.average",
    "WeightRelevanceHook": "ecqx.relevance.attribution",
    "build_canonizer": "ecqx.relevance.canonizers",
    "build_composite": "ecqx.relevance.composites",
    "output_relevance": "ecqx.relevance.output",
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

__getattr__ = lazy_names(__name__, _HOMES)
