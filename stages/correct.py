"""Which test samples each network classifies correctly: results/SUITE/correct.safetensors.

One bit a sample, packed into uint8, by ``TASK/RUN_ID`` of files, and ``TASK/start/SEED`` and
``TASK/trained/SEED`` of networks in full precision. Tasks without a single label a sample are left
out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.coding.tensor_files import read_tensors, write_tensors

# Metadata of the file: number of samples by task.
SAMPLES = "samples"


def write_correct(path: Path, correct: Mapping[str, Tensor | None]) -> None:
    """Write tensors of bool, shape (N,), by name; those that are None are left out."""
    known = {name: bits.numpy() for name, bits in correct.items() if bits is not None}
    packed = {name: torch.from_numpy(np.packbits(bits)) for name, bits in known.items()}
    samples = {_task(name): len(bits) for name, bits in known.items()}
    write_tensors(path, packed, {SAMPLES: json.dumps(samples)})


def read_correct(path: Path) -> dict[str, NDArray[np.bool_]]:
    """The arrays of bool, shape (N,), by name; ``InputError`` if the file is missing or damaged."""
    packed, metadata = read_tensors(path, SAMPLES)
    samples = json.loads(metadata)
    return {
        name: np.unpackbits(bits.numpy(), count=samples[_task(name)]).astype(np.bool_)
        for name, bits in packed.items()
    }


def _task(name: str) -> str:
    return name.partition("/")[0]
