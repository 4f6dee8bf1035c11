"""Codebooks: centroids that are trained. Each is a sum of some of a layer's few trained numbers.

* ``values``: the centroids are zero and the numbers themselves. EC2T has two, w_n and w_p (Marban
  et al., CVPR Workshops 2020).
* ``sums``: the centroids are the sums of all subsets of the numbers, a basis; zero is the empty
  sum. FantastIC4 has a basis of four (Wiedemann et al., IEEE Open Journal of Circuits and Systems
  2021).

The gradient of a number is the sum of the gradients of all weights whose centroid contains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ecqx.assignment.bits import Form, bits_of
from ecqx.assignment.centroids import CentroidGrid, checked_weight, is_finite

# Of Lloyd's algorithm, which converges in a few.
ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Codebook:
    """The centroids of one layer, and the numbers that they are sums of.

    Attributes
    ----------
    form : {"values", "sums"}
    numbers : Tensor of float32, shape (m,)
        What is trained and stored.
    values : Tensor of float32, shape (K,)
        The centroids, ascending. Of equal ones the assignment takes the first.
    zero : int
        Index of the centroid 0.
    order : Tensor of int64, shape (K,)
        The row of `_all_members` that describes each centroid.
    """

    form: Form
    numbers: Tensor
    values: Tensor
    zero: int
    order: Tensor

    @classmethod
    def of(cls, form: Form, numbers: Tensor) -> Codebook:
        """The codebook of the numbers of one layer.

        Raises
        ------
        ValueError
            If there are too few or too many numbers, or a centroid is not finite.

        Examples
        --------
        >>> Codebook.of("sums", torch.tensor([-2.0, 1.0])).values
        tensor([-2., -1.,  0.,  1.])
        """
        codebook = codebooks(form, numbers[None])[0]
        if not is_finite(codebook.values):
            raise ValueError("the codebook holds NaN or infinite values")
        return codebook

    @property
    def members(self) -> Tensor:
        """One where a number is part of a centroid, zero elsewhere: float64, shape (K, m).

        Not kept: it takes up to five hundred times the bytes of the numbers.
        """
        return _all_members(self.form, len(self.numbers)).to(self.order.device)[self.order]

    @property
    def bits(self) -> int:
        """Bits of an index of a centroid."""
        return bits_of(self.form, len(self.numbers))

    def __len__(self) -> int:
        return self.values.numel()


def codebooks(form: Form, numbers: Tensor) -> list[Codebook]:
    """The codebooks of several layers.

    Parameters
    ----------
    form : {"values", "sums"}
    numbers : Tensor of float32, shape (L, m)

    Returns
    -------
    list of Codebook
        The centroids are the same bits on every machine: sums are taken in float64, in the order
        of the numbers, and rounded once. Equal centroids are in the order of `_all_members`.

    Raises
    ------
    ValueError
        If there are too few or too many numbers.
    """
    numbers = numbers.detach().clone()  # the optimizer steps them in place
    bits_of(form, numbers.shape[-1])
    members = _all_members(form, numbers.shape[-1]).to(numbers.device)
    sums = torch.zeros(len(numbers), len(members), dtype=torch.float64, device=numbers.device)
    for number, is_member in zip(numbers.double().T, members.T, strict=True):
        sums += number[:, None] * is_member
    values, order = sums.float().sort(dim=-1, stable=True)
    zeros = (values < 0).sum(-1).tolist()
    return [Codebook(form, *layer) for layer in zip(numbers, values, zeros, order, strict=True)]


@lru_cache(maxsize=4)
def _all_members(form: Form, count: int) -> Tensor:
    """One where a number is part of a centroid: float64, shape (K, count), zero's row first.

    Subset c of a basis contains the numbers whose bit in c is set.
    """
    if form == "values":
        kind: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
        return torch.cat([torch.zeros(1, count, **kind), torch.eye(count, **kind)])
    subsets = torch.arange(2**count, device="cpu")[:, None]
    return (subsets >> torch.arange(count, device="cpu") & 1).double()


def ternary(weight: Tensor) -> Tensor:
    """EC2T's initial numbers: two centroids around zero, fitted by Lloyd's algorithm.

    Each is the mean of the weights of its sign that are nearer to it than to zero. The centroid
    zero is fixed; the algorithm starts at the mean of the weights of that sign.

    Parameters
    ----------
    weight : Tensor
        Weights of any shape, at least one element, all finite.

    Returns
    -------
    Tensor of float32, shape (2,)
        w_n ≤ 0 ≤ w_p; 0 for a sign without weights.

    Raises
    ------
    ValueError
        If ``weight`` is empty, not floating point or not finite.
    """
    flat = checked_weight(weight).flatten()
    low, high = _centre(-flat[flat < 0]), _centre(flat[flat > 0])
    return torch.stack([-low, high])


def _centre(magnitude: Tensor) -> Tensor:
    """Mean of the magnitudes that lie above half of this mean."""
    if magnitude.numel() == 0:
        return magnitude.new_zeros(())
    magnitude = magnitude.double()
    centre = magnitude.mean()
    for _ in range(ROUNDS):
        nearer = magnitude[magnitude > centre / 2].mean()
        if nearer == centre:
            break
        centre = nearer
    return centre.float()


def binary_basis(weight: Tensor, bits: int = 4) -> Tensor:
    """FantastIC4's initial numbers: the basis whose subset sums are ECQ's grid.

    With ECQ's step Δ these are Δ, 2Δ, 4Δ, … in magnitude. The largest has the sign of the side with
    the extra centroid, the others have the other sign: the subset sums of -8Δ, 4Δ, 2Δ, Δ are
    -8Δ … 7Δ.

    Parameters
    ----------
    weight : Tensor
        As for `CentroidGrid.fit`.
    bits : int
        Number of numbers in the basis.

    Returns
    -------
    Tensor of float32, shape (bits,)
        Ascending in magnitude.

    Raises
    ------
    ValueError
        As `CentroidGrid.fit`.
    """
    grid = CentroidGrid.fit(weight, bits)
    numbers = grid.step * 2.0 ** torch.arange(bits, dtype=torch.float32, device=weight.device)
    positive = len(grid) - 1 - grid.zero
    if grid.zero > positive:
        numbers[-1].neg_()
    elif grid.zero > 0:
        numbers[:-1].neg_()
    return numbers
