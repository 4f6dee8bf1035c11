"""Stratified hold-out: the same share of every class."""

from __future__ import annotations

import torch
from torch import Tensor

from ecqx.errors import InputError


def held_out(labels: Tensor, count: int, order: Tensor, what: str = "") -> Tensor:
    """Choose ``count`` validation samples, of each class its share up to rounding.

    ``order`` is a permutation of the samples, random within each class: the first ones of each
    class are held out. Returns a mask, True for them. ``what`` starts the message of an
    `InputError`.
    """
    if not 0 < count < len(labels):
        raise InputError(f"{what}validation: {count} images, but it must be 1 to {len(labels) - 1}")
    # Sample i of a class of n has position (i + 0.5) / n. The lowest positions are held out: of
    # each class its share to the nearest integer. Between equal positions ``order`` decides.
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        members = order[labels[order] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[position[order].argsort(stable=True)[:count]]] = True
    return chosen
