"""Integers with a scale a group, as torchao has them, packed and compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ecqx.coding.forms import Form
from ecqx.coding.packed import read_packed, write_packed
from ecqx.coding.tensor_files import read_tensors, section


@dataclass(frozen=True)
class PackedIntegersFile(Form):
    """Symmetric integers, two of 4 bit in a byte, and their scales, then zstd.

    Attributes
    ----------
    bits : int
        4 or 8.
    """

    bits: int
    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        """Pack ``integers.*``; ``scale.*``, ``shape.*`` and ``kept.*`` are written as they are."""
        tensors, _ = read_tensors(trained)
        for name in tensors:
            if name.startswith("integers.") and self.bits == 4:
                tensors[name] = pack_nibbles(tensors[name])
        write_packed(path, tensors)

    def read(self, path: Path) -> dict[str, Tensor]:
        """The state_dict with the values that integers and scales stand for."""
        tensors = read_packed(path)
        state = section(tensors, "kept")
        scales, shapes = section(tensors, "scale"), section(tensors, "shape")
        for name, packed in section(tensors, "integers").items():
            shape = tuple(shapes[name].tolist())
            integers = packed if self.bits == 8 else unpack_nibbles(packed, math.prod(shape))
            groups = integers.reshape(scales[name].numel(), -1).float()
            state[name] = (groups * scales[name].reshape(-1, 1)).reshape(shape)
        return state


def pack_nibbles(integers: Tensor) -> Tensor:
    """Integers from -8 to 7, two in a byte, the first one in the low half.

    Parameters
    ----------
    integers : Tensor of int8
        Any shape.

    Returns
    -------
    Tensor of uint8, shape (ceil(n/2),)
    """
    flat = integers.flatten().to(torch.uint8) & 15
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[::2] | (flat[1::2] << 4)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """Inverse of `pack_nibbles`: the first ``count`` integers, int8, shape (count,)."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
    return ((nibbles ^ 8).to(torch.int16) - 8).to(torch.int8)
