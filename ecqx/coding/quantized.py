"""A quantized weight tensor: its integers and its centroids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ecqx.assignment.centroids import check_bits
from ecqx.assignment.codebooks import Codebook


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

    def check(self) -> None:
        """Raise ``ValueError`` for an integer, step or weight that is out of range."""
        check_grid(self.bits, self.step)
        lowest, highest = -(2 ** (self.bits - 1)), 2**self.bits - 1
        _check_integers(self.integers, lowest, highest, f"{self.bits} bits allow")
        if not self.values().isfinite().all():
            raise ValueError(f"a step of {self.step} makes the weights infinite")


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
        self.check()
        values = self.codebook.values
        index = self.integers.to(values.device, torch.int32) + self.codebook.zero
        return values.index_select(0, index.flatten()).reshape(index.shape)

    def check(self) -> None:
        """Raise ``ValueError`` for an integer that is outside the codebook."""
        lowest, highest = -self.codebook.zero, len(self.codebook) - 1 - self.codebook.zero
        _check_integers(self.integers, lowest, highest, "the codebook allows")


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


def check_grid(bits: int, step: float) -> None:
    """Raise ``ValueError`` for a bit width or a step that is out of range."""
    check_bits(bits)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be finite and greater than 0 in float32, not {step}")


def _check_integers(integers: Tensor, least: int, most: int, limit: str) -> None:
    if integers.numel() == 0:
        return
    lowest, highest = int(integers.min()), int(integers.max())
    if lowest < least or highest > most:
        raise ValueError(f"holds integers from {lowest} to {highest}; {limit} {least} to {most}")


def first_order_entropy(integers: Tensor) -> float:
    """First-order entropy of integers in bits per element; 0 for an empty tensor."""
    if integers.numel() == 0:
        return 0.0
    counts = torch.unique(integers, return_counts=True)[1].to(torch.float64)
    share = counts / integers.numel()
    return abs(float((share * torch.log2(share)).sum()))
