"""Which test samples each network classifies correctly: results/SUITE/correct.safetensors.

One bit a sample, packed into uint8, by ``TASK/RUN_ID`` of files, and ``TASK/start/SEED`` and
``TASK/trained/SEED`` of networks in full precision. Tasks without a single label a sample are left
out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ecqx.errors import InputError
from ecqx.files import write_atomically

Bits = NDArray[np.bool_]
# Metadata of the file: number of samples by task.
SAMPLES = "samples"


def write_correct(path: Path, correct: Mapping[str, Bits | None]) -> None:
    """Write arrays of shape (N,) by name; those that are None are left out."""
    known = {name: bits for name, bits in correct.items() if bits is not None}
    packed = {name: np.packbits(bits) for name, bits in known.items()}
    samples = json.dumps({_task(name): len(bits) for name, bits in known.items()})
    write_atomically(path, lambda part: save_file(packed, part, {SAMPLES: samples}))


def read_correct(path: Path) -> dict[str, Bits]:
    """The arrays by name; ``InputError`` if the file is missing or damaged."""
    packed, metadata = read_arrays(path)
    samples = json.loads(metadata[SAMPLES])
    return {
        name: np.unpackbits(bits, count=samples[_task(name)]).astype(np.bool_)
        for name, bits in packed.items()
    }


def _task(name: str) -> str:
    return name.partition("/")[0]


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays of a safetensors file in the order of the file, and its metadata."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: np.asarray(file.get_tensor(name)) for name in names}, file.metadata()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage evaluate") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
