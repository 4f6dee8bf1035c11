"""The units of an NNC bitstream (ISO/IEC 15938-17), by the syntax tables of ``nncodec``.

A bitstream is a start unit, a model parameter set, and a compressed data unit for each tensor. What
no tool of NNCodec uses by default (blocks, decomposition, updates) is refused by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from nncodec.nnc_core import hls

from ecqx.coding.type_codes import check_name

_KIND, _PAYLOAD = hls.NnrUnitType, hls.CompressedDataUnitPayloadType
# Start unit of a file of the second edition (general_profile_idc 1).
START = bytes([0, 4, _KIND.NNR_STR << 2 | 2, 1])
# What a unit's syntax depends on and its own bits do not say: profile 1, names in each unit, no
# update of another model.
_CONTEXT = {
    "general_profile_idc": 1,
    "mps_topology_indexed_reference_flag": 0,
    "mps_parent_signalling_enabled_flag": 0,
    "lps_unification_flag": 0,
}
# Flags of a model parameter set that are 0.
_ABSENT = (
    *("topology_carriage_flag", "base_model_id_present_flag", "mps_sparsification_flag"),
    *("validation_set_performance_present_flag", "metric_type_performance_map_valid_flag"),
    *("mps_pruning_flag", "mps_unification_flag", "mps_decomposition_performance_map_flag"),
    *("nnr_reserved_zero_1bit", "nnr_reserved_zero_2bits"),
)
# Flags of a layer whose header does not say how many there are.
_DEFAULT_FLAGS = 10
# What NNCodec's reader raises for bits that are not a header.
_INVALID = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError, Warning)
# Longest header that is read: a name, a shape and a codebook.
_MOST_HEADER = 1 << 14


class ParameterSet(NamedTuple):
    """The model parameter set.

    A layer's step is ``(2 ** density + q % 2 ** density) * 2 ** (q // 2 ** density - density)``
    with q = ``qp`` plus the layer's own.
    """

    density: int
    qp: int


@dataclass(frozen=True)
class Unit:
    """One tensor: a compressed data unit.

    ``payload`` has the quantization parameter and the layer data, which `ecqx.coding.nnc_tensors`
    codes; ``flags`` is the number of its flags "magnitude is greater than …". Without ``is_float``
    there is no step, and the tensor is of int32. ``codebook`` has ascending multiples of the step,
    the one of level 0 at ``zero``; it is empty if there is none. ``dependent`` quantization is
    trellis-coded.
    """

    name: str
    shape: tuple[int, ...]
    payload: bytes | memoryview
    flags: int
    is_float: bool = True
    dependent: bool = False
    codebook: tuple[int, ...] = ()
    zero: int = 0


def pack(parameters: ParameterSet, units: Iterable[Unit]) -> bytes:
    """A whole bitstream."""
    units = list(units)
    methods = hls.QuantizationMethodFlags.NNR_QSU
    if any(unit.codebook for unit in units):
        methods |= hls.QuantizationMethodFlags.NNR_QCB
    elements = {
        "mps_quantization_method_flags": methods,
        "mps_qp_density": parameters.density,
        "mps_quantization_parameter": parameters.qp,
    }
    parameter_set = _written(_KIND.NNR_MPS, dict.fromkeys(_ABSENT, 0) | elements)
    return b"".join([START, parameter_set, *map(_data_unit, units)])


def _data_unit(unit: Unit) -> bytes:
    gaps = np.diff(np.array(unit.codebook, np.int64)) - 1
    elements = {
        "nnr_compressed_data_unit_payload_type": int(unit.is_float),
        "nnr_multiple_topology_elements_present_flag": 0,
        "nnr_decompressed_data_format_present_flag": 0,
        "input_parameters_present_flag": 1,
        "topology_elem_id": unit.name,
        "node_id_present_flag": 0,
        "codebook_present_flag": int(bool(unit.codebook)),
        "codebook_egk__": min(range(16), key=lambda k: _golomb_bits(k, gaps)),
        "codebook_size__": len(unit.codebook),
        "CbZeroOffset__": unit.zero,
        "codebook__": unit.codebook,
        "dq_flag": int(unit.dependent),
        "tensor_dimensions_flag": 1,
        "cabac_unary_length_flag": 1,
        "compressed_parameter_types": 0,
        "count_tensor_dimensions": len(unit.shape),
        "tensor_dimensions": unit.shape,
        "cabac_unary_length_minus1": unit.flags - 1,
        "first_tensor_dimension_shift": 0,
        "scan_order": 0,
    }
    return _written(_KIND.NNR_NDU, elements, unit.payload)


def _golomb_bits(k: int, gaps: np.ndarray[Any, Any]) -> int:
    """Bits of the exponential Golomb codes of order ``k``."""
    return int((1 + k + 2 * np.floor(np.log2((gaps >> k) + 1))).sum())


def _written(kind: int, elements: dict[str, Any], payload: bytes | memoryview = b"") -> bytes:
    start = {"independently_decodable_flag": 1, "partial_data_counter_present_flag": 0}
    unit = {"nnr_unit_type": kind} | start | _CONTEXT | elements
    written, _ = hls.update_nnr_unit_size(hls.encode_nnr_unit_with_size_dummy(unit) + payload)
    return bytes(written)


def unpack(data: bytes | memoryview) -> tuple[ParameterSet, list[Unit]]:
    """The units of a bitstream; ``ValueError`` if it is cut off or uses what is not read here."""
    found: ParameterSet | None = None
    units = []
    for unit in _units(memoryview(data)):
        # After the size and the flag of a counter, the type.
        first = 4 if unit[0] >> 7 else 2
        kind, first = unit[first] >> 2, first + 1 + unit[first] % 2
        if kind == _KIND.NNR_MPS:
            found = _parameter_set(unit, first)
        elif kind == _KIND.NNR_NDU:
            if found is None:
                raise ValueError("a tensor comes before the model parameter set")
            units.append(_read_data_unit(unit, first))
        elif kind not in (_KIND.NNR_TPL, _KIND.NNR_QNT):
            raise ValueError(f"a unit has the type {kind}, which is not supported")
    if found is None:
        raise ValueError("it has no model parameter set")
    return found, units


def _units(data: memoryview) -> Iterator[memoryview]:
    """The units after the start unit."""
    if bytes(data[: len(START)]) != START:
        raise ValueError("it does not begin with a start unit of general profile 1")
    position = len(START)
    while position < len(data):
        is_long = data[position] >> 7
        field = 4 if is_long else 2
        size = int.from_bytes(data[position : position + field], "big") & ~(is_long << 31)
        unit = data[position : position + size]
        if len(unit) != size or size < field + 3:
            raise ValueError("it is cut off")
        yield unit
        position += size


def _read(unit: memoryview, header_only: bool) -> tuple[dict[str, Any], int]:
    """Syntax elements of a header, or of a whole unit, and their number of bytes.

    NNCodec's reader has no limits of its own, so it gets no more than the longest header.
    """
    reader, elements = hls.BitReader(bytearray(unit[:_MOST_HEADER])), dict(_CONTEXT)
    syntax = hls.Coder(reader, elements)
    try:
        with np.errstate(all="raise"), warnings.catch_warnings():
            warnings.simplefilter("error")  # of numbers that an array cannot hold
            syntax.nnr_unit_size()
            for _ in syntax.nnr_unit_header():
                pass
            if not header_only:
                syntax.nnr_unit_payload()
    except (*_INVALID, MemoryError) as error:
        raise ValueError("the header of a unit is not valid or too long") from error
    return elements, reader.getNumBytesTouched()


def _parameter_set(unit: memoryview, first: int) -> ParameterSet:
    if unit[first] >> 3 & 15:
        raise ValueError("it has performance maps, which are not supported")
    elements, _ = _read(unit, header_only=False)
    if elements["mps_topology_indexed_reference_flag"]:
        raise ValueError("it has a list of names, which is not supported")
    if elements["base_model_id_present_flag"] or elements["mps_parent_signalling_enabled_flag"]:
        raise ValueError("it has references to another model, which is not supported")
    density, qp = (elements.get(f"mps_{n}", 0) for n in ("qp_density", "quantization_parameter"))
    return ParameterSet(density, qp)


def _read_data_unit(unit: memoryview, first: int) -> Unit:
    payload, has_several = unit[first] >> 3, unit[first] >> 2 & 1
    if payload not in (_PAYLOAD.NNR_PT_INT, _PAYLOAD.NNR_PT_FLOAT) or has_several:
        raise ValueError(f"a tensor has the payload type {payload}, which is not supported")
    elements, size = _read(unit, header_only=True)
    if not elements.get("tensor_dimensions_flag") or elements["compressed_parameter_types"]:
        raise ValueError("a tensor is part of a block, which is not supported")
    if elements.get("scan_order"):
        raise ValueError("a tensor has a scan order, which is not supported")
    codebook, zero = (
        np.array(elements.get("codebook__", ()), int),
        elements.get("CbZeroOffset__", 0),
    )
    if codebook.size and (not 0 <= zero < codebook.size or (np.diff(codebook) <= 0).any()):
        raise ValueError("a codebook is not ascending or has no such zero")
    return Unit(
        check_name(elements["topology_elem_id"]),
        tuple(map(int, elements["tensor_dimensions"])),
        unit[size:],
        elements.get("cabac_unary_length_minus1", _DEFAULT_FLAGS - 1) + 1,
        payload == _PAYLOAD.NNR_PT_FLOAT,
        bool(elements["dq_flag"]),
        tuple(map(int, codebook)),
        zero,
    )
