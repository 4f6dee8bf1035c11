"""DeepCABAC, the entropy coder of NNCodec (ISO/IEC 15938-17), for arrays.

Only NNCodec's compiled engine is used, not its Python code: the engine imports in milliseconds,
writes no file and raises no ``SystemExit``. An array is coded in slices, each a DeepCABAC layer:
the engine cannot be given the end of its input, so a forged code is noticed at the end of a slice,
whose size bounds time and memory until then.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from nncodec.extensions import deepCABAC
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", np.int32, np.float32)

# Lowest and highest integer take one byte each in a payload.
LARGEST_LEVEL = 255
# Largest number of elements in a slice, and of the flags of all of them together (`Coding`).
SLICE_ELEMENTS, SLICE_FLAGS = 1 << 20, 1 << 25
# A coded array is padded to at least one byte per 1,024 elements, so that a few forged bytes cannot
# announce an array of any size. Only an array with more than 99.9 % zeros needs the padding.
ELEMENTS_PER_BYTE = 1024

# NNCodec's settings in the published code for tensors that are not quantized by ECQ: quantization
# parameters (qp, see `_step`) for two or more dimensions and for fewer, and the number of flags.
WEIGHT_QP, OTHER_QP, QP_DENSITY = -40, -75, 2
FLOAT_FLAGS = 11

# NNCodec's general_profile_idc, param_opt_flag and scan_order; no history-dependent probabilities.
_PROFILE, _PARAMETER_OPTIMIZATION, _ROW_SCAN = 1, 1, 0
_NO_HISTORY = np.zeros(2, dtype=np.int8)
# Most bits that a binary decision reads. A magnitude beyond the flags has an exponential Golomb
# code: a prefix of such decisions, and as many plain (bypass) bits.
_MAX_BITS_PER_BIN, _MAX_PREFIX_BINS = 7, 31
# Bound for what precedes the levels: adaptation rates, 10 bits for each of under 1,200 contexts.
_MAX_SIDE_BYTES = 4096


@dataclass(frozen=True)
class Coding:
    """Settings of a DeepCABAC layer.

    ``flags`` is the number of "magnitude is greater than …" flags, at least 1. Of the
    ``codebook_size`` possible levels ``zero_offset`` are negative; 0 and 0 allow any int32.
    ``dependent`` is 1 for dependent (trellis-coded) quantization.
    """

    flags: int
    codebook_size: int = 0
    zero_offset: int = 0
    dependent: int = 0

    @classmethod
    def of_range(cls, lowest: int, highest: int) -> Coding:
        """Levels from ``lowest`` <= 0 to ``highest`` >= 0; flags alone code every magnitude."""
        return cls(max(-lowest, highest, 1), highest - lowest + 1, -lowest)

    @property
    def layer(self) -> tuple[int, int, int, int]:
        """dq_flag, scan_order, general_profile_idc, parent_node_id_present_flag."""
        return self.dependent, _ROW_SCAN, _PROFILE, 0

    @property
    def level_range(self) -> tuple[object, NDArray[np.int8], int, int]:
        """History mode (off) and the range of levels."""
        return deepCABAC.HdspMode.AlwaysOff, _NO_HISTORY, self.codebook_size, self.zero_offset

    @property
    def slice_elements(self) -> int:
        """Largest number of elements in a slice; each has one more flag, for being zero."""
        return min(SLICE_ELEMENTS, SLICE_FLAGS // (self.flags + 1))

    def max_bytes(self, rows: int, width: int) -> int:
        """Largest number of bytes that the decoder can read for a slice, whatever they are."""
        # An element has flags, a sign and a flag for being zero, a row one for being all zero.
        bins, bypass = 2 + self.flags, 0
        if self.codebook_size == 0:
            bins, bypass = bins + _MAX_PREFIX_BINS, _MAX_PREFIX_BINS
        bits = rows * (_MAX_BITS_PER_BIN + width * (_MAX_BITS_PER_BIN * bins + bypass))
        return _MAX_SIDE_BYTES + bits // 8

    def layout(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and width of a full slice of a non-empty array.

        The array is a matrix: its first axis against all others. A slice is a run of whole rows,
        or, if a row is too long for a slice, a run of elements as one row.
        """
        rows = shape[0] if shape else 1
        width = math.prod(shape) // rows
        if width > self.slice_elements:
            return 1, self.slice_elements
        return min(rows, self.slice_elements // width), width

    def encode(self, encoder: Any, levels: NDArray[np.int32]) -> None:
        """Code levels of shape (rows, width) as one layer."""
        empty_rows = ~levels.any(axis=1)
        encoder.initCtxModels(self.flags, _PARAMETER_OPTIMIZATION)
        skipped = int(empty_rows.any()), empty_rows.astype(np.int32)
        encoder.encodeLayer(levels, *self.layer, *skipped, *self.level_range)

    def decode(self, decoder: Any, levels: NDArray[np.int32]) -> int:
        """Fill levels of shape (rows, width) with the next layer, and end the decoder.

        Returns the number of bytes read; ``ValueError`` if the layer does not end there.
        """
        decoder.initCtxModels(self.flags)
        decoder.decodeLayer(levels, *self.layer, *self.level_range)
        try:
            return int(decoder.finish())
        except RuntimeError:
            raise ValueError("the coded elements do not end where they should") from None

    def slices(self, array: NDArray[_Scalar], shape: tuple[int, ...]) -> Iterator[NDArray[_Scalar]]:
        """The slices of a flat array as views of shape (rows, width)."""
        rows, width = self.layout(shape)
        for start in range(0, array.size, rows * width):
            part = array[start : start + rows * width]
            yield part.reshape(-1, min(width, part.size))


_FLOAT_CODING = Coding(FLOAT_FLAGS, dependent=1)


def encode_integers(array: NDArray[np.integer[Any]]) -> bytes:
    """Code an array of integers from -255 to 255 without loss, in about its first-order entropy.

    Entries of the first axis (rows, filters) that are all zero cost next to nothing. The shape is
    not stored; an empty array has no code. ``ValueError`` if a value is out of range.
    """
    if array.size == 0:
        return b""
    lowest, highest = min(0, int(array.min())), max(0, int(array.max()))
    if max(-lowest, highest) > LARGEST_LEVEL:
        raise ValueError(
            f"integers must lie between {-LARGEST_LEVEL} and {LARGEST_LEVEL}, "
            f"not between {lowest} and {highest}"
        )
    coding = Coding.of_range(lowest, highest)
    levels = np.ascontiguousarray(array, dtype=np.int32).reshape(-1)
    parts = [_encode_slice(part, coding) for part in coding.slices(levels, array.shape)]
    return _padded(bytes([-lowest, highest]) + b"".join(parts), array.size)


def decode_integers(payload: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Inverse of `encode_integers`: an array of int32 of the given shape.

    ``ValueError`` if the payload is not exactly the code of an array of this shape. Damage that
    leaves the code valid changes the integers: store a checksum beside the payload.
    """
    stream = _Stream(payload, shape)
    # Memory of zeros is provided by the system on the first write: a forged code fails at the end
    # of its first slice and costs no more than that slice.
    levels = np.zeros(stream.elements, dtype=np.int32)
    if levels.size:
        negative, highest = stream.take(2)
        coding = Coding.of_range(-negative, highest)
        for part in stream.slices(levels, coding):
            stream.decode(part, coding)
        stream.check_end()
    return levels.reshape(shape)


def encode_floats(array: NDArray[np.float32]) -> bytes:
    """Code an array of floats with loss, as NNCodec does with the published settings.

    Dependent quantization with parameter -40 (step about 1e-3) for two or more dimensions and -75
    (step about 2.4e-6) for fewer. The shape is not stored; an empty array has no code.
    ``ValueError`` if a value is not finite.
    """
    if array.size == 0:
        return b""
    if not np.isfinite(array).all():
        raise ValueError("NaN and infinite values cannot be coded with loss; store the floats raw")
    qp = WEIGHT_QP if array.ndim > 1 else OTHER_QP
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    parts = []
    for part in _FLOAT_CODING.slices(values, array.shape):
        levels, slice_qp = _quantize(part, qp)
        parts += [struct.pack("<h", slice_qp), _encode_slice(levels, _FLOAT_CODING)]
    return _padded(b"".join(parts), array.size)


def decode_floats(payload: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Inverse of `encode_floats`: the values that NNCodec itself would reconstruct, float32.

    ``ValueError`` as `decode_integers`.
    """
    stream = _Stream(payload, shape)
    values = np.zeros(stream.elements, dtype=np.float32)
    if values.size:
        for part in stream.slices(values, _FLOAT_CODING):
            step = _step(*struct.unpack("<h", stream.take(2)))
            levels = np.zeros(part.shape, dtype=np.int32)
            stream.decode(levels, _FLOAT_CODING)
            np.multiply(levels.astype(np.float32), step, out=part)
        stream.check_end()
    return values.reshape(shape)


class _Stream:
    """A payload that is decoded slice by slice.

    The engine does not check where its input ends. It therefore reads from a copy that is followed
    by as many zeros as it can read for a slice; they take memory only if they are read, which does
    not happen for a valid payload.
    """

    def __init__(self, payload: bytes | memoryview, shape: tuple[int, ...]) -> None:
        self._payload = memoryview(payload)
        self._shape = shape
        self._position = 0
        self.elements = math.prod(shape)
        if (self.elements == 0) != (len(payload) == 0) or len(payload) < _min_bytes(self.elements):
            raise ValueError(f"{len(payload)} bytes cannot hold {self.elements} coded elements")

    def slices(self, array: NDArray[_Scalar], coding: Coding) -> Iterator[NDArray[_Scalar]]:
        """The slices of ``array``, each to be filled from `decode` before the next."""
        self._input = before_zeros(self._payload, coding.max_bytes(*coding.layout(self._shape)))
        return coding.slices(array, self._shape)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        taken = self._payload[self._position : self._position + count]
        self._advance(count)
        return bytes(taken)

    def decode(self, levels: NDArray[np.int32], coding: Coding) -> None:
        """Fill ``levels``, shape (rows, width), with the next slice."""
        decoder = deepCABAC.Decoder()
        decoder.setStream(self._input[self._position :])
        self._advance(coding.decode(decoder, levels))

    def check_end(self) -> None:
        """Raise ``ValueError`` unless only padding is left."""
        rest = self._payload[self._position :]
        if len(self._payload) > max(self._position, _min_bytes(self.elements)) or any(rest):
            raise ValueError(f"{len(rest)} bytes follow the coded elements")

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > len(self._payload):
            raise ValueError("the coded elements are cut off")


def before_zeros(payload: bytes | memoryview, count: int) -> NDArray[np.uint8]:
    """A payload, followed by zeros that take memory only when accessed."""
    size = len(payload) + count
    if os.name != "posix":
        padded = np.zeros(size, dtype=np.uint8)
    else:
        # Unlike the zeros of np.zeros also for small sizes.
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        padded = np.frombuffer(pages, dtype=np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    return padded


def _encode_slice(levels: NDArray[np.int32], coding: Coding) -> bytes:
    """Code levels of shape (rows, width) as one DeepCABAC layer."""
    encoder = deepCABAC.Encoder()
    coding.encode(encoder, levels)
    return bytes(encoder.finish())


def _quantize(values: NDArray[np.float32], qp: int) -> tuple[NDArray[np.int32], int]:
    """Levels of dependent quantization, and their parameter: a larger one if levels overflow."""
    levels = np.zeros(values.shape, dtype=np.int32)
    encoder = deepCABAC.Encoder()
    # dq_flag 1, lambda_scale 0: bits have no weight. NNCodec, too, passes one flag less here than
    # to ``initCtxModels``.
    used = encoder.quantLayer(
        values, levels, 1, QP_DENSITY, qp, 0.0, FLOAT_FLAGS - 1, _ROW_SCAN, _PROFILE
    )
    return levels, int(used)


def _step(qp: int) -> np.float32:
    """Step of a quantization parameter; it doubles when ``qp`` grows by ``2 ** QP_DENSITY``."""
    density = 1 << QP_DENSITY
    exponent = (qp >> QP_DENSITY) - QP_DENSITY
    # Near the limits of float32: only a forged file goes beyond.
    if not -160 <= exponent <= 120:
        raise ValueError(f"the quantization parameter {qp} is out of range")
    return np.float32((density + (qp & (density - 1))) * 2.0**exponent)


def _min_bytes(elements: int) -> int:
    return -(-elements // ELEMENTS_PER_BYTE)


def _padded(payload: bytes, elements: int) -> bytes:
    return payload.ljust(_min_bytes(elements), b"\0")
