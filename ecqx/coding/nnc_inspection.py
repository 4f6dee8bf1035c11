"""What is in an NNC bitstream, read without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ecqx.coding import nnc_tensors
from ecqx.coding.inspection import FileInfo, FileSize, TensorRecord, statistics_of
from ecqx.coding.nnc_tensors import Levels
from ecqx.coding.nnc_units import START, ParameterSet, Unit, unpack
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
    parameters, units = _read(path)
    seen = set()
    for unit in counted(units, what, "tensor", progress):
        with input_errors(f"{path}: tensor {unit.name!r}: "):
            if unit.name in seen:
                raise ValueError("is there twice")
            seen.add(unit.name)
            levels = _decoded(unit, parameters)
        yield unit, levels


def _decoded(unit: Unit, parameters: ParameterSet) -> Levels:
    try:
        return nnc_tensors.decode(unit, parameters)
    except (MemoryError, OSError) as error:  # an OSError by the system's mmap
        raise ValueError("needs more memory than is available") from error


def _read(path: str | Path) -> tuple[ParameterSet, list[Unit]]:
    file = expanded(path)
    if not file.is_file():
        raise InputError(f"{path}: {'not a file' if file.exists() else 'no such file'}")
    with input_errors(f"{path} is no NNC bitstream that is read here: "):
        return unpack(file.read_bytes())


def _record(unit: Unit, coded: Levels) -> TensorRecord:
    low, high = int(coded.levels.min()), int(coded.levels.max())
    size = len(unit.payload)
    if not unit.is_float:
        return TensorRecord(unit.name, "integer", "int32", unit.shape, size)
    if high - low >= _MOST_LEVELS:
        return TensorRecord(unit.name, "float", "float32", unit.shape, size)
    own: dict[str, Any] = {"step": coded.step}
    if unit.codebook is not None:
        book = np.array(unit.codebook) * coded.step
        own = {"form": "values", "numbers": tuple(book[book != 0].tolist())}
    bits = max(high, -low - 1, 1).bit_length() + (low < 0)
    own |= statistics_of(coded.levels)
    if unit.codebook is not None and unit.codebook[unit.zero]:
        own["sparsity"] = 0.0
    return TensorRecord(*(unit.name, "quantized", "float32", unit.shape, size), bits=bits, **own)
