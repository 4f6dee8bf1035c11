"""The syntax of an NNC bitstream (ISO/IEC 15938-17): units, and the bits of their headers.

A bitstream is a start unit, a model parameter set, and a compressed data unit for each tensor.
Names are those of the standard and of the package ``nncodec``. What the package's writer can
produce but no tool of it uses by default (blocks, decomposition, updates) is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# nnr_unit_type
_STR, _MPS, _TPL, _QNT, _NDU = 0, 1, 3, 4, 5
# nnr_compressed_data_unit_payload_type
_INT, _FLOAT, _BLOCK = 0, 1, 3
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


@dataclass(frozen=True)
class ParameterSet:
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
    codebook : tuple of int, optional
        Ascending multiples of the step.
    zero : int
        Position in the codebook of level 0.
    """

    name: str
    shape: tuple[int, ...]
    payload: bytes | memoryview
    flags: int
    is_float: bool = True
    dependent: bool = False
    codebook: tuple[int, ...] | None = None
    zero: int = 0


def pack(parameters: ParameterSet, units: Iterable[Unit]) -> bytes:
    """A whole bitstream."""
    units = list(units)
    has_codebook = any(unit.codebook for unit in units)
    parts = [_start(), _parameter_set(parameters, has_codebook), *map(_data_unit, units)]
    return b"".join(parts)


def unpack(data: bytes | memoryview) -> tuple[ParameterSet, list[Unit]]:
    """The units of a bitstream; ``ValueError`` if it is cut off or uses what is not read here."""
    found: ParameterSet | None = None
    units = []
    for kind, reader in _units(memoryview(data)):
        if kind == _MPS:
            found = _read_parameter_set(reader)
        elif kind == _NDU:
            if found is None:
                raise ValueError("a tensor comes before the model parameter set")
            units.append(_read_data_unit(reader))
        elif kind not in (_TPL, _QNT):
            raise ValueError(f"a unit has the type {kind}, which is not supported")
    if found is None:
        raise ValueError("it has no model parameter set")
    return found, units


class BitWriter:
    """Writes the descriptors of the standard, most significant bit first."""

    def __init__(self) -> None:
        self._bits: list[str] = []
        self._count = 0

    def u(self, count: int, value: int) -> None:
        """An unsigned number of ``count`` bits."""
        if count:
            self._bits.append(f"{value:0{count}b}")
            self._count += count

    def ue(self, k: int, value: int) -> None:
        """An exponential Golomb code of order ``k``."""
        prefix = 0
        while value >= 1 << k:
            value -= 1 << k
            k, prefix = k + 1, prefix + 1
        self.u(prefix + 1, 1)
        self.u(k, value)

    def ie(self, k: int, value: int) -> None:
        """The same for 0, 1, -1, 2, -2, …"""
        self.ue(k, 2 * value - 1 if value > 0 else -2 * value)

    def align(self) -> None:
        """A one, then zeros to the end of the byte."""
        self.u(1, 1)
        self.u(-self._count % 8, 0)

    def text(self, value: str) -> None:
        """UTF-8 and a zero byte."""
        for byte in (*value.encode(), 0):
            self.u(8, byte)

    def bytes(self) -> bytes:
        """What was written, a whole number of bytes."""
        return int("".join(self._bits), 2).to_bytes(self._count // 8, "big")


class BitReader:
    """Inverse of `BitWriter`; ``ValueError`` where the data end too early."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0  # in bits

    def u(self, count: int) -> int:
        end = self._position + count
        if end > 8 * len(self._data):
            raise ValueError("a unit ends too early")
        first, last = self._position // 8, -(-end // 8)
        value = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
        self._position = end
        return value & ((1 << count) - 1)

    def ue(self, k: int) -> int:
        value = 0
        for _ in range(_MAX_PREFIX):
            if self.u(1):
                return value + self.u(k)
            value += 1 << k
            k += 1
        raise ValueError("a number is too large")

    def ie(self, k: int) -> int:
        code = self.ue(k)
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def i(self, count: int) -> int:
        """A number of ``count`` bits in two's complement."""
        value = self.u(count)
        return value - (value >> (count - 1) << count)

    def align(self) -> None:
        self.u(1)
        self._position += -self._position % 8

    def text(self) -> str:
        taken = bytearray()
        while byte := self.u(8):
            taken.append(byte)
        try:
            return taken.decode()
        except UnicodeDecodeError:
            raise ValueError("a name is not UTF-8") from None

    def rest(self) -> memoryview:
        """All bytes that follow."""
        return self._data[self._position // 8 :]


def _unit(kind: int, body: bytes) -> bytes:
    """A unit whose header after the type is ``body``; size and type precede it."""
    head = bytes([kind << 2 | 2])  # independently_decodable_flag 1, no partial_data_counter
    length = 3 + len(body)
    if length <= _SHORT:
        return length.to_bytes(2, "big") + head + body
    return ((length + 2) | 1 << 31).to_bytes(4, "big") + head + body


def _start() -> bytes:
    return _unit(_STR, bytes([1]))


def _parameter_set(parameters: ParameterSet, has_codebook: bool) -> bytes:
    bits = BitWriter()
    bits.u(5, 0)  # no topology, performance maps of sparsification, pruning, unification, …
    bits.u(3, _UNIFORM | _CODEBOOK * has_codebook)
    bits.u(1, 0)  # mps_topology_indexed_reference_flag
    bits.u(7, 0)  # no base model, no performance, mps_parent_signalling_enabled_flag, reserved
    bits.u(3, parameters.density)
    bits.u(13, parameters.qp % (1 << 13))
    bits.align()
    return _unit(_MPS, bits.bytes())


def _read_parameter_set(bits: BitReader) -> ParameterSet:
    if bits.u(5) & 15:
        raise ValueError("it has performance maps, which are not supported")
    methods, indexed, references, _ = bits.u(3), bits.u(1), bits.u(4), bits.u(3)
    if indexed or references:
        what = "a list of names" if indexed else "references to another model"
        raise ValueError(f"it has {what}, which is not supported")
    if not methods:
        return ParameterSet(0, 0)
    return ParameterSet(bits.u(3), bits.i(13))


def _data_unit(unit: Unit) -> bytes:
    bits = BitWriter()
    bits.u(5, _FLOAT if unit.is_float else _INT)
    bits.u(3, 1)  # one tensor, no nnr_decompressed_data_format, input parameters
    bits.text(unit.name)
    bits.u(1, 0)  # node_id_present_flag
    if unit.is_float:
        bits.u(1, unit.codebook is not None)
        if unit.codebook is not None:
            _write_codebook(bits, unit.codebook, unit.zero)
    bits.u(1, unit.dependent)
    bits.u(2, 3)  # tensor_dimensions_flag, cabac_unary_length_flag
    bits.u(4, 0)  # compressed_parameter_types
    bits.ue(1, len(unit.shape))
    for size in unit.shape:
        bits.ue(7, size)
    bits.u(8, unit.flags - 1)
    if len(unit.shape) > 1:
        bits.ue(1, 0)  # first_tensor_dimension_shift
        bits.u(4, 0)  # scan_order
    bits.align()
    return _unit(_NDU, bits.bytes() + unit.payload)


def _read_data_unit(bits: BitReader) -> Unit:
    payload, several, has_format, has_inputs = bits.u(5), bits.u(1), bits.u(1), bits.u(1)
    if payload not in (_INT, _FLOAT) or several or not has_inputs:
        kind = _PAYLOADS.get(payload, f"payload type {payload}")
        raise ValueError(f"a tensor is coded as {kind}, which is not supported")
    name = bits.text()
    if bits.u(1):  # node_id_present_flag: device_id, parameter_id, put_node_depth
        bits.ue(1), bits.ue(5), bits.ue(4)
    codebook, zero = None, 0
    if payload == _FLOAT and bits.u(1):
        codebook, zero = _read_codebook(bits)
    dependent = bool(bits.u(1))
    if has_format:
        bits.u(7)
    has_dimensions, has_flags, types = bits.u(1), bits.u(1), bits.u(4)
    if not has_dimensions or types:
        raise ValueError(f"tensor {name!r} is part of a block, which is not supported")
    shape = tuple(bits.ue(7) for _ in range(bits.ue(1)))
    flags = bits.u(8) + 1 if has_flags else _DEFAULT_FLAGS
    if len(shape) > 1:
        bits.ue(1)
        if bits.u(4):
            raise ValueError(f"tensor {name!r} has a scan order, which is not supported")
    bits.align()
    return Unit(name, shape, bits.rest(), flags, payload == _FLOAT, dependent, codebook, zero)


def _write_codebook(bits: BitWriter, codebook: tuple[int, ...], zero: int) -> None:
    gaps = _gaps(codebook, zero)
    order = min(range(16), key=lambda k: sum(_golomb_bits(k, gap) for gap in gaps))
    bits.u(4, order)
    bits.ue(2, len(codebook))
    bits.ie(2, zero - len(codebook) // 2)
    bits.ie(7, codebook[zero])
    for gap in gaps:
        bits.ue(order, gap)


def _read_codebook(bits: BitReader) -> tuple[tuple[int, ...], int]:
    order, size = bits.u(4), bits.ue(2)
    zero = size // 2 + bits.ie(2)
    if not 0 <= zero < size:
        raise ValueError("a codebook has no such zero")
    left = [bits.ie(7)]
    right = left.copy()
    for _ in range(zero):
        left.append(left[-1] - bits.ue(order) - 1)
    for _ in range(size - zero - 1):
        right.append(right[-1] + bits.ue(order) + 1)
    if left[-1] < -(1 << 31) or right[-1] >= 1 << 31:
        raise ValueError("a codebook leaves the range of int32")
    return (*reversed(left), *right[1:]), zero


def _gaps(codebook: tuple[int, ...], zero: int) -> list[int]:
    """Differences of neighbours less one: leftwards from the zero, then rightwards."""
    left = [codebook[i + 1] - codebook[i] - 1 for i in reversed(range(zero))]
    right = [codebook[i] - codebook[i - 1] - 1 for i in range(zero + 1, len(codebook))]
    return left + right


def _golomb_bits(k: int, value: int) -> int:
    prefix = (value // (1 << k) + 1).bit_length() - 1
    return 1 + 2 * prefix + k


def _units(data: memoryview) -> Iterator[tuple[int, BitReader]]:
    """Type and contents of each unit after the start unit."""
    if bytes(data[: len(START)]) != START:
        raise ValueError("it does not begin with a start unit of general profile 1")
    position = len(START)
    while position < len(data):
        head = BitReader(data[position:])
        is_long = head.u(1)
        size = head.u(31 if is_long else 15)
        unit = data[position : position + size]
        if len(unit) != size or size < 3 + 2 * is_long:
            raise ValueError("it is cut off")
        bits = BitReader(unit)
        bits.u(16 + 16 * is_long)
        kind, _, has_counter = bits.u(6), bits.u(1), bits.u(1)
        if has_counter:
            bits.u(8)
        yield kind, bits
        position += size
