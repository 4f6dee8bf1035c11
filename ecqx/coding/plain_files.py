"""Files without entropy coding of our own: fewer bits a value, then zstd at its highest level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
import zstandard
from torch import Tensor

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import Form
from ecqx.coding.tensor_files import read_tensors, section
from ecqx.files import write_atomically
from ecqx.modules import is_weight_of_state

LEVEL = 22


@dataclass(frozen=True)
class Float16File(Form):
    """Every floating-point tensor in half precision."""

    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        state = read_coded_state(trained).state
        half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
        _write(path, half)

    def read(self, path: Path) -> dict[str, Tensor]:
        state = _read(path)
        return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


@dataclass(frozen=True)
class Integer8File(Form):
    """Weights rounded to 8 bits with one step of max|w|/127 a tensor; other tensors unchanged."""

    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        tensors = {}
        for name, tensor in read_coded_state(trained).state.items():
            if is_weight_of_state(name, tensor):
                step = tensor.abs().max() / 127
                step = torch.where(step > 0, step, 1.0)
                tensors[f"integers.{name}"] = (tensor / step).round().to(torch.int8)
                tensors[f"step.{name}"] = step
            else:
                tensors[f"kept.{name}"] = tensor
        _write(path, tensors)

    def read(self, path: Path) -> dict[str, Tensor]:
        tensors = _read(path)
        steps = section(tensors, "step")
        integers = section(tensors, "integers")
        return section(tensors, "kept") | {n: k.float() * steps[n] for n, k in integers.items()}


@dataclass(frozen=True)
class PackedIntegersFile(Form):
    """Symmetric integers of 4 or 8 bits with a scale a group, as torchao computes them.

    Integers of 4 bits are packed in pairs.
    """

    bits: int
    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        """Pack ``integers.*``; write ``scale.*``, ``shape.*`` and ``kept.*`` unchanged."""
        tensors, _ = read_tensors(trained)
        for name in tensors:
            if name.startswith("integers.") and self.bits == 4:
                tensors[name] = pack_nibbles(tensors[name])
        _write(path, tensors)

    def read(self, path: Path) -> dict[str, Tensor]:
        tensors = _read(path)
        state = section(tensors, "kept")
        scales, shapes = section(tensors, "scale"), section(tensors, "shape")
        for name, packed in section(tensors, "integers").items():
            shape = tuple(shapes[name].tolist())
            integers = packed if self.bits == 8 else unpack_nibbles(packed, math.prod(shape))
            groups = integers.reshape(scales[name].numel(), -1).float()
            state[name] = (groups * scales[name].reshape(-1, 1)).reshape(shape)
        return state


def pack_nibbles(integers: Tensor) -> Tensor:
    """Integers (int8, any shape) from -8 to 7, two a byte (uint8), the first in the low half."""
    flat = integers.flatten().to(torch.uint8) & 15
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[::2] | (flat[1::2] << 4)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """Inverse of `pack_nibbles`: the first ``count`` integers, int8, shape (count,)."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
    return ((nibbles ^ 8).to(torch.int16) - 8).to(torch.int8)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    data = safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    write_atomically(path, lambda temporary: temporary.write_bytes(packed))


def _read(path: Path) -> dict[str, Tensor]:
    data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    return dict(safetensors.torch.load(data))
