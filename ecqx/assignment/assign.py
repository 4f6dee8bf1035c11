"""Which cluster a weight goes to: ECQ by thresholds, ECQx by ranks.

Paper: equations for the ECQ and ECQx assignment, section 3. Both take the ``argmin`` over K
costs; neither builds the n x K cost tensor here.

* All parabolas ``(w - w_c)² + λ I_c`` have the same curvature, so their lower envelope is at most
  K intervals of the real line: a search in the interval bounds is the argmin.
* ECQx multiplies only the zero cluster's cost, so a weight decides between zero and its best
  non-zero cluster: it goes to zero iff β exceeds a value ``t`` of its own. A wanted number of
  zeros is a rank among the ``t``.

Layers on the CPU are left to the compiled loops of `ecqx.assignment.compiled`; those on another
device take the same steps with tensors, without waiting for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ecqx.assignment.centroids import Centroids, GridStack, checked_weight, is_finite
from ecqx.assignment.envelope import envelope_bounds
from ecqx.assignment.information import (
    LAMBDA_MAX_CHOICES,
    PMF_CHOICES,
    SMALLEST_FLOAT64,
    LambdaMax,
    Pmf,
    Survey,
    information_cost,
)
from ecqx.assignment.layer import ALLOWANCE, RELEVANCE_EPSILON, Layer, relevance_scale


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
        """Lowest and highest sparsity of ECQx, relative to ECQ's."""
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
        Λ ≥ 0: strength of the entropy constraint; 0 for the nearest centroid.
    relevance : Tensor, optional
        Relevance of the weights (shape of ``weight``, finite, any sign): ECQx. None: ECQ.
    p : float
        Width of the sparsity band, in [0, 1]: short for ``sparsity_band=(-p, 0)``.
    sparsity_band : (float, float), optional
        Lowest and highest sparsity of ECQx relative to ECQ's, each in [-1, 1].
    largest_layer_size : int, optional
        Elements of the model's largest quantized layer; this layer's own by default.
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
        Contiguous, int32, of the shapes of ``weights``: the indices of the centroids go there.
    """
    flat = [weight.flatten() for weight in weights]
    targets = [index.view(-1) for index in indices]
    if settings.lam == 0:
        for weight, middles, target in zip(flat, grids.middles, targets, strict=True):
            _lookup(weight, middles, target)
        return
    has_loops = _has_loops(grids.values.device)
    cost_of = _loops().information_cost if has_loops else information_cost
    bounds_of = _loops().envelope_bounds if has_loops else envelope_bounds
    assign_one = _loops().ecqx if has_loops else _ecqx
    cost = cost_of(
        survey(flat, grids),
        grids,
        settings.lam,
        largest_layer_size,
        settings.pmf,
        settings.lambda_max,
    )
    plain = bounds_of(grids.values, cost)
    if relevances is None:
        for weight, bounds, target in zip(flat, plain, targets, strict=True):
            _lookup(weight, bounds, target)
        return
    nonzero = bounds_of(grids.values, cost.scatter(-1, grids.zero, math.inf))
    for i, (weight, target) in enumerate(zip(flat, targets, strict=True)):
        layer = Layer(grids.values[i], cost[i], grids.zero[i], plain[i], nonzero[i])
        assign_one(weight, relevances[i].flatten(), layer, settings.band, target)


def _has_loops(device: torch.device) -> bool:
    return device.type == "cpu"


def _loops() -> ModuleType:
    """`ecqx.assignment.compiled`; numba is imported with it, when the first layer needs it."""
    from ecqx.assignment import compiled

    return compiled


def survey(weights: Sequence[Tensor], grids: GridStack) -> Survey:
    """Occupancy of the clusters and extremes of each layer."""
    counts = torch.empty_like(grids.values)
    extremes = torch.empty(len(counts), 2, device=counts.device)
    for weight, middles, row, ends in zip(weights, grids.middles, counts, extremes, strict=True):
        if _has_loops(weight.device):
            _loops().occupancy(weight, middles, row, ends)
        else:
            nearest = torch.bucketize(weight, middles)
            row.zero_().scatter_add_(0, nearest, torch.ones_like(weight, dtype=row.dtype))
            torch.aminmax(weight, out=(ends[0], ends[1]))
    low, high = extremes.double().unsqueeze(-1).unbind(1)
    return Survey(counts, low, high)


def _lookup(weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    """Write how many of the ascending bounds lie below each weight."""
    if _has_loops(weight.device):
        _loops().lookup(weight, bounds, index)
    else:
        torch.bucketize(weight, bounds, out_int32=True, out=index)


# -- ECQx ------------------------------------------------------------------------------------------


def _ecqx(
    weight: Tensor, relevance: Tensor, layer: Layer, band: tuple[float, float], index: Tensor
) -> None:
    """Write ECQx's assignment: the zero cluster's cost is multiplied by ``2 (R + 1e-12)^β``.

    β starts at its neutral value ``ln ½ / ln mean(R)``, at which a weight of mean relevance has
    factor one, and is moved as little as needed, within [0, 1], for the sparsity to lie in
    ``band`` around ECQ's own. ECQ's assignment where distances alone decide, or the relevance says
    nothing: mean(R) is 0, or not below 1.
    """
    plain = torch.bucketize(weight, layer.plain, out_int32=True)
    nonzero = torch.bucketize(weight, layer.nonzero, out_int32=True)
    R = (relevance.abs() / relevance_scale(relevance)).to(torch.float64)
    mean, n = R.mean(), weight.numel()
    ecq_zeros = (plain == layer.zero).sum().double()
    t = zero_threshold(weight, layer.values, layer.cost, layer.zero, nonzero, R)
    zeros = zero_set(
        t,
        math.log(0.5) / mean.log(),
        (ecq_zeros + band[0] * n - ALLOWANCE).ceil(),
        (ecq_zeros + band[1] * n + ALLOWANCE).floor(),
    )
    tells = (mean > 0) & (mean < 1) & layer.cost.any()
    zero = layer.zero.to(torch.int32)
    index.copy_(torch.where(tells, torch.where(zeros, zero, nonzero), plain))


def zero_threshold(
    weight: Tensor, values: Tensor, cost: Tensor, zero: Tensor, nonzero: Tensor, R: Tensor
) -> Tensor:
    """The β above which each weight goes to the zero cluster.

    ``2 c₀ R^β < c₊`` iff ``β > t = ln(c₊ / 2c₀) / ln R``, with c₀ the cost at zero and c₊ the
    lowest cost elsewhere. Where R = 1 the factor does not depend on β, and t is beyond any β.

    Parameters
    ----------
    weight : Tensor of float32, shape (n,)
    values, cost : Tensor of float64, shape (K,)
        Centroids and λ·I.
    zero : Tensor of int64, shape (1,)
        Index of the zero cluster.
    nonzero : Tensor of int32, shape (n,)
        Best non-zero cluster of each weight.
    R : Tensor of float64, shape (n,)
        Relevance in [0, 1].

    Returns
    -------
    Tensor of float64, shape (n,)
    """
    w = weight.to(torch.float64)
    at_zero = w.square().add_(cost[zero]).mul_(2)
    elsewhere = w.sub_(values.index_select(0, nonzero)).square_()
    elsewhere.add_(cost.index_select(0, nonzero))
    log_R = R.add(RELEVANCE_EPSILON).log_().clamp_(max=-SMALLEST_FLOAT64)
    return elsewhere.div_(at_zero).log_().div_(log_R)


def zero_set(t: Tensor, beta: Tensor, fewest: Tensor, most: Tensor) -> Tensor:
    """Which weights go to zero: ``t < β`` for the β nearest to ``beta`` that meets the band.

    Parameters
    ----------
    t : Tensor of float64, shape (n,)
        From `zero_threshold`.
    beta : Tensor of float64
        Neutral β; kept, even above 1, if its number of zeros lies in the band.
    fewest, most : Tensor
        Band of the number of zeros. Otherwise β lies in [0, 1]: if one value of ``t`` is shared
        by so many weights that no β meets the band, or ``fewest`` is out of reach, the largest
        number of zeros not above ``most`` is taken.

    Returns
    -------
    Tensor of bool, shape (n,)
    """
    neutral, least, reachable = (t < beta).sum(), (t < 0).sum(), (t < 1).sum()
    wanted = torch.where(neutral < fewest, fewest, most)
    rank = (wanted - 1).clamp(0, t.numel() - 1).long()
    cut = t.sort().values.gather(0, rank.reshape(1)).squeeze(0)
    # With all weights that share the t of this rank, if the band allows it, or with none of them.
    above = torch.nextafter(cut, torch.full_like(cut, math.inf))
    edge = torch.where((t <= cut).sum() <= most, above, cut)
    edge = torch.where(wanted >= reachable, 1.0, edge)
    edge = torch.where(wanted <= least, 0.0, edge)
    edge = torch.where((fewest <= neutral) & (neutral <= most), beta, edge)
    return t < edge


# -- checks ----------------------------------------------------------------------------------------


def checked_relevance(relevance: Tensor, weight: Tensor) -> Tensor:
    """Return ``relevance`` as a detached float32 tensor, or raise ``ValueError``."""
    if relevance.shape != weight.shape:
        raise ValueError(
            f"relevance has shape {tuple(relevance.shape)}, weight has {tuple(weight.shape)}"
        )
    relevance = relevance.detach().to(torch.float32)
    if not is_finite(relevance):
        raise ValueError("relevance holds NaN or infinite values")
    return relevance
