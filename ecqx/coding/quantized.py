"""A quantized weight tensor: its integers and its centroids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ecqx.assignment.codebooks import Codebook
from ecqx.coding.type_codes import check_range


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight tensor on an equidistant grid; its values are ``float32(k) * float32(step)``.

    The ``integers`` k have the shape of the weight and lie between ``-2 ** (bits - 1)`` and
    ``2 ** bits - 1``.
    """

    integers: Tensor
    step: float
    bits: int

    def values(self) -> Tensor:
        """The weights, float32."""
        step = torch.tensor(self.step, dtype=torch.float32, device=self.integers.device)
        return self.integers.to(torch.float32) * step


@dataclass(frozen=True, eq=False)
class CodebookTensor:
    """A weight tensor with a codebook; its values are ``codebook.values[k + zero]``.

    The ``integers`` k have the shape of the weight: positions relative to the codebook's zero.
    """

    integers: Tensor
    codebook: Codebook

    @property
    def bits(self) -> int:
        """Bit width."""
        return self.codebook.bits

    def values(self) -> Tensor:
        """The weights, float32; ``ValueError`` if an integer is outside the codebook."""
        values, zero = self.codebook.values, self.codebook.zero
        check_range(self.integers, -zero, len(values) - 1 - zero, "the codebook allows")
        index = self.integers.to(values.device, torch.int32) + zero
        return values.index_select(0, index.flatten()).reshape(index.shape)


Quantized = QuantizedTensor | CodebookTensor


@dataclass(frozen=True, eq=False)
class CodedState:
    """A whole state_dict in order, and its quantized tensors by name, ready for `ecqx.save`."""

    state: dict[str, Tensor]
    quantized: Mapping[str, Quantized]

    def coded_state(self) -> tuple[dict[str, Tensor], Mapping[str, Quantized]]:
        """Both attributes."""
        return self.state, self.quantized


@runtime_checkable
class CodedStateSource(Protocol):
    """What `ecqx.save` needs of a quantizer."""

    def coded_state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Quantized]]:
        """The model's whole state_dict in order, and its quantized tensors by name."""


def first_order_entropy(integers: Tensor) -> float:
    """First-order entropy of integers in bits per element; 0 for an empty tensor."""
    if integers.numel() == 0:
        return 0.0
    counts = torch.unique(integers, return_counts=True)[1].to(torch.float64)
    share = counts / integers.numel()
    return abs(float((share * torch.log2(share)).sum()))
