"""Assignment on the CPU, by the loops of `ecqx.kernels`.

What is said of ECQx's zero set in `ecqx.assignment.zero_set` in terms of all t is said here in
terms of their bins, equal parts of the range from 0 to the largest β in question. A bin tells on
which side of the edge its weights lie; t itself is needed again in the one bin that holds the edge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ecqx import kernels
from ecqx.assignment import ALLOWANCE, Layer, relevance_scale
from ecqx.kernels import BLOCK, Doubles, Floats

Places = NDArray[np.int64]

MOST_BINS = 2**16


def occupancy(weight: Tensor, middles: Tensor, counts: Tensor) -> None:
    """Write how many weights are nearest to each centroid; see `ecqx.kernels.occupancy`."""
    kernels.occupancy(weight.numpy(), middles.numpy(), counts.numpy())


def lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write how many of the ascending bounds lie below each weight."""
    kernels.lookup(weight.numpy(), bounds.numpy(), index.numpy())


def ecqx(
    weight: Tensor, relevance: Tensor, layer: Layer, band: tuple[float, float], index: Tensor
) -> None:
    """Write ECQx's assignment, as on other devices `ecqx.assignment` does."""
    scale: Any = relevance_scale(relevance).numpy()[()]
    mean = kernels.mean_relevance(relevance.numpy(), scale)
    if not 0 < mean < 1 or not layer.cost.any():
        lookup(weight, layer.plain, index)
        return
    beta, n = math.log(0.5) / math.log(mean), weight.numel()
    binned = _BinnedThresholds(weight.numpy(), relevance.numpy(), scale, layer, beta, index)
    ecq_zeros = _ecq_zeros(weight.numpy(), layer)
    fewest = math.ceil(ecq_zeros + band[0] * n - ALLOWANCE)
    most = math.floor(ecq_zeros + band[1] * n + ALLOWANCE)
    wanted = fewest if binned.neutral < fewest else most
    if fewest <= binned.neutral <= most:
        binned.put_zeros_below(beta)
    elif wanted <= binned.least:
        binned.put_zeros_below(0.0)
    elif wanted >= binned.reachable:
        binned.put_zeros_below(1.0)
    else:
        binned.put_zeros(wanted, most)


def _ecq_zeros(weight: Floats, layer: Layer) -> int:
    """How many weights ECQ puts into the zero cluster."""
    bounds, zero = layer.plain.numpy(), int(layer.zero)
    low = bounds[zero - 1] if zero > 0 else -math.inf
    high = bounds[zero] if zero < len(bounds) else math.inf
    return kernels.count_between(weight, low, high)


class _BinnedThresholds:
    """The bins of the t of a layer's weights; ``index`` has their best non-zero clusters.

    Attributes
    ----------
    neutral, least, reachable : int
        How many t lie below β, 0 and 1.
    """

    def __init__(
        self,
        weight: Floats,
        relevance: Floats,
        scale: Any,
        layer: Layer,
        beta: float,
        index: Tensor,
    ) -> None:
        self.weight, self.relevance, self.scale = weight, relevance, scale
        self.costs = (layer.values.numpy(), layer.cost.numpy(), int(layer.zero))
        self.index = index.numpy()
        # A layer of few weights needs few bins, and each is looked at.
        self.last_bin = min(len(weight) // 4 + 16, MOST_BINS) - 1
        self.bins_per_unit = (self.last_bin - 1) / max(1.0, beta)
        self.bins = np.empty(len(weight), np.uint16)
        self.histogram, counts = np.zeros(self.last_bin + 1, np.int64), np.zeros(3, np.int64)
        self.buffers = np.ones((5, BLOCK))
        kernels.zero_bins(
            *(weight, relevance, scale, layer.nonzero.numpy(), *self.costs),
            *(beta, self.bins_per_unit, self.index, self.bins, self.histogram, counts),
            self.buffers,
        )
        self.neutral, self.least, self.reachable = counts.tolist()

    def put_zeros_below(self, edge: float) -> None:
        """Put the weights with t < edge into the zero cluster."""
        found = np.empty(1, np.uint16)
        kernels.to_bins(np.array([edge]), self.bins_per_unit, self.last_bin, found)
        inside = np.flatnonzero(self.bins == found[0])
        self._put(int(found[0]), inside[self._thresholds(inside) < edge])

    def put_zeros(self, wanted: int, most: int) -> None:
        """Put the ``wanted`` weights of lowest t into the zero cluster.

        All that share the t of the last of them come along, or none if they would be above
        ``most`` then.
        """
        up_to = self.histogram.cumsum()
        edge_bin = int(np.searchsorted(up_to, wanted))
        below = int(up_to[edge_bin] - self.histogram[edge_bin])
        inside = np.flatnonzero(self.bins == edge_bin)
        t = self._thresholds(inside)
        cut = np.partition(t, wanted - below - 1)[wanted - below - 1]
        with_equal = below + np.count_nonzero(t <= cut)
        self._put(edge_bin, inside[t <= cut] if with_equal <= most else inside[t < cut])

    def _thresholds(self, places: Places) -> Doubles:
        """The t of some weights."""
        t = np.empty(len(places))
        for start in range(0, len(places), BLOCK):
            at = places[start : start + BLOCK]
            kernels.zero_thresholds(
                *(self.weight[at], self.relevance[at], self.scale, self.index[at]),
                *(*self.costs, self.buffers),
            )
            t[start : start + BLOCK] = self.buffers[4, : len(at)]
        return t

    def _put(self, edge_bin: int, places: Places) -> None:
        """Put the weights of the bins below an edge, and some others, into the zero cluster."""
        zero = self.costs[2]
        kernels.put_zeros(self.index, self.bins, edge_bin, zero)
        self.index[places] = zero
