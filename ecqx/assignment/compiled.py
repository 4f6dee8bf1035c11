"""Assignment on the CPU by the loops of `kernels`, `thresholds` and `cluster_costs`.

What is said of ECQx's zero set in `ecqx.assignment.assign.zero_set` in terms of all t is said here
in
terms of their bins, equal parts of the range from 0 to the largest β in question. A weight's bin is
that of its t or one beside it, and tells on which side of an edge it lies; t itself is needed in
the bins next to the edge alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.assignment import cluster_costs, kernels, thresholds
from ecqx.assignment.centroids import GridStack, round_down
from ecqx.assignment.information import LambdaMax, Pmf, Survey
from ecqx.assignment.kernels import BLOCK
from ecqx.assignment.layer import ALLOWANCE, Layer, relevance_scale
from ecqx.assignment.thresholds import CLUSTER, MARGIN
from ecqx.loops import Doubles, Floats

Places = NDArray[np.int64]

# Their counters stay in the first-level cache.
MOST_BINS = 2**12


def occupancy(weight: Tensor, middles: Tensor, counts: Tensor, extremes: Tensor) -> None:
    """Write how many weights are nearest to each centroid, and the extreme weights."""
    kernels.occupancy(weight.numpy(), middles.numpy(), counts.numpy(), extremes.numpy())


def lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write how many of the ascending bounds lie below each weight."""
    kernels.lookup(weight.numpy(), bounds.numpy(), index.numpy())


def information_cost(
    survey: Survey,
    grids: GridStack,
    lam: float,
    largest_layer_size: int,
    pmf: Pmf,
    formula: LambdaMax,
) -> Tensor:
    """As `ecqx.assignment.information.information_cost`."""
    cost = torch.empty_like(grids.values)
    cluster_costs.information_cost(
        survey.counts.numpy(),
        torch.cat([survey.low, survey.high], dim=1).numpy(),
        grids.values.numpy(),
        grids.zero.numpy(),
        lam,
        largest_layer_size,
        pmf == "published",
        formula == "published",
        cost.numpy(),
    )
    return cost


def envelope_bounds(centers: Tensor, offsets: Tensor) -> Tensor:
    """As `ecqx.assignment.envelope.envelope_bounds`."""
    ends = torch.empty_like(centers)
    for row in zip(centers.numpy(), offsets.numpy(), ends.numpy(), strict=True):
        cluster_costs.envelope_ends(*row)
    return round_down(ends[:, :-1])


def ecqx(
    weight: Tensor, relevance: Tensor, layer: Layer, band: tuple[float, float], index: Tensor
) -> None:
    """Write ECQx's assignment, as on other devices `ecqx.assignment.assign` does."""
    scale: Any = relevance_scale(relevance).numpy()[()]
    mean = thresholds.mean_relevance(relevance.numpy(), scale)
    if not 0 < mean < 1 or not layer.cost.any():
        lookup(weight, layer.plain, index)
        return
    beta, n = math.log(0.5) / math.log(mean), weight.numel()
    binned = _BinnedThresholds(weight.numpy(), relevance.numpy(), scale, layer, beta, index)
    fewest = math.ceil(binned.ecq_zeros + band[0] * n - ALLOWANCE)
    most = math.floor(binned.ecq_zeros + band[1] * n + ALLOWANCE)
    too_few = binned.excess(beta, fewest) < 0
    wanted = fewest if too_few else most
    if not too_few and binned.excess(beta, most) <= 0:
        binned.put_zeros_below(beta)
    elif binned.excess(0.0, wanted) >= 0:
        binned.put_zeros_below(0.0)
    elif binned.excess(1.0, wanted) <= 0:
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
        # A layer of few weights needs few bins.
        self.last_bin = min(len(weight) // 4 + 4 * MARGIN, MOST_BINS) - 1
        self.bins_per_unit = (self.last_bin - 2 * MARGIN) / max(1.0, beta)
        histogram = np.empty(self.last_bin + 1, np.int64)
        _, exponent = math.frexp(float(np.abs(self.values).max()))
        self.ecq_zeros = thresholds.bin_thresholds(
            weight,
            relevance,
            scale,
            layer.nonzero.numpy(),
            _zero_interval(layer),
            self.values,
            self.cost,
            self.zero,
            math.ldexp(1.0, -exponent),
            self.bins_per_unit,
            self.index,
            histogram,
        )
        self.up_to = histogram.cumsum()

    def excess(self, edge: float, count: int) -> int:
        """How many more t than ``count`` lie below an edge: the sign is exact."""
        edge_bin = self._bin_of(edge)
        surely, possibly = int(self.up_to[edge_bin - 2]), int(self.up_to[edge_bin + 1])
        if possibly < count or surely > count:
            return surely - count if surely > count else possibly - count
        _, t = self._within(edge_bin - 1, edge_bin + 1)
        return surely + int(np.count_nonzero(t < edge)) - count

    def put_zeros_below(self, edge: float) -> None:
        """Put the weights with t < edge into the zero cluster."""
        edge_bin = self._bin_of(edge)
        inside, t = self._within(edge_bin - 1, edge_bin + 1)
        self._settle(edge_bin - 1, inside[t < edge])

    def put_zeros(self, wanted: int, most: int) -> None:
        """Put the ``wanted`` weights of lowest t into the zero cluster.

        All that share the t of the last of them come along, or none if they would be above
        ``most`` then.
        """
        # The last of them is in this bin or the next ones, and the bins of its equals again so.
        middle = int(np.searchsorted(self.up_to, wanted))
        lowest, highest = max(middle - 2, 0), min(middle + 2, self.last_bin)
        below = int(self.up_to[lowest - 1]) if lowest > 0 else 0
        inside, t = self._within(lowest, highest)
        cut = np.partition(t, wanted - below - 1)[wanted - below - 1]
        with_equal = below + np.count_nonzero(t <= cut)
        self._settle(lowest, inside[t <= cut] if with_equal <= most else inside[t < cut])

    def _bin_of(self, edge: float) -> int:
        return thresholds.bin_of(edge, self.bins_per_unit, self.last_bin)

    def _within(self, lowest: int, highest: int) -> tuple[Places, Doubles]:
        """The weights of some bins, and their t."""
        before = self.up_to[lowest - 1] if lowest > 0 else 0
        places = np.empty(int(self.up_to[highest] - before), np.int64)
        thresholds.places_between(self.index, lowest, highest, places)
        t, clusters = np.empty(len(places)), self.index[places] & ((1 << CLUSTER) - 1)
        buffers = np.ones((5, BLOCK))
        for start in range(0, len(places), BLOCK):
            part = slice(start, start + BLOCK)
            at = places[part]
            thresholds.zero_thresholds(
                self.weight[at],
                self.relevance[at],
                self.scale,
                clusters[part],
                self.values,
                self.cost,
                self.zero,
                buffers,
            )
            t[part] = buffers[4, : len(at)]
        return places, t

    def _settle(self, edge_bin: int, places: Places) -> None:
        """Put the weights of the bins below an edge, and some others, into the zero cluster."""
        thresholds.settle(self.index, edge_bin, self.zero)
        self.index[places] = self.zero
