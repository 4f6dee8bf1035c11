"""What is in an NNC bitstream, read without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecqx.coding import nnc_tensors
from ecqx.coding.inspection import (
    FileInfo,
    FileSize,
    TensorRecord,
    errors_name,
    statistics_of,
)
from ecqx.coding.nnc_tensors import Levels
from ecqx.coding.nnc_units import START, Unit, unpack
from ecqx.coding.type_codes import Kind
from ecqx.errors import InputError, input_errors
from ecqx.files import expanded
from ecqx.progress import counted

# A tensor of at most as many different levels is taken for quantized weights.
_MOST_LEVELS = 1 << 8


def is_nnc(path: str | Path) -> bool:
    """Whether a file begins like an NNC bitstream."""
    file = expanded(path)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(START)) == START


def inspect_nnc(path: str | Path, progress: bool = False) -> FileInfo:
    """Contents of an NNC bitstream; errors as of `ecqx.coding.nnc_bitstream.load_nnc`.

    A tensor of at most 256 different levels counts as quantized.
    """
    records = [_record(unit, levels) for unit, levels in decoded_units(path, "reading", progress)]
    coded = sum(record.coded_bytes for record in records if record.kind == "quantized")
    return FileInfo(FileSize(expanded(path).stat().st_size, coded), tuple(records), {})


def decoded_units(
    path: str | Path, what: str, progress: bool = False
) -> Iterator[tuple[Unit, Levels]]:
    """The tensors of a file, one after the other; ``what`` is shown with the progress."""
    file = expanded(path)
    if not file.is_file():
        raise InputError(f"{path}: {'not a file' if file.exists() else 'no such file'}")
    with input_errors(f"{path} is no NNC bitstream that is read here: "):
        parameters, units = unpack(file.read_bytes())
    seen = set()
    for unit in counted(units, what, "tensor", progress):
        with errors_name(path, unit.name):
            if unit.name in seen:
                raise ValueError("is there twice")
            seen.add(unit.name)
            levels = nnc_tensors.decode(unit, parameters)
        yield unit, levels


def _record(unit: Unit, coded: Levels) -> TensorRecord:
    low, high = int(coded.levels.min()), int(coded.levels.max())
    kind: Kind = "float" if unit.is_float else "integer"
    own: dict[str, Any] = {}
    if unit.is_float and high - low < _MOST_LEVELS:
        kind = "quantized"
        own = _centroids(unit, coded.step) if unit.codebook else {"step": coded.step}
        own |= {"bits": max(high - low, 1).bit_length()} | statistics_of(coded.levels)
        if unit.codebook and unit.codebook[unit.zero]:
            own["sparsity"] = 0.0
    dtype = "float32" if unit.is_float else "int32"
    return TensorRecord(unit.name, kind, dtype, unit.shape, len(unit.payload), **own)


def _centroids(unit: Unit, step: float) -> dict[str, Any]:
    """The step of a grid that is stored as a codebook, or the codebook."""
    book = np.array(unit.codebook)
    divisor = int(np.gcd.reduce(book)) or 1
    if np.ptp(book) < _MOST_LEVELS * divisor:
        return {"step": divisor * step}
    return {"form": "values", "numbers": tuple((book[book != 0] * step).tolist())}
