"""Relevance of weights: rules, composites and canonizers for zennit, and the hook itself."""

from ecqx.relevance.average import LRP, RelevanceAverage
from ecqx.relevance.canonizers import CANONIZERS, DEFAULT_CANONIZER, build_canonizer
from ecqx.relevance.composites import COMPOSITES, DEFAULT_COMPOSITE, build_composite
from ecqx.relevance.weights import (
    OUTPUTS,
    WEIGHT_RULES,
    WeightRelevanceHook,
    output_relevance,
    weight_relevance,
    with_weight_relevance,
)

__all__ = [
    "CANONIZERS",
    "COMPOSITES",
    "DEFAULT_CANONIZER",
    "DEFAULT_COMPOSITE",
    "LRP",
    "OUTPUTS",
    "WEIGHT_RULES",
    "RelevanceAverage",
    "WeightRelevanceHook",
    "build_canonizer",
    "build_composite",
    "output_relevance",
    "weight_relevance",
    "with_weight_relevance",
]
