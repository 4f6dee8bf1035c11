"""The information content of clusters, and the cost λ·I.

Paper: section 3 (entropy-constrained quantization). All functions take L layers at once, one a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ecqx.assignment import loops
from ecqx.assignment.centroids import GridStack
from ecqx.assignment.settings import LambdaMax, Pmf

# Beyond any cost of a float32 weight, and λ·I stays finite: only an empty cluster costs infinity.
LARGEST_LAMBDA = 1e290
# Equal probabilities may differ by this much, in bits, after shrinking.
ROUNDING_OF_INFORMATION = 1e-12
SMALLEST_FLOAT64 = 5e-324


@dataclass(frozen=True, eq=False)
class Occupancy:
    """The clusters of L layers by their nearest weights, and the extreme weights.

    Attributes
    ----------
    counts : Tensor of float64, shape (L, K)
        Number of weights nearest to each centroid; a weight at a midpoint counts for the lower one.
    low, high : Tensor of float64, shape (L, 1)
        Lowest and highest weight.
    """

    counts: Tensor
    low: Tensor
    high: Tensor


def probabilities(counts: Tensor, zero: Tensor, pmf: Pmf = "published") -> Tensor:
    """Probability mass P_c of the clusters, with the zero cluster raised to at least one half.

    Parameters
    ----------
    counts : Tensor of float64, shape (L, K)
        Occupancy of the clusters.
    zero : Tensor of int64, shape (L, 1)
        Index of the zero cluster.
    pmf : {"published", "normalized"}
        How the other clusters shrink where P_0 < 1/2. ``published`` follows the published code,
        whose loop overwrites P_0 before it reaches the clusters above zero, so the result does
        not sum to one. ``normalized`` shrinks all by the same factor.

    Returns
    -------
    Tensor of float64, shape (L, K)
    """
    share = counts / counts.sum(-1, keepdim=True)
    p_zero = share.gather(-1, zero)
    others = (1 - p_zero).clamp(min=SMALLEST_FLOAT64)
    r = ((0.5 - p_zero) / others).clamp(min=0)
    shrunk = share * (1 - r)
    if pmf == "published":
        above = torch.arange(counts.shape[-1], device=counts.device) > zero
        shrunk = torch.where(above, share * (1 - r / others), shrunk)
    return shrunk.scatter(-1, zero, p_zero.clamp(min=0.5))


def information(probability: Tensor) -> Tensor:
    """Information content I_c = -log2 P_c in bits; infinite for an empty cluster.

    On the CPU by our own logarithm: those of libraries differ between processors in the last bit.
    """
    if probability.device.type != "cpu":
        return -torch.log2(probability)
    logarithm = probability.clone()
    loops.take_logarithm(logarithm.numpy().reshape(-1))
    return torch.where(probability > 0, logarithm / -math.log(2), math.inf)


def lambda_max(
    occupancy: Occupancy, grids: GridStack, info: Tensor, formula: LambdaMax = "published"
) -> Tensor:
    """The λ at which an outermost cluster gives up its extreme weight to the zero cluster.

    Parameters
    ----------
    occupancy : Occupancy
    grids : GridStack
    info : Tensor of float64, shape (L, K)
        Information content of the clusters, bits.
    formula : {"published", "derived"}
        ``published``: ``((w_c - w_e)² - (0 - w_e))² / (I_e - I_0)``.
        ``derived``: ``(w_e² - (w_c - w_e)²) / (I_e - I_0)``, where both costs are equal.

    Returns
    -------
    Tensor of float64, shape (L, 1)
        The larger one of both sides; 0 where neither side counts. A side is left out if its extreme
        weight lies in the zero cluster, or I_e ≤ I_0 (published: division by zero, every weight
        lost).
    """
    occupied = (occupancy.counts > 0).to(torch.uint8)
    lowest = occupied.argmax(-1, keepdim=True)
    highest = occupied.shape[-1] - 1 - occupied.flip(-1).argmax(-1, keepdim=True)
    sides = []
    for cluster, extreme in ((lowest, occupancy.low), (highest, occupancy.high)):
        gain = info.gather(-1, cluster) - info.gather(-1, grids.zero)
        rounding = (grids.values.gather(-1, cluster) - extreme).square()
        if formula == "published":
            cost = (rounding + extreme).square()
        else:
            cost = extreme.square() - rounding
        counts = (cluster != grids.zero) & (gain > ROUNDING_OF_INFORMATION)
        sides.append(torch.where(counts, cost / gain, 0.0))
    return torch.maximum(*sides).clamp(min=0)


def information_cost(
    occupancy: Occupancy,
    grids: GridStack,
    lam: float,
    largest_layer_size: int,
    pmf: Pmf = "published",
    formula: LambdaMax = "published",
) -> Tensor:
    """The information term λ·I_c of the assignment cost.

    ``λ = Λ · λ_max · (n / n_largest + 0.05) / 1.05``: small layers are constrained less.

    Parameters
    ----------
    occupancy : Occupancy
    grids : GridStack
    lam : float
        The user's Λ, at least 0.
    largest_layer_size : int
        Elements of the largest quantized layer.
    pmf, formula : str
        See `probabilities` and `lambda_max`.

    Returns
    -------
    Tensor of float64, shape (L, K)
        Zeros where λ = 0, so that distances alone decide.
    """
    info = information(probabilities(occupancy.counts, grids.zero, pmf))
    n = occupancy.counts.sum(-1, keepdim=True)
    scale = (n / largest_layer_size + 0.05) / 1.05
    lambda_ = (lam * lambda_max(occupancy, grids, info, formula) * scale).clamp(max=LARGEST_LAMBDA)
    return torch.where(lambda_ > 0, lambda_ * info, 0.0)
