"""The equidistant grid of centroids of a weight tensor.

Paper: section 3 (entropy-constrained quantization). `ecqx.assignment.codebooks` has centroids that
are trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ecqx.assignment.bits import Step, check_bits, check_step

_NNC_STEP_BITS = 8


class Centroids(Protocol):
    """The centroids of a layer, as an assignment needs them."""

    @property
    def values(self) -> Tensor:
        """The centroids, float32, shape (K,), ascending; equal ones are one cluster."""

    @property
    def zero(self) -> int:
        """Index of the centroid 0, the first one if there are several."""


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
        values = k * torch.tensor(step, dtype=torch.float32, device=device)
        return cls(values=values, step=step, zero=-first)

    @classmethod
    def fit(cls, weight: Tensor, bits: int = 4, step: Step = "float32") -> CentroidGrid:
        """Fit the grid to a weight tensor.

        The step is the 99.9th percentile of the magnitudes over the largest integer of the
        smaller side, so that the outermost weights do not stretch the grid (published code).

        Parameters
        ----------
        weight : Tensor
            Weights of any shape, at least one element, all finite.
        bits : int
            Bit width, 2 to 8; the grid has ``2 ** bits`` centroids.
        step : {"float32", "nnc"}
            ``nnc`` rounds the step to 8 significant bits, by at most 0.4 %: a standard NNC
            bitstream then holds the integers themselves, without a codebook.

        Returns
        -------
        CentroidGrid

        Raises
        ------
        ValueError
            If ``bits`` or ``step`` is out of range or ``weight`` is empty, not floating point or
            not finite.
        """
        check_bits(bits)
        check_step(step)
        flat = checked_weight(weight).flatten()
        half = 2 ** (bits - 1)
        signed = bool((flat < 0).any())
        largest = half - 1 if signed else 2 * half - 1
        distance = _step(flat.abs(), largest)
        if step == "nnc":
            distance = _rounded(distance, _NNC_STEP_BITS)
        first = _lowest_integer(flat, half) if signed else 0
        grid = cls.from_step(distance, first, 2 * half, weight.device)
        if not torch.isfinite(grid.values).all():
            raise ValueError("weight is too large for a float32 grid; scale the layer down")
        return grid

    def __len__(self) -> int:
        return self.values.numel()


@dataclass(frozen=True, eq=False)
class GridStack:
    """The centroids of L layers, at most K in each.

    Attributes
    ----------
    values : Tensor of float64, shape (L, K)
        The centroids, ascending. A layer with fewer than K repeats its last one: these are merged
        with it, and get no weight.
    zero : Tensor of int64, shape (L, 1)
        Index of the centroid 0.
    midpoints : Tensor of float32, shape (L, K - 1)
        Between neighbours, rounded down: a weight there is nearest to the lower one. Equal
        centroids are merged into the first of them: all have the same upper midpoint, so that no
        weight is nearest to the others.
    """

    values: Tensor
    zero: Tensor
    midpoints: Tensor

    @classmethod
    def of(cls, grids: Iterable[Centroids]) -> GridStack:
        """Stack one or more grids of one device."""
        grids = list(grids)
        longest = max(len(grid.values) for grid in grids)
        values = torch.stack([_lengthened(grid.values, longest) for grid in grids])
        values = values.to(torch.float64)
        zero = torch.tensor([[grid.zero] for grid in grids], device=values.device)
        left, right = values[:, :-1], values[:, 1:]
        midpoints = torch.where(left < right, (left + right) / 2, math.inf)
        midpoints = midpoints.flip(-1).cummin(-1).values.flip(-1)
        return cls(values, zero, round_down(midpoints))


def _lengthened(values: Tensor, count: int) -> Tensor:
    """The centroids of a layer, the last one repeated where there are fewer than ``count``."""
    missing = count - len(values)
    return torch.cat([values, values[-1:].expand(missing)]) if missing else values


def checked_weight(weight: Tensor) -> Tensor:
    """Return ``weight`` detached, as float32.

    Raises
    ------
    ValueError
        If it is empty, not a floating-point tensor or not finite.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ValueError("weight must be a floating-point tensor")
    if weight.numel() == 0:
        raise ValueError("weight has no elements")
    weight = weight.detach().to(torch.float32)
    if not is_finite(weight):
        raise ValueError("weight holds NaN or infinite values")
    return weight


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; its extremes show both."""
    return all(math.isfinite(float(extreme)) for extreme in torch.aminmax(tensor))


def _step(magnitude: Tensor, largest: int) -> float:
    """99.9th percentile (linear interpolation) over ``largest``; the maximum where that is 0."""
    for extent in (percentile(magnitude, 0.999), magnitude.max()):
        step = float(extent / largest)
        if step > 0:
            return step
    return 1.0


def _rounded(number: float, bits: int) -> float:
    """The nearest number with as many significant bits."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)


def percentile(values: Tensor, q: float) -> Tensor:
    """Linear-interpolated quantile of a flat tensor (``torch.quantile`` ends at 2^24 elements)."""
    position = q * (values.numel() - 1)
    below = math.floor(position)
    low = values.kthvalue(below + 1).values
    if below + 1 == values.numel():
        return low
    high = values.kthvalue(below + 2).values
    # In separate operations: torch.lerp rounds once or twice, depending on the processor.
    return low + (high - low) * (position - below)


def _lowest_integer(flat: Tensor, half: int) -> int:
    """Lowest k of a signed grid.

    Five statistics of the positive against the negative magnitudes vote for the side that gets the
    extra centroid (published code); a tie counts for the negative side.
    """
    positive = _side_statistics(flat[flat > 0])
    negative = _side_statistics(-flat[flat < 0])
    votes = sum(p > n for p, n in zip(positive, negative, strict=True))
    return 1 - half if votes >= 3 else -half


def _side_statistics(magnitude: Tensor) -> tuple[float, ...]:
    """Maximum, mean, count, sum, standard deviation (n - 1) of one side; zeros where undefined."""
    magnitude = magnitude.to(torch.float64)  # so that rounding does not break ties
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
