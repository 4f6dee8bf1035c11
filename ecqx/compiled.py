"""Assignment on the CPU, by the loops of `ecqx.kernels`.

What is said of ECQx's zero set in `ecqx.assignment.zero_set` in terms of all t is said here in
terms of their bins, equal parts of the range from 0 to the largest β in question. A bin tells on
which side of the edge its weights lie; t itself is needed again in the one bin that holds the edge.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx import kernels
from ecqx.assignment import ALLOWANCE, Layer, relevance_scale
from ecqx.centroids import round_down
from ecqx.kernels import BLOCK, CLUSTER, Doubles, Floats

Places = NDArray[np.int64]

MOST_BINS = 2**16


def occupancy(weight: Tensor, middles: Tensor, counts: Tensor) -> None:
    """Write how many weights are nearest to each centroid; see `ecqx.kernels.occupancy`."""
    kernels.occupancy(weight.numpy(), middles.numpy(), counts.numpy())


def lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write how many of the ascending bounds lie below each weight."""
    kernels.lookup(weight.numpy(), bounds.numpy(), index.numpy())


def envelope_bounds(centers: Tensor, offsets: Tensor) -> Tensor:
    """As `ecqx.envelope.envelope_bounds`."""
    ends = torch.empty_like(centers)
    for row in zip(centers.numpy(), offsets.numpy(), ends.numpy(), strict=True):
        kernels.envelope_ends(*row)
    return round_down(ends[:, :-1])


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
    fewest = math.ceil(binned.ecq_zeros + band[0] * n - ALLOWANCE)
    most = math.floor(binned.ecq_zeros + band[1] * n + ALLOWANCE)
    wanted = fewest if binned.neutral < fewest else most
    if fewest <= binned.neutral <= most:
        binned.put_zeros_below(beta)
    elif wanted <= binned.least:
        binned.put_zeros_below(0.0)
    elif wanted >= binned.reachable:
        binned.put_zeros_below(1.0)
    else:
        binned.put_zeros(wanted, most)


def _zero_interval(layer: Layer) -> Floats:
    """The bounds between which ECQ puts a weight into the zero cluster."""
    bounds, zero = layer.plain.numpy(), int(layer.zero)
    low = bounds[zero - 1] if zero > 0 else -math.inf
    high = bounds[zero] if zero < len(bounds) else math.inf
    return np.array([low, max(low, high)], np.float32)


class _BinnedThresholds:
    """The bins of the t of a layer's weights, in ``index`` above their best non-zero clusters.

    Attributes
    ----------
    neutral, least, reachable : int
        How many t lie below β, 0 and 1.
    ecq_zeros : int
        How many weights ECQ puts into the zero cluster.
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
        self.values, self.cost = layer.values.numpy(), layer.cost.numpy()
        self.zero = int(layer.zero)
        self.index = index.numpy()
        # A layer of few weights needs few bins, and each is looked at.
        self.last_bin = min(len(weight) // 4 + 16, MOST_BINS) - 1
        self.bins_per_unit = (self.last_bin - 1) / max(1.0, beta)
        self.histogram, counts = np.zeros(self.last_bin + 1, np.int64), np.zeros(4, np.int64)
        self.buffers = np.ones((5, BLOCK))
        kernels.bin_thresholds(
            weight,
            relevance,
            scale,
            layer.nonzero.numpy(),
            _zero_interval(layer),
            self.values,
            self.cost,
            self.zero,
            beta,
            self.bins_per_unit,
            self.index,
            self.histogram,
            counts,
            self.buffers,
        )
        self.neutral, self.least, self.reachable, self.ecq_zeros = counts.tolist()

    def put_zeros_below(self, edge: float) -> None:
        """Put the weights with t < edge into the zero cluster."""
        edge_bin = kernels.bin_of(edge, self.bins_per_unit, self.last_bin)
        inside, t = self._within(edge_bin)
        self._settle(edge_bin, inside[t < edge])

    def put_zeros(self, wanted: int, most: int) -> None:
        """Put the ``wanted`` weights of lowest t into the zero cluster.

        All that share the t of the last of them come along, or none if they would be above
        ``most`` then.
        """
        up_to = self.histogram.cumsum()
        edge_bin = int(np.searchsorted(up_to, wanted))
        below = int(up_to[edge_bin] - self.histogram[edge_bin])
        inside, t = self._within(edge_bin)
        cut = np.partition(t, wanted - below - 1)[wanted - below - 1]
        with_equal = below + np.count_nonzero(t <= cut)
        self._settle(edge_bin, inside[t <= cut] if with_equal <= most else inside[t < cut])

    def _within(self, wanted: int) -> tuple[Places, Doubles]:
        """The weights of one bin, and their t."""
        places = np.empty(self.histogram[wanted], np.int64)
        kernels.places_of(self.index, wanted, places)
        t, clusters = np.empty(len(places)), self.index[places] & ((1 << CLUSTER) - 1)
        for start in range(0, len(places), BLOCK):
            part = slice(start, start + BLOCK)
            at = places[part]
            kernels.zero_thresholds(
                self.weight[at],
                self.relevance[at],
                self.scale,
                clusters[part],
                self.values,
                self.cost,
                self.zero,
                self.buffers,
            )
            t[part] = self.buffers[4, : len(at)]
        return places, t

    def _settle(self, edge_bin: int, places: Places) -> None:
        """Put the weights of the bins below an edge, and some others, into the zero cluster."""
        kernels.settle(self.index, edge_bin, self.zero)
        self.index[places] = self.zero
