"""Centroids that are trained: a few numbers a layer, of which each centroid is a sum.

* ``values``: the numbers are centroids themselves, beside zero (EC2T has two of them, w_n and w_p;
  Marban et al., CVPR Workshops 2020).
* ``sums``: the centroids are the sums of all subsets of the numbers, the basis (FantastIC4 has a
  basis of four; Wiedemann et al., IEEE Open Journal of Circuits and Systems 2021). Zero is the
  empty sum.

Both are one thing: a centroid is the sum of its members, so that the gradient of a number is the
sum of the gradients of the weights in all clusters that it is a member of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ecqx.assignment.centroids import MAX_BITS, MIN_BITS, CentroidGrid, checked_weight, is_finite

Form = Literal["values", "sums"]
FORMS: tuple[Form, ...] = ("values", "sums")
# Of the form ``values``: as many as there are integers in a file on one side of zero.
MOST_VALUES = 255
# Means of halves settle in a few rounds; where they do not, any of them is a start as good.
ROUNDS = 50
# The table of 255 values takes half a megabyte; a model has codebooks of one kind.
MOST_TABLES = 4


@dataclass(frozen=True, eq=False)
class Codebook:
    """The centroids of one layer, and the numbers that they are made of.

    Attributes
    ----------
    form : {"values", "sums"}
    numbers : Tensor of float32, shape (m,)
        What is trained and stored.
    values : Tensor of float32, shape (K,)
        The centroids, ascending. Equal ones stand side by side; the assignment takes the first.
    zero : int
        Index of the centroid 0.
    order : Tensor of int64, shape (K,)
        Which row of `_all_members` each centroid is the sum of.
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

        Made anew each time: it may take five hundred times the bytes of the numbers, and a file may
        hold as many codebooks as it likes.
        """
        return _all_members(self.form, len(self.numbers)).to(self.order.device)[self.order]

    @property
    def bits(self) -> int:
        """Bits of an index of a centroid."""
        return bits_of(self.form, len(self.numbers))

    def __len__(self) -> int:
        return self.values.numel()


def bits_of(form: Form, count: int) -> int:
    """Bits of an index into a codebook of ``count`` numbers.

    Raises
    ------
    ValueError
        If there is no such codebook.
    """
    if form not in FORMS:
        raise ValueError(f"a codebook's form must be one of {', '.join(FORMS)}, not {form!r}")
    most = MOST_VALUES if form == "values" else MAX_BITS
    if not 1 <= count <= most:
        raise ValueError(f"a codebook of {form} has 1 to {most} numbers, not {count}")
    return max(MIN_BITS, count.bit_length()) if form == "values" else count


def codebooks(form: Form, numbers: Tensor) -> list[Codebook]:
    """The codebooks of several layers.

    Parameters
    ----------
    form : {"values", "sums"}
    numbers : Tensor of float32, shape (L, m)

    Returns
    -------
    list of Codebook
        Equal numbers give equal centroids, bit by bit, on any machine: sums are taken in float64,
        in the order of the numbers, and rounded once. Of equal centroids the one of fewer members
        comes first, in the order of `_all_members`.

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


@lru_cache(maxsize=MOST_TABLES)
def _all_members(form: Form, count: int) -> Tensor:
    """Which of the numbers each centroid is made of, float64, shape (K, count); zero comes first.

    Subset c of a basis holds the numbers whose bit in c is set.
    """
    if form == "values":
        return torch.cat([torch.zeros(1, count), torch.eye(count)]).double()
    subsets = torch.arange(2**count)[:, None]
    return (subsets >> torch.arange(count) & 1).double()


def ternary(weight: Tensor) -> Tensor:
    """Two centroids around zero that fit a weight tensor: where EC2T starts.

    On each side of zero the mean of the weights that are nearer to it than to zero: the fixed point
    of Lloyd's algorithm with zero held fast, begun at the mean of the side.

    Parameters
    ----------
    weight : Tensor
        Weights of any shape, at least one element, all finite.

    Returns
    -------
    Tensor of float32, shape (2,)
        w_n ≤ 0 ≤ w_p; 0 for a side without weights.

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
    """Basis whose subset sums are ECQ's own grid for a weight tensor: where FantastIC4 starts.

    With ECQ's step Δ these are Δ, 2Δ, 4Δ, … for the integers' bits, and the last number has the
    sign of the side with the extra centroid, the others the sign of the other side: -8Δ, 4Δ, 2Δ, Δ
    sum up to all of -8Δ … 7Δ. So the sums cover the weights' range evenly on both sides, no two
    coincide, and training sets out from where ECQ does.

    Parameters
    ----------
    weight : Tensor
        As for `CentroidGrid.fit`.
    bits : int
        How many numbers.

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
    numbers = grid.step * 2.0 ** torch.arange(bits, device=weight.device)
    positive = len(grid) - 1 - grid.zero
    if grid.zero > positive:
        numbers[-1].neg_()
    elif grid.zero > 0:
        numbers[:-1].neg_()
    return numbers
