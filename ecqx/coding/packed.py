"""Tensors in a file of safetensors, compressed with zstd, which is available everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import zstandard
from safetensors.torch import load, save
from torch import Tensor

from ecqx.files import write_atomically

LEVEL = 22


def write_packed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one compressed file, at zstd's highest level."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(data)
    write_atomically(path, lambda temporary: temporary.write_bytes(packed))


def read_packed(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `write_packed` wrote."""
    return dict(load(zstandard.ZstdDecompressor().decompress(path.read_bytes())))
