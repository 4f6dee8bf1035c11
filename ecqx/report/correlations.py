"""Relevance against magnitude of the weights of a layer, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ecqx.report.statistics import CONFIDENCE, Estimate, sample_stride

# Task → layer → (weight, relevance), layers from first to last.
Relevance = Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]

BOOTSTRAP_SAMPLE = 2000
RESAMPLES = 500


@dataclass(frozen=True)
class Correlation:
    """Correlation of the magnitudes of a layer's weights and of their relevance.

    ``weights`` is their number, ``spearman`` has a bootstrap interval, ``without_relevance`` is the
    share of weights whose relevance is exactly 0.
    """

    task: str
    layer: str
    weights: int
    pearson: float
    spearman: Estimate
    without_relevance: float


def correlate(relevance: Relevance, tasks: Iterable[str]) -> list[Correlation]:
    """Correlations of all layers, task by task; ``tasks`` in the order in which they are shown."""
    found = []
    for task in tasks:
        for layer, arrays in relevance.get(task, {}).items():
            w, r = (np.abs(values).ravel().astype(np.float64) for values in arrays)
            linear = math.nan if _constant(w, r) else float(stats.pearsonr(w, r).statistic)
            ranks, share = rank_correlation(w, r), float((r == 0).mean())
            found.append(Correlation(task, layer, w.size, linear, ranks, share))
    return found


def rank_correlation(x: NDArray[Any], y: NDArray[Any], seed: int = 0) -> Estimate:
    """Spearman's correlation of two arrays with a paired bootstrap interval.

    The interval comes from `RESAMPLES` resamples of a fixed-stride subsample of at most
    `BOOTSTRAP_SAMPLE` elements, moved to the correlation of all elements; it is therefore wider
    than that of all elements would be. NaN without interval where one array is constant.
    """
    if _constant(x, y):
        return Estimate(math.nan)
    rho = float(_spearman(x, y))
    stride = sample_stride(x.size, BOOTSTRAP_SAMPLE)
    sample = (x[::stride], y[::stride])
    if _constant(*sample):
        return Estimate(rho)
    found = stats.bootstrap(
        sample,
        _spearman,
        paired=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    ends = np.array(found.confidence_interval) + rho - float(_spearman(*sample))
    low, high = np.clip(ends, -1.0, 1.0).tolist()
    return Estimate(rho, float(found.standard_error), sample[0].size, low, high)


def _spearman(x: NDArray[Any], y: NDArray[Any], axis: int = -1) -> Any:
    ranks = (stats.rankdata(values, axis=axis) for values in (x, y))
    return stats.pearsonr(*ranks, axis=axis).statistic


def _constant(*arrays: NDArray[Any]) -> bool:
    return any(values.min() == values.max() for values in arrays)
