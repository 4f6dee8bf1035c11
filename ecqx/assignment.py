"""Which cluster a weight goes to: ECQ by thresholds, ECQx by ranks.

Paper: equations for the ECQ and ECQx assignment, section 3. Both take the ``argmin`` over K
costs; neither builds the n x K cost tensor here.

* All parabolas ``(w - w_c)² + λ I_c`` have the same curvature, so their lower envelope is at most
  K intervals of the real line: a search in the interval bounds is the argmin.
* ECQx multiplies only the zero cluster's cost, so a weight decides between zero and its best
  non-zero cluster: it goes to zero iff β exceeds a value ``t`` of its own. A wanted number of
  zeros is a rank among the ``t``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ecqx.centroids import (
    LAMBDA_MAX_CHOICES,
    PMF_CHOICES,
    CentroidGrid,
    LambdaMax,
    Pmf,
    checked_weight,
    information_cost,
    is_finite,
    round_down,
)

RELEVANCE_EPSILON = 1e-12
SMALLEST_FLOAT64 = 5e-324


@dataclass(frozen=True)
class Envelope:
    """Lower envelope of equally curved parabolas.

    Attributes
    ----------
    bounds : Tensor of float32, shape (m - 1,)
        Ascending; interval ``i`` ends at ``bounds[i]``, which belongs to it.
    owners : Tensor of int32, shape (m,)
        Index of the parabola that is lowest in each interval.
    """

    bounds: Tensor
    owners: Tensor

    def lookup(self, weight: Tensor) -> Tensor:
        """Index of the lowest parabola at each weight; int32, shape of ``weight``."""
        interval = torch.bucketize(weight.flatten(), self.bounds, out_int32=True)
        return self.owners.index_select(0, interval).reshape(weight.shape)

    def count(self, weight: Tensor, owner: int) -> int:
        """How many weights parabola ``owner`` is lowest at."""
        place = torch.nonzero(self.owners == owner).flatten().tolist()
        if not place:
            return 0
        edges = [-math.inf, *self.bounds.tolist(), math.inf]
        low, high = edges[place[0]], edges[place[0] + 1]
        return int(((weight > low) & (weight <= high)).sum())


def lower_envelope(centers: Sequence[float], offsets: Sequence[float]) -> Envelope:
    """Lower envelope of the parabolas ``(w - center)² + offset``.

    Parameters
    ----------
    centers : sequence of float
        Ascending, equal neighbours allowed.
    offsets : sequence of float
        At least one finite; an infinite one takes its parabola out.

    Returns
    -------
    Envelope
        On the CPU. Where two parabolas are equal the lower index owns the point.
    """
    owners: list[int] = []
    bounds: list[float] = []

    def crossing(i: int, j: int) -> float:
        middle = (centers[i] + centers[j]) / 2
        return middle + (offsets[j] - offsets[i]) / (2 * (centers[j] - centers[i]))

    for j in range(len(centers)):
        if math.isinf(offsets[j]):
            continue
        if owners and centers[owners[-1]] == centers[j]:
            if offsets[owners[-1]] <= offsets[j]:
                continue
            owners.pop()
            del bounds[len(owners) - 1 :]
        while bounds and crossing(owners[-1], j) <= bounds[-1]:
            owners.pop()
            bounds.pop()
        if owners:
            bounds.append(crossing(owners[-1], j))
        owners.append(j)
    return Envelope(
        bounds=round_down(torch.tensor(bounds, dtype=torch.float64)),
        owners=torch.tensor(owners, dtype=torch.int32),
    )


def ecq_index(weight: Tensor, grid: CentroidGrid, info_cost: Tensor | None) -> Tensor:
    """ECQ assignment ``argmin_c (w - w_c)² + λ I_c``.

    Parameters
    ----------
    weight : Tensor of float32
    grid : CentroidGrid
    info_cost : Tensor of float64, shape (K,), or None
        λ·I_c; None for distances alone.

    Returns
    -------
    Tensor of int32, shape of ``weight``
    """
    offsets = [0.0] * len(grid) if info_cost is None else info_cost.tolist()
    return _envelope_on(weight, grid, offsets).lookup(weight)


def _envelope_on(weight: Tensor, grid: CentroidGrid, offsets: Sequence[float]) -> Envelope:
    envelope = lower_envelope(grid.values.tolist(), offsets)
    return Envelope(envelope.bounds.to(weight.device), envelope.owners.to(weight.device))


def ecqx_index(
    weight: Tensor,
    grid: CentroidGrid,
    info_cost: Tensor,
    relevance: Tensor,
    band: tuple[float, float],
) -> Tensor:
    """ECQx assignment: the zero cluster's cost is multiplied by ``2 (R + 1e-12)^β``.

    β starts at its neutral value ``ln ½ / ln mean(R)``, at which a weight of mean relevance has
    factor one, and is moved as little as needed, within [0, 1], for the sparsity to lie in
    ``band`` around ECQ's own.

    Parameters
    ----------
    weight : Tensor of float32
    grid : CentroidGrid
    info_cost : Tensor of float64, shape (K,)
        λ·I_c.
    relevance : Tensor of float32
        Relevance of the weights, any sign; its magnitude counts. Shape of ``weight``.
    band : (float, float)
        Lowest and highest sparsity, relative to ECQ's.

    Returns
    -------
    Tensor of int32, shape of ``weight``
        ECQ's assignment where the relevance says nothing: mean(R) is 0, or not below 1.
    """
    plain = _envelope_on(weight, grid, info_cost.tolist())
    R = relative_relevance(relevance)
    mean = float(R.mean())
    offsets = info_cost.tolist()
    offsets[grid.zero] = math.inf
    if not 0 < mean < 1 or all(map(math.isinf, offsets)):
        return plain.lookup(weight)
    nonzero = _envelope_on(weight, grid, offsets).lookup(weight)
    t = zero_threshold(weight, grid, info_cost, nonzero, R)
    n, ecq_zeros = weight.numel(), plain.count(weight, grid.zero)
    # The allowance is for sums such as 0.1 * 30, which are a hair beside the whole number.
    fewest = math.ceil(ecq_zeros + band[0] * n - 1e-6)
    most = math.floor(ecq_zeros + band[1] * n + 1e-6)
    zeros = zero_set(t, math.log(0.5) / math.log(mean), fewest, most)
    return nonzero.masked_fill_(zeros, grid.zero)


def relative_relevance(relevance: Tensor) -> Tensor:
    """R = |r| / (max|r| + 1e-12) in [0, 1]: float32 arithmetic, so that the largest R is one."""
    magnitude = relevance.abs()
    return magnitude.div_(magnitude.max() + RELEVANCE_EPSILON).to(torch.float64)


def zero_threshold(
    weight: Tensor, grid: CentroidGrid, info_cost: Tensor, nonzero: Tensor, R: Tensor
) -> Tensor:
    """The β above which each weight goes to the zero cluster.

    ``2 c₀ R^β < c₊`` iff ``β > t = ln(c₊ / 2c₀) / ln R``, with c₀ the cost at zero and c₊ the
    lowest cost elsewhere. Where R = 1 the factor does not depend on β, and t is beyond any β.

    Parameters
    ----------
    weight, info_cost
        As for `ecqx_index`.
    nonzero : Tensor of int32
        Best non-zero cluster of each weight.
    R : Tensor of float64
        Relevance in [0, 1].

    Returns
    -------
    Tensor of float64, shape of ``weight``
    """
    w = weight.to(torch.float64)
    values, cost = grid.values.to(torch.float64), info_cost.to(weight.device)
    at_zero = w.square().add_(cost[grid.zero]).mul_(2)
    chosen = nonzero.flatten()
    elsewhere = w.sub_(values.index_select(0, chosen).reshape(w.shape)).square_()
    elsewhere.add_(cost.index_select(0, chosen).reshape(w.shape))
    log_R = R.add(RELEVANCE_EPSILON).log_().clamp_(max=-SMALLEST_FLOAT64)
    return elsewhere.div_(at_zero).log_().div_(log_R)


def zero_set(t: Tensor, beta: float, fewest: int, most: int) -> Tensor:
    """Which weights go to zero: ``t < β`` for the β nearest to ``beta`` that meets the band.

    Parameters
    ----------
    t : Tensor of float64
        From `zero_threshold`.
    beta : float
        Neutral β; kept, even above 1, if its number of zeros lies in the band.
    fewest, most : int
        Band of the number of zeros. Otherwise β lies in [0, 1]: if one value of ``t`` is shared
        by so many weights that no β meets the band, or ``fewest`` is out of reach, the largest
        number of zeros not above ``most`` is taken.

    Returns
    -------
    Tensor of bool, shape of ``t``
    """
    neutral = t < beta
    count = int(neutral.sum())
    if fewest <= count <= most:
        return neutral
    least, reachable = t < 0, t < 1
    always = int(least.sum())
    wanted = fewest if count < fewest else most
    if wanted <= always:
        return least
    open_t = t[reachable & ~least]
    if wanted - always >= open_t.numel():
        return reachable
    cut = open_t.kthvalue(wanted - always).values
    zeros = t <= cut
    return zeros if int(zeros.sum()) <= most else t < cut


def assign(
    weight: Tensor,
    grid: CentroidGrid,
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
    grid : CentroidGrid
        From `CentroidGrid.fit`.
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
        See `ecqx.centroids.probabilities`.
    lambda_max : {"published", "derived"}
        See `ecqx.centroids.lambda_max`.

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
    >>> weight = torch.tensor([-0.9, -0.1, 0.05, 0.4, 0.8])
    >>> grid = CentroidGrid.fit(weight, bits=2)
    >>> assign(weight, grid, lam=0.0) - grid.zero
    tensor([-1,  0,  0,  0,  1], dtype=torch.int32)
    """
    weight = checked_weight(weight).contiguous()
    check_settings(lam, p, sparsity_band, pmf, lambda_max)
    if largest_layer_size is not None and largest_layer_size < weight.numel():
        raise ValueError(
            f"largest_layer_size must be at least the layer's own {weight.numel()} elements, "
            f"not {largest_layer_size}"
        )
    if relevance is not None:
        relevance = checked_relevance(relevance, weight)
    info_cost = information_cost(weight, grid, lam, largest_layer_size, pmf, lambda_max)
    if relevance is None or info_cost is None:
        return ecq_index(weight, grid, info_cost)
    band = sparsity_band if sparsity_band is not None else (-p, 0.0)
    return ecqx_index(weight, grid, info_cost, relevance, band)


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


def check_settings(
    lam: float,
    p: float,
    sparsity_band: tuple[float, float] | None,
    pmf: str,
    lambda_max: str,
) -> None:
    """Raise ``ValueError`` with one line for the first assignment setting that is out of range."""
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam (Lambda) must be a finite number, at least 0, not {lam}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], not {p}")
    if sparsity_band is not None:
        low, high = sparsity_band
        if not -1 <= low <= high <= 1:
            raise ValueError(
                f"sparsity_band must be (low, high) with -1 <= low <= high <= 1, "
                f"not {tuple(sparsity_band)}"
            )
    if pmf not in PMF_CHOICES:
        raise ValueError(f"pmf must be one of {', '.join(PMF_CHOICES)}, not {pmf!r}")
    if lambda_max not in LAMBDA_MAX_CHOICES:
        raise ValueError(
            f"lambda_max must be one of {', '.join(LAMBDA_MAX_CHOICES)}, not {lambda_max!r}"
        )
