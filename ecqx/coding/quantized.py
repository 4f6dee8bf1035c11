"""What a quantized weight tensor is: its integers and its centroids. Needs no coder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.assignment.codebooks import Codebook


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight tensor on an equidistant grid; its values are ``float32(k) * float32(step)``.

    Attributes
    ----------
    integers : Tensor of integers
        The k, shape of the weight, from ``-2 ** (bits - 1)`` to ``2 ** bits - 1``.
    step : float
        Distance of neighbouring centroids, greater than 0.
    bits : int
        Bit width, 2 to 8.
    """

    integers: Tensor
    step: float
    bits: int

    def values(self) -> Tensor:
        """The weights, float32."""
        step = torch.tensor(self.step, dtype=torch.float32)
        return self.integers.to(torch.float32) * step


@dataclass(frozen=True, eq=False)
class CodebookTensor:
    """A weight tensor of trained centroids; its values are ``codebook.values[k + zero]``.

    Attributes
    ----------
    integers : Tensor of integers
        The k, shape of the weight: places in the codebook, counted from its zero.
    codebook : Codebook
    """

    integers: Tensor
    codebook: Codebook

    @property
    def bits(self) -> int:
        """Bit width."""
        return self.codebook.bits

    def values(self) -> Tensor:
        """The weights, float32; ``ValueError`` if an integer is none of the codebook's places."""
        values = self.codebook.values
        integers = self.integers.to(values.device, torch.int32)
        check_integers(integers, *places(self.codebook))
        index = (integers + self.codebook.zero).flatten()
        return values.index_select(0, index).reshape(integers.shape)


Quantized = QuantizedTensor | CodebookTensor


@dataclass(frozen=True, eq=False)
class CodedState:
    """A state_dict with the integers of its quantized tensors, ready for `save`.

    Attributes
    ----------
    state : dict of str to Tensor
        The model's whole state_dict, in order.
    quantized : dict of str to QuantizedTensor or CodebookTensor
        The quantized ones among them.
    """

    state: dict[str, Tensor]
    quantized: Mapping[str, Quantized]

    def coded_state(self) -> tuple[dict[str, Tensor], Mapping[str, Quantized]]:
        """Both attributes."""
        return self.state, self.quantized


@runtime_checkable
class CodedStateSource(Protocol):
    """What `save` needs of a quantizer."""

    def coded_state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Quantized]]:
        """The model's whole state_dict in order, and its quantized tensors by name."""


def places(codebook: Codebook) -> tuple[int, int, str]:
    """Lowest and highest integer of a codebook, and who allows no others, for `check_integers`."""
    return -codebook.zero, len(codebook) - 1 - codebook.zero, "the codebook allows"


def check_integers(
    integers: NDArray[np.integer[Any]] | Tensor, least: int, most: int, who_allows: str
) -> None:
    """Raise ``ValueError`` for an integer out of range."""
    if math.prod(integers.shape) == 0:
        return
    lowest, highest = int(integers.min()), int(integers.max())
    if lowest < least or highest > most:
        raise ValueError(
            f"holds integers from {lowest} to {highest}; {who_allows} {least} to {most}"
        )


def first_order_entropy(integers: Tensor) -> float:
    """First-order entropy of integers, bits per element.

    Parameters
    ----------
    integers : Tensor of integers
        Any shape.

    Returns
    -------
    float
        0 for an empty tensor.
    """
    if integers.numel() == 0:
        return 0.0
    counts = torch.unique(integers, return_counts=True)[1].to(torch.float64)
    share = counts / integers.numel()
    return abs(float((share * torch.log2(share)).sum()))
