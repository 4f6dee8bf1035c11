"""Relevance against magnitude of the weights of a layer, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.report.statistics import Estimate, pearson, spearman_interval

# Task → layer → (weight, relevance), layers from first to last.
Relevance = Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]

BOOTSTRAP_SAMPLE = 2000


@dataclass(frozen=True)
class Correlation:
    """How magnitude and relevance of one layer's weights go together.

    Attributes
    ----------
    task, layer : str
    weights : int
        Number of weights.
    pearson : float
        Linear correlation of the magnitudes of weight and relevance.
    spearman : Estimate
        Their rank correlation with a bootstrap interval.
    without_relevance : float
        Share of weights whose relevance is exactly 0.
    """

    task: str
    layer: str
    weights: int
    pearson: float
    spearman: Estimate
    without_relevance: float


def correlate(relevance: Relevance, tasks: Iterable[str]) -> list[Correlation]:
    """Correlations of all layers given, task by task.

    Parameters
    ----------
    relevance : mapping
        Task → layer → (weight, relevance), arrays of equal shape.
    tasks : iterable of str
        Tasks in the order in which they are shown.

    Returns
    -------
    list of Correlation
    """
    return [
        _correlate(task, layer, weight, relevances)
        for task in tasks
        for layer, (weight, relevances) in relevance.get(task, {}).items()
    ]


def _correlate(
    task: str, layer: str, weight: NDArray[Any], relevances: NDArray[Any]
) -> Correlation:
    w, r = np.abs(weight).ravel(), np.abs(relevances).ravel()
    return Correlation(
        task=task,
        layer=layer,
        weights=w.size,
        pearson=pearson(w, r),
        spearman=spearman_interval(w, r, at_most=BOOTSTRAP_SAMPLE),
        without_relevance=float((r == 0).mean()),
    )
