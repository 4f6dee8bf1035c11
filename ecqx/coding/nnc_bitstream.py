"""A model as a standard NNC bitstream (ISO/IEC 15938-17), which NNCodec's own decoder reads.

`ecqx.coding.nnc_file` is another thing: NNCodec's own quantization of a model, as a suite compares.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecqx.coding import nnc_tensors
from ecqx.coding.bitstream import (
    FileInfo,
    FileSize,
    TensorRecord,
    check_replaceable,
    coded_state_of,
)
from ecqx.coding.nnc_tensors import Levels
from ecqx.coding.nnc_units import START, ParameterSet, Unit, pack, unpack
from ecqx.coding.quantized import (
    CodedStateSource,
    Quantized,
    QuantizedTensor,
    first_order_entropy,
)
from ecqx.coding.storable import check_name, check_tensor
from ecqx.coding.tensor_coding import Kind
from ecqx.errors import InputError, InputWarning, input_errors
from ecqx.files import expanded, write_atomically
from ecqx.progress import counted

# A tensor of at most as many different levels is taken for quantized weights.
_MOST_LEVELS = 1 << 8
FLOAT_BITS = range(16, nnc_tensors.MOST_BITS + 1)
# BatchNorm's count of batches, without effect on predictions.
_COUNTER = "num_batches_tracked"
# NNCodec takes tensors with such names for factors of a decomposed weight.
_FACTORS = ("_G", "_H")


@dataclass
class _Changes:
    """What the standard's syntax cannot hold as it is: names of tensors by what became of them."""

    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, name: str) -> None:
        self.names[what].append(name)

    def report(self, path: str | Path) -> None:
        """One line for the user."""
        if self.names:
            parts = [f"{_listed(names)} {what}" for what, names in sorted(self.names.items())]
            warnings.warn(f"{path}: {'; '.join(parts)}", InputWarning, stacklevel=3)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def export_nnc(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
    float_bits: int = 24,
    progress: bool = False,
) -> FileSize:
    """Write a model to a standard NNC bitstream; ``nncodec.nn.decode`` reads it.

    Quantized weights are coded without loss, by their integers if the step has 8 significant bits
    (``step="nnc"`` of `ecqx.ECQx`), else by a codebook. NNCodec reads other floats in fixed point
    only, so that they are rounded to ``float_bits``. The standard knows float32 and int32 of at
    least one dimension: other types become these. A tensor that does not fit is left out, and so
    are BatchNorm's counters ``num_batches_tracked``, without which PyTorch loads a model. One
    `InputWarning` names all that was changed.

    Parameters
    ----------
    path : path
        Replaced as a whole, or left unchanged if anything fails.
    model : Module, state_dict or quantizer
        As for `ecqx.save`.
    float_bits : int
        Bits of the largest value in each tensor of other floats, 16 to 31: the error is at most
        2 ** -``float_bits`` of that value and, where 31 bits allow it, 2 ** -12 of each value.
        Tensors that need no more bits are exact. 31 makes ResNet20's file 2 % larger than 24.
    progress : bool
        Show a progress bar if stderr is a terminal.

    Returns
    -------
    FileSize

    Raises
    ------
    ValueError
        If a setting is out of range, or a tensor or a name cannot be stored.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> size = ecqx.export_nnc("model.nnc", quantizer)  # doctest: +SKIP
    >>> nncodec.nn.decode(bytearray(Path("model.nnc").read_bytes()))  # doctest: +SKIP
    """
    check_replaceable(path)
    if float_bits not in FLOAT_BITS:
        raise InputError(f"float_bits must be an integer from 16 to 31, not {float_bits!r}")
    state, quantized = coded_state_of(model)
    changes, units = _Changes(), list[Unit]()
    for name, tensor in counted(state.items(), "encoding", "tensor", progress):
        _check_name(name)
        with input_errors(f"tensor {name}: "):
            stored = check_tensor(tensor, as_integers=name in quantized)
            coded = _coded(name, stored, quantized.get(name), float_bits, changes)
        if coded is not None:
            units.append(nnc_tensors.encode(name, coded, name in quantized))
    data = pack(nnc_tensors.PARAMETERS, units)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    changes.report(path)
    return FileSize(len(data), sum(len(u.payload) for u in units if u.name in quantized))


def is_nnc(path: str | Path) -> bool:
    """Whether a file begins like an NNC bitstream."""
    with expanded(path).open("rb") as file:
        return file.read(len(START)) == START


def load_nnc(path: str | Path, progress: bool = False) -> dict[str, Tensor]:
    """Read an NNC bitstream to a state_dict of float32 and int32, as NNCodec itself decodes it.

    Raises
    ------
    ValueError
        If the file is no bitstream, is cut off, or uses a part of the standard that NNCodec does
        not use by default (blocks, decomposition, updates of another model).
    OSError
        If the file cannot be read.
    """
    return {
        unit.name: torch.from_numpy(levels.values())
        for unit, levels in _decoded(path, "decoding", progress)
    }


def inspect_nnc(path: str | Path, progress: bool = False) -> FileInfo:
    """Contents of an NNC bitstream; errors as of `load_nnc`.

    A tensor of at most 256 different levels counts as quantized.
    """
    records = [_record(unit, levels) for unit, levels in _decoded(path, "reading", progress)]
    coded = sum(record.coded_bytes for record in records if record.kind == "quantized")
    return FileInfo(FileSize(expanded(path).stat().st_size, coded), tuple(records))


def _check_name(name: object) -> None:
    if "\0" in check_name(name) or str(name).endswith(_FACTORS):
        raise InputError(
            f"tensor {name}: NNC reads no name with a zero byte, and takes one that ends in _G or "
            "_H for a factor"
        )


def _coded(
    name: str, tensor: Tensor, quantized: Quantized | None, float_bits: int, changes: _Changes
) -> Levels | None:
    """A tensor as levels, or None if it is left out."""
    if (reason := _reason_to_leave_out(name, tensor)) is not None:
        changes.add(f"left out ({reason})", name)
        return None
    if tensor.dim() == 0:
        changes.add("as a tensor of one dimension", name)
    if quantized is not None:
        coded, is_exact = _quantized_levels(quantized)
    elif tensor.is_floating_point():
        values = _as_float32(name, tensor, changes)
        coded, is_exact = nnc_tensors.fixed_point(values, float_bits)
    else:
        if tensor.dtype != torch.int32:
            changes.add("as int32", name)
        return Levels(tensor.detach().cpu().numpy().astype(np.int32))
    if not is_exact:
        changes.add(f"rounded to {float_bits} bits", name)
    return coded


def _reason_to_leave_out(name: str, tensor: Tensor) -> str | None:
    if tensor.numel() == 0:
        return "empty"
    if name.rpartition(".")[2] == _COUNTER:
        return "counters"
    if tensor.is_floating_point():
        is_held = bool((tensor.detach().abs() < nnc_tensors.TOO_LARGE).all())
        return None if is_held else "not finite, or 2^30 and more"
    limits, wide = torch.iinfo(torch.int32), tensor.detach().to(torch.int64)
    is_held = limits.min <= int(wide.min()) and int(wide.max()) <= limits.max
    return None if is_held else "beyond int32"


def _quantized_levels(quantized: Quantized) -> tuple[Levels, bool]:
    quantized.check()
    if isinstance(quantized, QuantizedTensor):
        integers = quantized.integers.detach().cpu().numpy().astype(np.int32)
        step = float(np.float32(quantized.step))
        if (coded := nnc_tensors.uniform(integers, step)) is not None:
            return coded, True
    return nnc_tensors.with_codebook(quantized.values().cpu().numpy())


def _as_float32(name: str, tensor: Tensor, changes: _Changes) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    stored = tensor.to(torch.float32)
    if tensor.dtype != torch.float32:
        is_same = torch.equal(stored.to(tensor.dtype), tensor)
        changes.add("as float32" if is_same else "rounded to float32", name)
    return stored.numpy()


def _decoded(path: str | Path, what: str, progress: bool) -> Iterator[tuple[Unit, Levels]]:
    parameters, units = _read(path)
    seen = set()
    for unit in counted(units, what, "tensor", progress):
        with _errors_name(path, unit.name):
            if unit.name in seen:
                raise ValueError("is there twice")
            seen.add(unit.name)
            yield unit, nnc_tensors.decode(unit, parameters)


def _read(path: str | Path) -> tuple[ParameterSet, list[Unit]]:
    file = expanded(path)
    if not file.is_file():
        raise InputError(f"{path}: {'not a file' if file.exists() else 'no such file'}")
    with input_errors(f"{path} is no NNC bitstream that is read here: "):
        return unpack(file.read_bytes())


@contextmanager
def _errors_name(path: str | Path, name: str) -> Iterator[None]:
    try:
        with input_errors(f"{path}: tensor {name!r}: "):
            yield
    except MemoryError as error:
        raise InputError(f"{path}: tensor {name!r} needs more memory than is available") from error


def _record(unit: Unit, coded: Levels) -> TensorRecord:
    facts: dict[str, Any] = {}
    kind: Kind = "float" if unit.is_float else "integer"
    dtype = torch.float32 if unit.is_float else torch.int32
    low, high = int(coded.levels.min()), int(coded.levels.max())
    if unit.is_float and high - low < _MOST_LEVELS:
        kind = "quantized"
        facts = {"bits": max(high, -low - 1, 1).bit_length() + (low < 0), "step": coded.step}
        values = torch.from_numpy(coded.values())
        if unit.codebook is not None:
            book = np.array(unit.codebook) * coded.step
            facts |= {"step": None, "form": "values", "numbers": tuple(book[book != 0].tolist())}
        facts["sparsity"] = 1 - int(values.count_nonzero()) / values.numel()
        facts["entropy"] = first_order_entropy(torch.from_numpy(coded.levels))
    return TensorRecord(unit.name, kind, dtype, unit.shape, len(unit.payload), **facts)
