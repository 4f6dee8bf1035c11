"""Where the clusters of a weight tensor lie, and how much information each carries.

Paper: section 3 (entropy-constrained quantization). The grid is equidistant and holds zero; its
step follows from the weights, its information content from how many weights are nearest to each
centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pmf = Literal["published", "normalized"]
LambdaMax = Literal["published", "derived"]

PMF_CHOICES: tuple[Pmf, ...] = ("published", "normalized")
LAMBDA_MAX_CHOICES: tuple[LambdaMax, ...] = ("published", "derived")
MIN_BITS, MAX_BITS = 2, 8
# Beyond any cost of a float32 weight, and λ·I stays finite: only an empty cluster costs infinity.
LARGEST_LAMBDA = 1e290
# Equal probabilities may differ by this much, in bits, after shrinking.
ROUNDING_OF_INFORMATION = 1e-12


@dataclass(frozen=True, eq=False)
class CentroidGrid:
    """An equidistant grid of centroids ``k * step`` that contains zero.

    Attributes
    ----------
    values : Tensor of float32, shape (K,)
        The centroids, ascending: ``float32(k) * float32(step)``.
    step : float
        Distance of neighbouring centroids, exactly representable as float32.
    zero : int
        Index of the centroid 0; the integer ``k`` of index ``i`` is ``i - zero``.
    """

    values: Tensor
    step: float
    zero: int

    @classmethod
    def from_step(cls, step: float, first: int, count: int, device: torch.device) -> CentroidGrid:
        """Grid of ``count`` centroids ``first * step, (first + 1) * step, …``."""
        k = torch.arange(first, first + count, dtype=torch.float32, device=device)
        return cls(values=k * torch.tensor(step, dtype=torch.float32), step=step, zero=-first)

    @classmethod
    def fit(cls, weight: Tensor, bits: int = 4) -> CentroidGrid:
        """Fit the grid to a weight tensor.

        The step is the 99.9th percentile of the magnitudes over the largest integer of the
        smaller side, so that the outermost weights do not stretch the grid (published code).

        Parameters
        ----------
        weight : Tensor
            Weights of any shape, at least one element, all finite.
        bits : int
            Bit width, 2 to 8; the grid has ``2 ** bits`` centroids.

        Returns
        -------
        CentroidGrid

        Raises
        ------
        ValueError
            If ``bits`` is out of range or ``weight`` is empty, not floating point or not finite.
        """
        if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits must be an integer from {MIN_BITS} to {MAX_BITS}, not {bits!r}")
        flat = checked_weight(weight).flatten()
        half = 2 ** (bits - 1)
        signed = bool((flat < 0).any())
        largest = half - 1 if signed else 2 * half - 1
        step = _step(flat.abs(), largest)
        first = _lowest_integer(flat, half) if signed else 0
        grid = cls.from_step(step, first, 2 * half, weight.device)
        if not torch.isfinite(grid.values).all():
            raise ValueError("weight is too large for a float32 grid; scale the layer down")
        return grid

    def __len__(self) -> int:
        return self.values.numel()


def checked_weight(weight: Tensor) -> Tensor:
    """Return ``weight`` as a detached float32 tensor, or raise ``ValueError`` if it is unusable."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ValueError("weight must be a floating-point tensor")
    if weight.numel() == 0:
        raise ValueError("weight has no elements")
    weight = weight.detach().to(torch.float32)
    if not is_finite(weight):
        raise ValueError("weight holds NaN or infinite values")
    return weight


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: both show in its extremes."""
    return all(math.isfinite(float(extreme)) for extreme in torch.aminmax(tensor))


def _step(magnitude: Tensor, largest: int) -> float:
    """99.9th percentile (linear interpolation) over ``largest``; the maximum where that is 0."""
    for extent in (percentile(magnitude, 0.999), magnitude.max()):
        step = float(extent / largest)
        if step > 0:
            return step
    return 1.0


def percentile(values: Tensor, q: float) -> Tensor:
    """Linear-interpolated quantile of a flat tensor (``torch.quantile`` ends at 2^24 elements)."""
    position = q * (values.numel() - 1)
    below = math.floor(position)
    low = values.kthvalue(below + 1).values
    if below + 1 == values.numel():
        return low
    high = values.kthvalue(below + 2).values
    return torch.lerp(low, high, position - below)


def _lowest_integer(flat: Tensor, half: int) -> int:
    """Lowest k of a signed grid: the side that wins a vote of five statistics of the positive
    against the negative magnitudes has the extra centroid (published code); ties count negative.
    """
    positive = _side_statistics(flat[flat > 0])
    negative = _side_statistics(-flat[flat < 0])
    votes = sum(p > n for p, n in zip(positive, negative, strict=True))
    return 1 - half if votes >= 3 else -half


def _side_statistics(magnitude: Tensor) -> tuple[float, ...]:
    """Maximum, mean, count, sum, standard deviation (n - 1) of one side; zeros where undefined."""
    magnitude = magnitude.to(torch.float64)  # a tie is a tie, in whatever order they are summed
    n = magnitude.numel()
    if n == 0:
        return (0.0,) * 5
    deviation = float(magnitude.std()) if n > 1 else 0.0
    return (float(magnitude.max()), float(magnitude.mean()), n, float(magnitude.sum()), deviation)


def round_down(bounds: Tensor) -> Tensor:
    """Largest float32 not above each float64 bound, so that ``w <= bound`` decides exactly."""
    rounded = bounds.to(torch.float32)
    lower = torch.nextafter(rounded, torch.full_like(rounded, -math.inf))
    return torch.where(rounded.to(torch.float64) > bounds, lower, rounded)


def occupancy(weight: Tensor, grid: CentroidGrid) -> Tensor:
    """Count the weights whose nearest centroid each centroid is.

    Parameters
    ----------
    weight : Tensor of float32
    grid : CentroidGrid

    Returns
    -------
    Tensor of float64, shape (K,)
        Counts; a weight half-way between two centroids belongs to the lower one.
    """
    nearest = nearest_centroid(weight.flatten(), grid)
    return torch.bincount(nearest, minlength=len(grid)).to(torch.float64)


def nearest_centroid(flat: Tensor, grid: CentroidGrid) -> Tensor:
    """Index of the nearest centroid of each weight, the lower one half-way between two.

    ``round(w / step)`` is at most one off, by rounding, and that is put right by comparing with the
    exact middles; a search in them takes three times as long.
    """
    values = grid.values.to(torch.float64)
    infinity = torch.tensor([math.inf], device=flat.device)
    middles = round_down((values[:-1] + values[1:]) / 2)
    lower, upper = torch.cat((-infinity, middles)), torch.cat((middles, infinity))
    guess = (flat / grid.step).round_().clamp_(-grid.zero, len(grid) - 1 - grid.zero)
    index = guess.to(torch.int32).add_(grid.zero)
    too_low = flat > upper.index_select(0, index)
    too_high = flat <= lower.index_select(0, index)
    return index.add_(too_low).sub_(too_high.to(torch.int32))


def probabilities(counts: Tensor, zero: int, pmf: Pmf = "published") -> Tensor:
    """Probability mass P_c of the clusters, with the zero cluster raised to at least one half.

    Parameters
    ----------
    counts : Tensor of float64, shape (K,)
        Occupancy of the clusters.
    zero : int
        Index of the zero cluster.
    pmf : {"published", "normalized"}
        How the other clusters shrink where P_0 < 1/2. ``published`` follows the code of 2024,
        whose loop has already overwritten P_0 when it comes to the clusters above zero, so that
        the result does not sum to one. ``normalized`` shrinks all alike.

    Returns
    -------
    Tensor of float64, shape (K,)
    """
    share = counts / counts.sum()
    p_zero = float(share[zero])
    if p_zero >= 0.5:
        return share
    r = (0.5 - p_zero) / (1 - p_zero)
    shrunk = share * (1 - r)
    if pmf == "published":
        shrunk[zero + 1 :] = share[zero + 1 :] * (1 - r / (1 - p_zero))
    shrunk[zero] = 0.5
    return shrunk


def information(probability: Tensor) -> Tensor:
    """Information content I_c = -log2 P_c in bits; infinite for an empty cluster."""
    return -torch.log2(probability)


def lambda_max(
    weight: Tensor,
    grid: CentroidGrid,
    counts: Tensor,
    info: Tensor,
    formula: LambdaMax = "published",
) -> float:
    """The λ at which an outermost cluster gives up its extreme weight to the zero cluster.

    Parameters
    ----------
    weight : Tensor of float32
    grid : CentroidGrid
    counts : Tensor, shape (K,)
        Occupancy of the clusters.
    info : Tensor, shape (K,)
        Information content of the clusters, bits.
    formula : {"published", "derived"}
        ``published``: ``((w_c - w_e)² - (0 - w_e))² / (I_e - I_0)``, as in the code of 2024.
        ``derived``: ``(w_e² - (w_c - w_e)²) / (I_e - I_0)``, where both costs are equal.

    Returns
    -------
    float
        The larger of the two sides; 0 where neither side counts. A side whose extreme weight lies
        in the zero cluster, or whose cluster informs no more than zero's, is left out (published:
        division by zero, every weight lost).
    """
    occupied = torch.nonzero(counts).flatten()
    sides = (
        (int(occupied[0]), float(weight.min())),
        (int(occupied[-1]), float(weight.max())),
    )
    largest = 0.0
    for cluster, extreme in sides:
        gain = float(info[cluster] - info[grid.zero])
        if cluster == grid.zero or gain <= ROUNDING_OF_INFORMATION:
            continue
        rounding = (float(grid.values[cluster]) - extreme) ** 2
        published, derived = (rounding + extreme) ** 2, extreme**2 - rounding
        largest = max(largest, (published if formula == "published" else derived) / gain)
    return largest


def information_cost(
    weight: Tensor,
    grid: CentroidGrid,
    lam: float,
    largest_layer_size: int | None = None,
    pmf: Pmf = "published",
    formula: LambdaMax = "published",
) -> Tensor | None:
    """The information term λ·I_c of the assignment cost, or None where λ = 0.

    ``λ = Λ · λ_max · (n / n_largest + 0.05) / 1.05``: small layers are constrained less.

    Parameters
    ----------
    weight : Tensor of float32
    grid : CentroidGrid
    lam : float
        The user's Λ, at least 0.
    largest_layer_size : int, optional
        Elements of the largest quantized layer; this layer's own by default.
    pmf, formula : str
        See `probabilities` and `lambda_max`.

    Returns
    -------
    Tensor of float64, shape (K,), on the CPU; None where distances alone decide.
    """
    if lam == 0:
        return None
    counts = occupancy(weight, grid).cpu()
    info = information(probabilities(counts, grid.zero, pmf))
    n = weight.numel()
    scale = (n / (largest_layer_size or n) + 0.05) / 1.05
    lambda_ = min(lam * lambda_max(weight, grid, counts, info, formula) * scale, LARGEST_LAMBDA)
    return lambda_ * info if lambda_ > 0 else None
