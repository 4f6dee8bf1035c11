"""Assignment of weights to centroids: ECQ and ECQx.

Paper: section 3, the ECQ and ECQx assignment. Both take the ``argmin`` over K costs; neither builds
the n x K cost tensor here. ECQ looks up the interval of the costs' lower envelope in which a weight
lies (`ecqx.assignment.envelope`). ECQx decides between zero and the best non-zero cluster
(`ecqx.assignment.zero_set`).

Layers on the CPU are assigned by compiled loops (`ecqx.assignment.loops`), those on another device
by tensor operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecqx.assignment.centroids import Centroids, GridStack, checked_weight, is_finite
from ecqx.assignment.envelope import envelope_bounds
from ecqx.assignment.information import (
    LAMBDA_MAX_CHOICES,
    PMF_CHOICES,
    LambdaMax,
    Pmf,
    Survey,
    information_cost,
)
from ecqx.assignment.zero_set import Layer, assign_on_cpu, assign_on_device


@dataclass(frozen=True)
class AssignmentSettings:
    """How weights are assigned; see `assign`.

    Raises
    ------
    ValueError
        With one line for the first setting that is out of range.
    """

    lam: float = 0.05
    p: float = 0.1
    sparsity_band: tuple[float, float] | None = None
    pmf: Pmf = "published"
    lambda_max: LambdaMax = "published"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise ValueError(f"lam (Lambda) must be a finite number, at least 0, not {self.lam}")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must lie in [0, 1], not {self.p}")
        if self.sparsity_band is not None:
            band = self.sparsity_band
            if len(band) != 2 or not -1 <= band[0] <= band[1] <= 1:
                raise ValueError(
                    "sparsity_band must be (low, high) with -1 <= low <= high <= 1, "
                    f"not {tuple(band)}"
                )
        if self.pmf not in PMF_CHOICES:
            raise ValueError(f"pmf must be one of {', '.join(PMF_CHOICES)}, not {self.pmf!r}")
        if self.lambda_max not in LAMBDA_MAX_CHOICES:
            choices = ", ".join(LAMBDA_MAX_CHOICES)
            raise ValueError(f"lambda_max must be one of {choices}, not {self.lambda_max!r}")

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest sparsity of ECQx, minus ECQ's."""
        return self.sparsity_band if self.sparsity_band is not None else (-self.p, 0.0)


def assign(
    weight: Tensor,
    grid: Centroids,
    lam: float = 0.05,
    relevance: Tensor | None = None,
    p: float = 0.1,
    sparsity_band: tuple[float, float] | None = None,
    largest_layer_size: int | None = None,
    pmf: Pmf = "published",
    lambda_max: LambdaMax = "published",
) -> Tensor:
    """Assign every weight of a layer to a centroid.

    Parameters
    ----------
    weight : Tensor
        Full-precision weights, any shape, floating point, finite.
    grid : CentroidGrid or Codebook
        From `CentroidGrid.fit`, or any centroids of `ecqx.assignment.codebooks`.
    lam : float
        Λ ≥ 0: strength of the entropy constraint; 0 for the nearest centroid, with relevance too.
    relevance : Tensor, optional
        Relevance of the weights (shape of ``weight``, finite), by magnitude: ECQx. None: ECQ.
    p : float
        Width of the sparsity band, in [0, 1]: short for ``sparsity_band=(-p, 0)``.
    sparsity_band : (float, float), optional
        Lowest and highest difference of ECQx's sparsity from ECQ's, each in [-1, 1].
    largest_layer_size : int, optional
        Elements of the model's largest quantized layer; this layer's own by default. Smaller layers
        get a smaller λ (`ecqx.assignment.information.information_cost`).
    pmf : {"published", "normalized"}
        See `ecqx.assignment.information.probabilities`.
    lambda_max : {"published", "derived"}
        See `ecqx.assignment.information.lambda_max`.

    Returns
    -------
    Tensor of int32, shape of ``weight``
        Indices into ``grid.values``.

    Raises
    ------
    ValueError
        If a setting is out of range, shapes differ, or a tensor is not finite.

    Examples
    --------
    >>> import torch
    >>> from ecqx.assignment.centroids import CentroidGrid
    >>> weight = torch.tensor([-0.9, -0.1, 0.05, 0.4, 0.8])
    >>> grid = CentroidGrid.fit(weight, bits=2)
    >>> assign(weight, grid, lam=0.0) - grid.zero
    tensor([-1,  0,  0,  0,  1], dtype=torch.int32)
    """
    settings = AssignmentSettings(lam, p, sparsity_band, pmf, lambda_max)
    weight = checked_weight(weight).contiguous()
    if largest_layer_size is not None and largest_layer_size < weight.numel():
        raise ValueError(
            f"largest_layer_size must be at least the layer's own {weight.numel()} elements, "
            f"not {largest_layer_size}"
        )
    if relevance is not None:
        relevance = checked_relevance(relevance, weight).contiguous()
    index = torch.empty(weight.shape, dtype=torch.int32, device=weight.device)
    assign_layers(
        [weight],
        GridStack.of([grid]),
        settings,
        None if relevance is None else [relevance],
        largest_layer_size or weight.numel(),
        [index],
    )
    return index


def assign_layers(
    weights: Sequence[Tensor],
    grids: GridStack,
    settings: AssignmentSettings,
    relevances: Sequence[Tensor] | None,
    largest_layer_size: int,
    indices: Sequence[Tensor],
) -> None:
    """Assign the weights of several layers.

    Parameters
    ----------
    weights : sequence of Tensor
        Contiguous, float32, finite, on one device.
    grids : GridStack
        One grid a layer.
    settings : AssignmentSettings
    relevances : sequence of Tensor or None
        Contiguous, float32, finite, of the shapes of ``weights``: ECQx. None: ECQ.
    largest_layer_size : int
        Elements of the model's largest quantized layer.
    indices : sequence of Tensor
        Contiguous, int32, of the shapes of ``weights``: overwritten by the indices of the
        centroids.
    """
    flat = [weight.flatten() for weight in weights]
    targets = [index.view(-1) for index in indices]
    if settings.lam == 0:
        for weight, midpoints, target in zip(flat, grids.midpoints, targets, strict=True):
            _lookup(weight, midpoints, target)
        return
    seen = survey(flat, grids)
    # Only the term λ·I of the costs; the envelope adds the distances.
    cost = information_cost(
        seen, grids, settings.lam, largest_layer_size, settings.pmf, settings.lambda_max
    )
    plain = envelope_bounds(grids.values, cost)
    if relevances is None:
        for weight, bounds, target in zip(flat, plain, targets, strict=True):
            _lookup(weight, bounds, target)
        return
    # An infinite cost takes the zero cluster out.
    nonzero = envelope_bounds(grids.values, cost.scatter(-1, grids.zero, math.inf))
    assign_one = assign_on_cpu if _has_loops(cost.device) else assign_on_device
    for i, (weight, target) in enumerate(zip(flat, targets, strict=True)):
        layer = Layer(grids.values[i], cost[i], grids.zero[i], plain[i], nonzero[i])
        assign_one(weight, relevances[i].flatten(), layer, settings.band, target)


def survey(weights: Sequence[Tensor], grids: GridStack) -> Survey:
    """Number of weights nearest to each centroid, and extreme weights, of each layer."""
    device = grids.values.device
    above = torch.zeros(len(weights), grids.values.shape[1] + 1, dtype=torch.int64, device=device)
    extremes = torch.empty(len(weights), 2, device=device)
    for weight, midpoints, row, ends in zip(weights, grids.midpoints, above, extremes, strict=True):
        row[0] = weight.numel()
        _count_above(weight, midpoints, row[1:-1])
        torch.aminmax(weight, out=(ends[0], ends[1]))
    # A cluster's weights lie above its lower midpoint, but not above its upper one. All weights lie
    # above the lower end of the first cluster, none above the upper end of the last.
    counts = (above[:, :-1] - above[:, 1:]).double()
    low, high = extremes.double()[..., None].unbind(1)
    return Survey(counts, low, high)


def _has_loops(device: torch.device) -> bool:
    return device.type == "cpu"


def _lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write the number of bounds below each weight; bounds ascend."""
    if _has_loops(weight.device):
        from ecqx.assignment import loops

        loops.lookup(weight.numpy(), bounds.numpy(), index.numpy())
    else:
        torch.bucketize(weight, bounds, out_int32=True, out=index)


def _count_above(weight: Tensor, bounds: Tensor, counts: Tensor) -> None:
    """Write the number of weights above each of the ascending bounds."""
    if _has_loops(weight.device):
        from ecqx.assignment import loops

        loops.count_above(weight.numpy(), bounds.numpy(), counts.numpy())
        return
    below = torch.bucketize(weight, bounds)
    members = counts.new_zeros(len(bounds) + 1).scatter_add_(0, below, torch.ones_like(below))
    counts.copy_(members.flip(0).cumsum(0).flip(0)[1:])


def checked_relevance(relevance: Tensor, weight: Tensor) -> Tensor:
    """Return ``relevance`` detached, as float32.

    Raises
    ------
    ValueError
        If its shape is not that of ``weight``, or it is not finite.
    """
    if relevance.shape != weight.shape:
        raise ValueError(
            f"relevance has shape {tuple(relevance.shape)}, weight has {tuple(weight.shape)}"
        )
    relevance = relevance.detach().to(torch.float32)
    if not is_finite(relevance):
        raise ValueError("relevance holds NaN or infinite values")
    return relevance
