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
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ecqx.assignment import loops
from ecqx.assignment.centroids import Centroids, GridStack, checked_weight, is_finite
from ecqx.assignment.envelope import envelope_bounds
from ecqx.assignment.information import Occupancy, information_cost
from ecqx.assignment.settings import AssignmentSettings, Beta, LambdaMax, Pmf
from ecqx.assignment.zero_set import RELEVANCE_EPSILON, Layer, assign_on_cpu, assign_on_device


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
    beta: Beta = "nearest",
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
    beta : {"nearest", "nearest_above_p", "published"}
        How β is found where its neutral value gives a sparsity out of the band
        (`ecqx.assignment.zero_set`).

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
    settings = AssignmentSettings(lam, p, sparsity_band, pmf, lambda_max, beta)
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
        ["the layer"],
        [weight],
        GridStack.of([grid]),
        settings,
        None if relevance is None else [relevance],
        largest_layer_size or weight.numel(),
        [index],
    )
    return index


def assign_layers(
    names: Sequence[str],
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
    names : sequence of str
        Of the layers, for messages.
    weights : sequence of Tensor
        Contiguous, float32, on one device.
    grids : GridStack
        One grid a layer.
    settings : AssignmentSettings
    relevances : sequence of Tensor or None
        Contiguous, float32, of the shapes of ``weights``: ECQx. None: ECQ.
    largest_layer_size : int
        Elements of the model's largest quantized layer.
    indices : sequence of Tensor
        Contiguous, int32, of the shapes of ``weights``: overwritten by the indices of the
        centroids.

    Raises
    ------
    ValueError
        On the CPU: for the first layer with a tensor that is not finite, before any assignment.
        Another device would have to be waited for.
    """
    flat = [weight.flatten() for weight in weights]
    targets = [index.view(-1) for index in indices]
    ends = {"weight": extremes(flat)}
    if relevances is not None:
        ends["relevance"] = extremes(relevances)
    if _has_loops(grids.values.device):
        check_finite(names, ends | {"codebook": extremes(grids.values)})
    if settings.lam == 0:
        for weight, midpoints, target in zip(flat, grids.midpoints, targets, strict=True):
            _lookup(weight, midpoints, target)
        return
    # Only the term λ·I of the costs; the envelope adds the distances.
    cost = information_cost(
        occupancy(flat, ends["weight"], grids),
        grids,
        settings.lam,
        largest_layer_size,
        settings.pmf,
        settings.lambda_max,
    )
    all_bounds = envelope_bounds(grids.values, cost)
    if relevances is None:
        for weight, bounds, target in zip(flat, all_bounds, targets, strict=True):
            _lookup(weight, bounds, target)
        return
    # An infinite cost takes the zero cluster out.
    nonzero_bounds = envelope_bounds(grids.values, cost.scatter(-1, grids.zero, math.inf))
    scales = relevance_scale(ends["relevance"])
    assign_one = assign_on_device
    if _has_loops(cost.device) and settings.beta != "published":
        assign_one = assign_on_cpu
    for i, (weight, target) in enumerate(zip(flat, targets, strict=True)):
        clusters = (grids.values[i], cost[i], grids.zero[i])
        layer = Layer(*clusters, all_bounds[i], nonzero_bounds[i], scales[i])
        assign_one(weight, relevances[i].flatten(), layer, settings, target)


def extremes(tensors: Sequence[Tensor] | Tensor) -> Tensor:
    """Lowest and highest number of each of L tensors: (L, 2); NaN for one that holds NaN."""
    ends = torch.empty(len(tensors), 2, dtype=tensors[0].dtype, device=tensors[0].device)
    for tensor, (low, high) in zip(tensors, ends, strict=True):
        torch.aminmax(tensor, out=(low, high))
    return ends


def check_finite(names: Sequence[str], ends: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` for the first layer with `extremes` not finite; waits for a GPU.

    ``ends`` are the extremes of all layers by what they are of: weight, relevance, codebook.
    """
    for kind, of_kind in ends.items():
        finite = of_kind.isfinite().all(-1)
        if not finite.all():
            name = names[finite.tolist().index(False)]
            hint = "; try another composite" if kind == "relevance" else ""
            raise ValueError(f"{name}: {kind} holds NaN or infinite values{hint}")


def relevance_scale(ends: Tensor) -> Tensor:
    """The scale of R = |r| / (max|r| + 1e-12), in float32: the largest R is mostly one."""
    return ends.abs().amax(-1) + RELEVANCE_EPSILON


def occupancy(weights: Sequence[Tensor], ends: Tensor, grids: GridStack) -> Occupancy:
    """The weights nearest to each centroid, and the extreme weights, of each layer."""
    device = grids.values.device
    above = torch.zeros(len(weights), grids.values.shape[1] + 1, dtype=torch.int64, device=device)
    for weight, midpoints, row in zip(weights, grids.midpoints, above, strict=True):
        row[0] = weight.numel()
        _count_above(weight, midpoints, row[1:-1])
    # A cluster's weights lie above its lower midpoint, but not above its upper one. All weights lie
    # above the lower end of the first cluster, none above the upper end of the last.
    counts = (above[:, :-1] - above[:, 1:]).double()
    low, high = ends.double()[..., None].unbind(1)
    return Occupancy(counts, low, high)


def _has_loops(device: torch.device) -> bool:
    return device.type == "cpu"


def _lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write the number of bounds below each weight; bounds ascend."""
    if _has_loops(weight.device):
        loops.lookup(weight.numpy(), bounds.numpy(), index.numpy())
    else:
        torch.bucketize(weight, bounds, out_int32=True, out=index)


def _count_above(weight: Tensor, bounds: Tensor, counts: Tensor) -> None:
    """Write the number of weights above each of the ascending bounds."""
    if _has_loops(weight.device):
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
