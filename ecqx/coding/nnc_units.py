"""The syntax of an NNC bitstream (ISO/IEC 15938-17): units, and the bits of their headers.

A bitstream is a start unit, a model parameter set, and a compressed data unit for each tensor. Each
function describes a part once, for writing and for reading. Names are those of the standard and of
the package ``nncodec``. What no tool of it uses by default (blocks, decomposition, updates) is
refused by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

# nnr_unit_type
_STR, _MPS, _TPL, _QNT, _NDU = 0, 1, 3, 4, 5
# nnr_compressed_data_unit_payload_type
_INT, _FLOAT = 0, 1
_PAYLOADS = {_INT: "NNR_PT_INT", _FLOAT: "NNR_PT_FLOAT", 2: "NNR_PT_RAW_FLOAT", 3: "NNR_PT_BLOCK"}
# mps_quantization_method_flags: uniform, codebook.
_UNIFORM, _CODEBOOK = 1, 2
# Start unit of a file of the second edition (general_profile_idc 1).
START = bytes([0, 4, _STR << 2 | 2, 1])
# Up to this length in bytes the size of a unit takes two bytes, else four.
_SHORT = (1 << 15) - 1
# Flags of a layer whose header does not say how many there are (cabac_unary_length).
_DEFAULT_FLAGS = 10
# Longest prefix of an exponential Golomb code that a 64-bit number can have.
_MAX_PREFIX = 64


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

    Attributes
    ----------
    name : str
    shape : tuple of int
        At least one dimension, none of them 0.
    payload : bytes
        The quantization parameter and the layer data, which `ecqx.coding.nnc_tensors` codes.
    flags : int
        Number of "magnitude is greater than …" flags of the coder.
    is_float : bool
        Whether there is a step; else the tensor is of int32.
    dependent : bool
        Whether quantization is dependent (trellis-coded).
    codebook : tuple of int
        Ascending multiples of the step; empty if there is no codebook.
    zero : int
        Position in the codebook of level 0.
    """

    name: str = ""
    shape: tuple[int, ...] = ()
    payload: bytes | memoryview = b""
    flags: int = _DEFAULT_FLAGS
    is_float: bool = True
    dependent: bool = False
    codebook: tuple[int, ...] = ()
    zero: int = 0


def pack(parameters: ParameterSet, units: Iterable[Unit]) -> bytes:
    """A whole bitstream."""
    units = list(units)
    bits = Writer()
    _parameter_set(bits, parameters, _UNIFORM | _CODEBOOK * any(u.codebook for u in units))
    parts = [START, _unit(_MPS, bits.bytes())]
    for unit in units:
        bits = Writer()
        _data_unit(bits, unit)
        parts.append(_unit(_NDU, bits.bytes() + unit.payload))
    return b"".join(parts)


def unpack(data: bytes | memoryview) -> tuple[ParameterSet, list[Unit]]:
    """The units of a bitstream; ``ValueError`` if it is cut off or uses what is not read here."""
    found: ParameterSet | None = None
    units = []
    for kind, bits in _units(memoryview(data)):
        if kind == _MPS:
            found = _parameter_set(bits, ParameterSet(0, 0), 0)
        elif kind == _NDU:
            if found is None:
                raise ValueError("a tensor comes before the model parameter set")
            units.append(replace(_data_unit(bits, Unit()), payload=bits.rest()))
        elif kind not in (_TPL, _QNT):
            raise ValueError(f"a unit has the type {kind}, which is not supported")
    if found is None:
        raise ValueError("it has no model parameter set")
    return found, units


class Bits(ABC):
    """The descriptors of the standard, most significant bit first.

    A `Writer` writes each number and returns it; a `Reader` ignores it and returns what it reads.
    """

    count = 0  # of bits so far

    @abstractmethod
    def u(self, count: int, value: int) -> int:
        """An unsigned number of ``count`` bits."""

    def i(self, count: int, value: int) -> int:
        """A number of ``count`` bits in two's complement."""
        value = self.u(count, value % (1 << count))
        return value - (value >> (count - 1) << count)

    def ue(self, k: int, value: int) -> int:
        """An exponential Golomb code of order ``k``."""
        base = 0
        for order in range(k, k + _MAX_PREFIX):
            if self.u(1, value - base < 1 << order):
                return base + self.u(order, value - base)
            base += 1 << order
        raise ValueError("a number is too large")

    def ie(self, k: int, value: int) -> int:
        """The same for 0, 1, -1, 2, -2, …"""
        code = self.ue(k, 2 * value - 1 if value > 0 else -2 * value)
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def align(self) -> None:
        """A one, then zeros to the end of the byte."""
        self.u(1, 1)
        self.u(-self.count % 8, 0)

    def text(self, value: str) -> str:
        """UTF-8 and a zero byte."""
        expected, taken = iter(value.encode()), bytearray()
        while byte := self.u(8, next(expected, 0)):
            taken.append(byte)
        try:
            return taken.decode()
        except UnicodeDecodeError:
            raise ValueError("a name is not UTF-8") from None


class Writer(Bits):
    """Collects bits."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, count: int, value: int) -> int:
        if count:
            self._bits.append(f"{value:0{count}b}")
            self.count += count
        return value

    def bytes(self) -> bytes:
        """What was written, a whole number of bytes."""
        return int("".join(self._bits), 2).to_bytes(self.count // 8, "big")


class Reader(Bits):
    """Reads bits; ``ValueError`` where the data end too early."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def u(self, count: int, value: int = 0) -> int:
        end = self.count + count
        if end > 8 * len(self._data):
            raise ValueError("a unit ends too early")
        first, last = self.count // 8, -(-end // 8)
        value = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self.count = end
        return value & ((1 << count) - 1)

    def rest(self) -> memoryview:
        """All bytes that follow."""
        return self._data[self.count // 8 :]


def _unit(kind: int, body: bytes) -> bytes:
    """A unit whose header after the type is ``body``; size and type precede it."""
    head = bytes([kind << 2 | 2])  # independently_decodable_flag 1, no partial_data_counter
    length = 3 + len(body)
    if length <= _SHORT:
        return length.to_bytes(2, "big") + head + body
    return ((length + 2) | 1 << 31).to_bytes(4, "big") + head + body


def _units(data: memoryview) -> Iterator[tuple[int, Reader]]:
    """Type and contents of each unit after the start unit."""
    if bytes(data[: len(START)]) != START:
        raise ValueError("it does not begin with a start unit of general profile 1")
    position = len(START)
    while position < len(data):
        head = Reader(data[position:])
        is_long = head.u(1)
        size = head.u(31 if is_long else 15)
        unit = data[position : position + size]
        if len(unit) != size or size < 3 + 2 * is_long:
            raise ValueError("it is cut off")
        bits = Reader(unit)
        bits.u(16 + 16 * is_long)
        kind, _, has_counter = bits.u(6), bits.u(1), bits.u(1)
        bits.u(8 * has_counter)
        yield kind, bits
        position += size


def _parameter_set(bits: Bits, parameters: ParameterSet, methods: int) -> ParameterSet:
    # No topology, performance maps of sparsification, pruning, unification, decomposition.
    if bits.u(5, 0) & 15:
        raise ValueError("it has performance maps, which are not supported")
    methods, is_indexed = bits.u(3, methods), bits.u(1, 0)
    # No base model, no performance, mps_parent_signalling_enabled_flag; reserved.
    refers, _ = bits.u(4, 0), bits.u(3, 0)
    if is_indexed or refers:
        what = "a list of names" if is_indexed else "references to another model"
        raise ValueError(f"it has {what}, which is not supported")
    if methods:
        parameters = ParameterSet(bits.u(3, parameters.density), bits.i(13, parameters.qp))
    bits.align()
    return parameters


def _data_unit(bits: Bits, unit: Unit) -> Unit:
    """The header of a tensor."""
    kind = bits.u(5, _FLOAT if unit.is_float else _INT)
    several, has_format, has_inputs = bits.u(1, 0), bits.u(1, 0), bits.u(1, 1)
    if kind not in (_INT, _FLOAT) or several or not has_inputs:
        named = _PAYLOADS.get(kind, f"payload type {kind}")
        raise ValueError(f"a tensor is coded as {named}, which is not supported")
    name = bits.text(unit.name)
    if bits.u(1, 0):  # node_id_present_flag: device_id, parameter_id, put_node_depth
        bits.ue(1, 0), bits.ue(5, 0), bits.ue(4, 0)
    codebook, zero = unit.codebook, unit.zero
    if kind == _FLOAT and bits.u(1, bool(codebook)):
        codebook, zero = _codebook(bits, codebook, zero)
    dependent = bits.u(1, unit.dependent)
    bits.u(7 * has_format, 0)
    has_dimensions, has_flags, types = bits.u(1, 1), bits.u(1, 1), bits.u(4, 0)
    if not has_dimensions or types:
        raise ValueError(f"tensor {name!r} is part of a block, which is not supported")
    dimensions = bits.ue(1, len(unit.shape))
    shape = tuple(bits.ue(7, size) for size in unit.shape or range(dimensions))
    flags = bits.u(8, unit.flags - 1) + 1 if has_flags else _DEFAULT_FLAGS
    if len(shape) > 1:
        bits.ue(1, 0)  # first_tensor_dimension_shift
        if bits.u(4, 0):
            raise ValueError(f"tensor {name!r} has a scan order, which is not supported")
    bits.align()
    return Unit(name, shape, b"", flags, kind == _FLOAT, bool(dependent), codebook, zero)


def _codebook(bits: Bits, codebook: tuple[int, ...], zero: int) -> tuple[tuple[int, ...], int]:
    """The entry at ``zero``, then differences less one: leftwards from it, then rightwards."""
    gaps = [high - low - 1 for low, high in pairwise(codebook)]
    cheapest = min(range(16), key=lambda k: sum(_golomb_bits(k, gap) for gap in gaps))
    order, size = bits.u(4, cheapest), bits.ue(2, len(codebook))
    zero = size // 2 + bits.ie(2, zero - size // 2)
    if not 0 <= zero < size:
        raise ValueError("a codebook has no such zero")
    left = [bits.ie(7, codebook[zero] if codebook else 0)]
    right = left.copy()
    for number in range(zero):
        left.append(left[-1] - bits.ue(order, gaps[zero - 1 - number] if gaps else 0) - 1)
    for number in range(zero, size - 1):
        right.append(right[-1] + bits.ue(order, gaps[number] if gaps else 0) + 1)
    if left[-1] < -(1 << 31) or right[-1] >= 1 << 31:
        raise ValueError("a codebook leaves the range of int32")
    return (*reversed(left), *right[1:]), zero


def _golomb_bits(k: int, value: int) -> int:
    prefix = (value // (1 << k) + 1).bit_length() - 1
    return 1 + 2 * prefix + k
