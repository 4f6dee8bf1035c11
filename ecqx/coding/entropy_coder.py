"""Coding of arrays with DeepCABAC, the entropy coder of NNCodec (ISO/IEC 15938-17).

Only NNCodec's compiled engine is used, without the high-level syntax around it: it imports in
milliseconds, writes no file and does not end the program. One array is coded as slices, each a
DeepCABAC layer of its own: the engine cannot be told where its input ends, so that a forged code is
noticed at the end of a slice, and the length of a slice bounds the time and the memory until then.
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

LARGEST_LEVEL = 255
# A slice holds at most so many elements, and so many flags at most.
SLICE_ELEMENTS, SLICE_FLAGS = 1 << 20, 1 << 25
# A coded array is filled up to one byte per so many elements: without it, a few forged bytes
# could claim an array of any size. Only arrays of almost nothing but zeros are ever shorter.
ELEMENTS_PER_BYTE = 1024

# The published settings of NNCodec for what is not quantized by ECQ.
WEIGHT_QP, OTHER_QP, QP_DENSITY = -40, -75, 2
FLOAT_FLAGS = 11

_PROFILE, _PARAMETER_OPTIMIZATION, _ROW_SCAN = 1, 1, 0
_NO_HISTORY = np.zeros(2, dtype=np.int8)
_MOST_BITS_PER_BIN, _MOST_PREFIX_BINS = 7, 31
_MOST_SIDE_BYTES = 4096


@dataclass(frozen=True)
class _Coding:
    """Settings of a DeepCABAC layer.

    Attributes
    ----------
    flags : int
        Number of "magnitude is greater than …" flags, at least 1.
    codebook_size, zero_offset : int
        Number of possible levels and how many of them are negative; 0, 0 for any int32.
    dependent : int
        1 for dependent (trellis-coded) quantization.
    """

    flags: int
    codebook_size: int = 0
    zero_offset: int = 0
    dependent: int = 0

    @classmethod
    def of_range(cls, lowest: int, highest: int) -> _Coding:
        """Levels from ``lowest`` <= 0 to ``highest`` >= 0: every magnitude is coded by flags."""
        return cls(max(-lowest, highest, 1), highest - lowest + 1, -lowest)

    @property
    def slice_elements(self) -> int:
        """Elements of a slice at most; each has one flag for being zero beside its others."""
        return min(SLICE_ELEMENTS, SLICE_FLAGS // (self.flags + 1))

    def most_bytes(self, rows: int, width: int) -> int:
        """Bytes that the decoder can read at most for a slice, whatever it reads."""
        bins, bypass = 2 + self.flags, 0
        if self.codebook_size == 0:
            bins, bypass = bins + _MOST_PREFIX_BINS, _MOST_PREFIX_BINS
        bits = rows * (_MOST_BITS_PER_BIN + width * (_MOST_BITS_PER_BIN * bins + bypass))
        return _MOST_SIDE_BYTES + bits // 8


_FLOAT_CODING = _Coding(FLOAT_FLAGS, dependent=1)


def encode_integers(array: NDArray[np.integer[Any]]) -> bytes:
    """Code an array of small integers without loss.

    Parameters
    ----------
    array : array of integers
        Any shape; values from -255 to 255. The first axis is the one whose all-zero entries
        (rows, filters) cost next to nothing.

    Returns
    -------
    bytes
        About the first-order entropy; empty for an empty array. The shape is not stored.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    if array.size == 0:
        return b""
    lowest, highest = min(0, int(array.min())), max(0, int(array.max()))
    if max(-lowest, highest) > LARGEST_LEVEL:
        raise ValueError(
            f"integers must lie between {-LARGEST_LEVEL} and {LARGEST_LEVEL}, "
            f"not between {lowest} and {highest}"
        )
    coding = _Coding.of_range(lowest, highest)
    levels = np.ascontiguousarray(array, dtype=np.int32).reshape(-1)
    parts = [_encode_slice(part, coding) for part in _slices(levels, array.shape, coding)]
    return _filled(bytes([-lowest, highest]) + b"".join(parts), array.size)


def decode_integers(payload: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Inverse of `encode_integers`.

    Parameters
    ----------
    payload : bytes
    shape : tuple of int
        Shape of the array that was coded.

    Returns
    -------
    array of int32, shape ``shape``

    Raises
    ------
    ValueError
        If the payload is not exactly the code of an array of this shape. Damage that leaves the
        code valid yields other integers: keep a checksum beside the payload.
    """
    stream = _Stream(payload, shape)
    if stream.elements == 0:
        return np.zeros(shape, dtype=np.int32)
    negative, highest = stream.take(2)
    coding = _Coding.of_range(-negative, highest)
    stream.add_margin(coding)
    # Zeros are pages that the system provides when they are written to: a forged code, which ends
    # with its first slice, costs no more than that slice, however many elements it announces.
    levels = np.zeros(stream.elements, dtype=np.int32)
    for part in _slices(levels, shape, coding):
        stream.decode(part, coding)
    stream.expect_end()
    return levels.reshape(shape)


def encode_floats(array: NDArray[np.float32]) -> bytes:
    """Code an array of floats with loss, as NNCodec does with the published settings.

    Dependent quantization with parameter -40 (step about 1e-3) for arrays of two or more
    dimensions and -75 (step about 2.4e-6) for the others.

    Parameters
    ----------
    array : array of float32
        Any shape, all finite.

    Returns
    -------
    bytes
        Empty for an empty array. The shape is not stored.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    if array.size == 0:
        return b""
    if not np.isfinite(array).all():
        raise ValueError("NaN and infinite values cannot be coded with loss; store the floats raw")
    qp = WEIGHT_QP if array.ndim > 1 else OTHER_QP
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    parts = []
    for part in _slices(values, array.shape, _FLOAT_CODING):
        levels, slice_qp = _quantize(part, qp)
        parts += [struct.pack("<h", slice_qp), _encode_slice(levels, _FLOAT_CODING)]
    return _filled(b"".join(parts), array.size)


def decode_floats(payload: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Inverse of `encode_floats`, up to the quantization error.

    Parameters
    ----------
    payload : bytes
    shape : tuple of int
        Shape of the array that was coded.

    Returns
    -------
    array of float32, shape ``shape``
        The values that NNCodec itself would reconstruct.

    Raises
    ------
    ValueError
        If the payload is not exactly the code of an array of this shape.
    """
    stream = _Stream(payload, shape)
    if stream.elements == 0:
        return np.zeros(shape, dtype=np.float32)
    stream.add_margin(_FLOAT_CODING)
    values = np.zeros(stream.elements, dtype=np.float32)
    for part in _slices(values, shape, _FLOAT_CODING):
        step = _step(*struct.unpack("<h", stream.take(2)))
        levels = np.zeros(part.shape, dtype=np.int32)
        stream.decode(levels, _FLOAT_CODING)
        np.multiply(levels.astype(np.float32), step, out=part)
    stream.expect_end()
    return values.reshape(shape)


class _Stream:
    """A payload that is read slice by slice.

    The engine is told where its input begins, not where it ends. It therefore reads from a copy
    that is followed by as many zeros as a slice can consume at most; the zeros are pages that the
    system provides only if they are read, which no valid payload does.
    """

    def __init__(self, payload: bytes | memoryview, shape: tuple[int, ...]) -> None:
        self._payload = memoryview(payload)
        self._shape = shape
        self._position = 0
        self.elements = math.prod(shape)
        if (self.elements == 0) != (len(payload) == 0) or len(payload) < _fewest(self.elements):
            raise ValueError(f"{len(payload)} bytes cannot hold {self.elements} coded elements")

    def add_margin(self, coding: _Coding) -> None:
        rows, width, _ = _layout(self._shape, coding)
        margin = coding.most_bytes(rows, width)
        self._padded = _pages_of_zeros(len(self._payload) + margin)
        self._padded[: len(self._payload)] = self._payload

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes as they are."""
        taken = self._payload[self._position : self._position + count]
        self._advance(count)
        return bytes(taken)

    def decode(self, levels: NDArray[np.int32], coding: _Coding) -> None:
        """Fill ``levels``, shape (rows, width), with the next slice."""
        decoder = deepCABAC.Decoder()
        decoder.setStream(self._padded[self._position :])
        decoder.initCtxModels(coding.flags)
        decoder.decodeLayer(levels, *_layer_settings(coding), *_codebook(coding))
        try:
            consumed = int(decoder.finish())
        except RuntimeError:
            raise ValueError("the coded elements do not end where they should") from None
        self._advance(consumed)

    def expect_end(self) -> None:
        """Raise unless only the filling is left."""
        rest = self._payload[self._position :]
        if len(self._payload) > max(self._position, _fewest(self.elements)) or any(rest):
            raise ValueError(f"{len(rest)} bytes follow the coded elements")

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > len(self._payload):
            raise ValueError("the coded elements are cut off")


def _pages_of_zeros(size: int) -> NDArray[np.uint8]:
    """Zeros that take memory only where they are written to.

    Those of ``np.zeros`` may come from memory that was used before, and are all written then.
    """
    if os.name != "posix":
        return np.zeros(size, dtype=np.uint8)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype=np.uint8)


def _encode_slice(levels: NDArray[np.int32], coding: _Coding) -> bytes:
    """Code levels of shape (rows, width) as one DeepCABAC layer."""
    empty_rows = ~levels.any(axis=1)
    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(coding.flags, _PARAMETER_OPTIMIZATION)
    encoder.encodeLayer(
        levels,
        *_layer_settings(coding),
        int(empty_rows.any()),
        empty_rows.astype(np.int32),
        *_codebook(coding),
    )
    return bytes(encoder.finish())


def _layer_settings(coding: _Coding) -> tuple[int, int, int, int]:
    """dq_flag, scan_order, general_profile_idc, parent_node_id_present_flag."""
    return coding.dependent, _ROW_SCAN, _PROFILE, 0


def _codebook(coding: _Coding) -> tuple[object, NDArray[np.int8], int, int]:
    """History mode (off) and the range of levels."""
    history_off = deepCABAC.HdspMode.AlwaysOff
    return history_off, _NO_HISTORY, coding.codebook_size, coding.zero_offset


def _quantize(values: NDArray[np.float32], qp: int) -> tuple[NDArray[np.int32], int]:
    """Levels of dependent quantization, and the parameter used: a larger one if they overflow."""
    levels = np.zeros(values.shape, dtype=np.int32)
    encoder = deepCABAC.Encoder()
    used = encoder.quantLayer(
        values, levels, 1, QP_DENSITY, qp, 0.0, FLOAT_FLAGS - 1, _ROW_SCAN, _PROFILE
    )
    return levels, int(used)


def _step(qp: int) -> np.float32:
    """Step of a quantization parameter: it doubles every ``2 ** QP_DENSITY``."""
    density = 1 << QP_DENSITY
    exponent = (qp >> QP_DENSITY) - QP_DENSITY
    if not -160 <= exponent <= 120:
        raise ValueError(f"the quantization parameter {qp} is out of range")
    return np.float32((density + (qp & (density - 1))) * 2.0**exponent)


def _layout(shape: tuple[int, ...], coding: _Coding) -> tuple[int, int, int]:
    """Rows and width of the slices of a non-empty array but the last, and their elements.

    The array is a matrix, its first axis against all others, and a slice is a run of whole rows;
    where a single row is too long for a slice, a run of elements, as one row.
    """
    elements, most = math.prod(shape), coding.slice_elements
    rows = shape[0] if shape else 1
    width = elements // rows
    if width > most:
        return 1, most, most
    rows = min(rows, most // width)
    return rows, width, rows * width


def _slices(
    array: NDArray[_Scalar], shape: tuple[int, ...], coding: _Coding
) -> Iterator[NDArray[_Scalar]]:
    """The slices of a flattened array, each of shape (rows, width): views that can be written."""
    _, width, step = _layout(shape, coding)
    for start in range(0, array.size, step):
        part = array[start : start + step]
        yield part.reshape(-1, min(width, part.size))


def _fewest(elements: int) -> int:
    return -(-elements // ELEMENTS_PER_BYTE)


def _filled(payload: bytes, elements: int) -> bytes:
    return payload.ljust(_fewest(elements), b"\0")
