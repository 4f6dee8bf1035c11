"""A model as a standard NNC bitstream (ISO/IEC 15938-17), which NNCodec's own decoder reads.

`ecqx.coding.nnc_file` is another thing: NNCodec's own quantization of a model, as a suite compares.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ecqx.coding import nnc_tensors
from ecqx.coding.bitstream import check_replaceable, coded_state_of
from ecqx.coding.few_values import as_grid, few_valued
from ecqx.coding.inspection import FileSize
from ecqx.coding.nnc_inspection import decoded_units
from ecqx.coding.nnc_tensors import Levels
from ecqx.coding.nnc_units import Unit, pack
from ecqx.coding.quantized import CodedStateSource, Quantized, QuantizedTensor
from ecqx.coding.storable import check_tensor
from ecqx.coding.type_codes import check_grid, check_name, check_range
from ecqx.errors import InputError, InputWarning, input_errors
from ecqx.files import write_atomically
from ecqx.modules import is_quantizable
from ecqx.progress import counted

FLOAT_BITS = range(16, nnc_tensors.MOST_BITS + 1)
# BatchNorm's count of batches, without effect on predictions.
_COUNTER = "num_batches_tracked"
# NNCodec takes tensors with such names for factors of a decomposed weight.
_FACTORS = ("_G", "_H")


# Names of tensors by what became of them, as the standard cannot hold them as they are.
_Changes = defaultdict[str, list[str]]


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
        As for `ecqx.save`. Weights of a module or a state_dict that have few values
        (`ecqx.coding.few_values`) count as quantized.
    float_bits : int
        Bits of the largest value in each tensor of other floats, 16 to 31: the error is at most
        2 ** -``float_bits`` of that value and, where 31 bits allow it, 2 ** -11 of each value.
        Tensors that need no more bits are exact. 31 makes ResNet20's file 2 % larger than 24.
    progress : bool
        Show a progress bar if stderr is a terminal.

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
    state, known = coded_state_of(model)
    others = {name: t for name, t in state.items() if name not in known and is_quantizable(t)}
    quantized = few_valued(others) | dict(known)
    changes, units = _Changes(list), list[Unit]()
    for name, tensor in counted(state.items(), "encoding", "tensor", progress):
        _check_name(name)
        with input_errors(f"tensor {name}: "):
            stored = check_tensor(tensor, as_integers=name in quantized)
            coded = _coded(name, stored, quantized.get(name), float_bits, changes)
        if coded is not None:
            units.append(nnc_tensors.encode(name, coded, name in quantized))
    data = pack(nnc_tensors.PARAMETERS, units)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    if changes:
        parts = [f"{_listed(names)} {what}" for what, names in sorted(changes.items())]
        line = f"{path}: NNC cannot hold as they are: {'; '.join(parts)}"
        warnings.warn(line, InputWarning, stacklevel=2)
    return FileSize(len(data), sum(len(u.payload) for u in units if u.name in quantized))


def load_nnc(path: str | Path, progress: bool = False) -> dict[str, Tensor]:
    """Read an NNC bitstream to a state_dict of float32 and int32, as NNCodec itself decodes it.

    ``ValueError`` if the file is no bitstream, is cut off, or uses a part of the standard that
    NNCodec does not use by default (blocks, decomposition, updates of another model).
    """
    return {
        unit.name: torch.from_numpy(levels.values())
        for unit, levels in decoded_units(path, "decoding", progress)
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


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
        changes[f"left out ({reason})"].append(name)
        return None
    if tensor.dim() == 0:
        changes["as a tensor of one dimension"].append(name)
    tensor = tensor.detach().cpu()
    if quantized is not None:
        coded, is_exact = _quantized_levels(quantized)
    elif tensor.is_floating_point():
        stored = tensor.to(torch.float32)
        if tensor.dtype != torch.float32:
            is_same = torch.equal(stored.to(tensor.dtype), tensor)
            changes["as float32" if is_same else "rounded to float32"].append(name)
        coded, is_exact = nnc_tensors.fixed_point(stored.numpy(), float_bits)
    else:
        if tensor.dtype != torch.int32:
            changes["as int32"].append(name)
        return Levels(tensor.numpy().astype(np.int32))
    if not is_exact:
        changes[f"rounded to {float_bits} bits"].append(name)
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
    if isinstance(quantized, QuantizedTensor):
        check_grid(quantized.bits, quantized.step)
        least, most = -(2 ** (quantized.bits - 1)), 2**quantized.bits - 1
        check_range(quantized.integers, least, most, f"{quantized.bits} bits allow")
    if isinstance(grid := as_grid(quantized), QuantizedTensor):
        integers = grid.integers.detach().cpu().numpy().astype(np.int32)
        if (coded := nnc_tensors.on_grid(integers, float(np.float32(grid.step)))) is not None:
            return coded, True
    return nnc_tensors.with_codebook(quantized.values().cpu().numpy())
