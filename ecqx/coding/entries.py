"""One tensor as it lies in a file: a header (type, shape, grid) and a payload.

The type codes, headers and payloads are specified in docs/bitstream.md. Imports no torch:
`ecqx.coding.tensor_coding` codes tensors and decodes them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecqx.assignment.bits import Form, bits_of
from ecqx.coding import entropy_coder
from ecqx.coding.type_codes import (
    CODEBOOKS,
    FLOAT_BYTES,
    FLOATS,
    INTEGERS,
    LOSSY,
    QUANTIZED,
    TYPES,
    Kind,
    check_grid,
    check_range,
)

_MAX_ELEMENTS = 1 << 40
_MAX_VARINT_BYTES = 10


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first; the top bit is set in every byte but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads consecutive fields of a file; ``ValueError`` where one is invalid or missing."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._position = 0

    @property
    def left(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._position

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        if count > self.left:
            raise ValueError("it ends too early")
        self._position += count
        return self._data[self._position - count : self._position]

    def varint(self) -> int:
        """The next `varint`; longer forms than necessary are invalid."""
        value = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift > 0:
                    break
                return value
        raise ValueError("a number is not a valid varint")

    def count(self) -> int:
        """The number of things that follow, each of which takes at least one byte."""
        count = self.varint()
        if count > self.left:
            raise ValueError("it announces more than it holds")
        return count

    def text(self) -> str:
        """A length, then UTF-8 of this many bytes."""
        try:
            return str(self.take(self.varint()), "utf-8")
        except UnicodeDecodeError:
            raise ValueError("a name is not UTF-8") from None


@dataclass(frozen=True)
class Entry:
    """One tensor as it is stored: type code, shape, payload.

    Weights also have ``bits``, and the ``step`` of their grid or the ``numbers`` of their codebook,
    whose `form` is in the type code.
    """

    code: int
    shape: tuple[int, ...]
    payload: bytes | memoryview = b""
    bits: int = 0
    step: float = 0.0
    numbers: tuple[float, ...] = ()

    @property
    def kind(self) -> Kind:
        """How it is stored."""
        return TYPES[self.code][0]

    @property
    def dtype(self) -> str:
        """Name of the dtype of the decoded tensor, such as float32."""
        return TYPES[self.code][1]

    @property
    def form(self) -> Form | None:
        """Form of the codebook; None if there is none."""
        return CODEBOOKS.get(self.code)

    def header(self) -> bytes:
        """The bytes that `read_header` reads."""
        dims = b"".join(map(varint, self.shape))
        grid = struct.pack("<Bf", self.bits, self.step) if self.code == QUANTIZED else b""
        if self.form is not None:
            grid = struct.pack(f"<B{len(self.numbers)}f", len(self.numbers), *self.numbers)
        # The shape tells how long uncompressed floats are.
        length = b"" if self.code in FLOATS else varint(len(self.payload))
        return bytes([self.code | len(self.shape) << 4]) + dims + grid + length

    def integers(self) -> NDArray[np.int32]:
        """The integers of weights; ``ValueError`` if they do not fit header or centroids."""
        integers = entropy_coder.decode_integers(self.payload, self.shape)
        self.check(integers)
        return integers

    def check(self, integers: NDArray[Any]) -> None:
        """Raise ``ValueError`` for an integer, step or weight that is out of range."""
        if self.form is not None:
            centroids = codebook_centroids(self.form, self.numbers)
            zero = int((centroids < 0).sum())
            check_range(integers, -zero, len(centroids) - 1 - zero, "the codebook allows")
            return
        check_grid(self.bits, self.step)
        lowest, highest = -(2 ** (self.bits - 1)), 2**self.bits - 1
        extremes = check_range(integers, lowest, highest, f"{self.bits} bits allow")
        with np.errstate(over="ignore"):
            weights = np.array(extremes, np.float32) * np.float32(self.step)
        if not np.isfinite(weights).all():
            raise ValueError(f"a step of {self.step} makes the weights infinite")


def codebook_centroids(form: Form, numbers: tuple[float, ...]) -> NDArray[np.float32]:
    """The centroids in any order, as `ecqx.assignment.codebooks.codebooks` computes them.

    ``ValueError`` if there is no such codebook or one of them is not finite.
    """
    bits_of(form, len(numbers))
    sums = np.zeros(1)
    with np.errstate(over="ignore", invalid="ignore"):
        for number in numbers if form == "sums" else ():
            sums = np.concatenate([sums, sums + number])
        if form == "values":
            sums = np.concatenate([sums, numbers])
        centroids = sums.astype(np.float32)
    if not np.isfinite(centroids).all():
        raise ValueError("the codebook holds NaN or infinite values")
    return centroids


def read_header(reader: Reader) -> tuple[Entry, int]:
    """A tensor without its payload, and the length of the payload."""
    first = reader.take(1)[0]
    code = first & 15
    shape = tuple(reader.varint() for _ in range(first >> 4))
    # Zeros count as ones, so that the other dimensions of an empty tensor are bounded, too.
    if math.prod(max(1, size) for size in shape) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor has the impossible shape {shape}")
    if code in FLOATS:
        return Entry(code, shape), math.prod(shape) * FLOAT_BYTES[code]
    if code == QUANTIZED:
        bits, step = struct.unpack("<Bf", reader.take(5))
        check_grid(bits, step)
        return Entry(code, shape, bits=bits, step=step), reader.varint()
    if code in CODEBOOKS:
        count = reader.take(1)[0]
        numbers = struct.unpack(f"<{count}f", reader.take(4 * count))
        codebook_centroids(CODEBOOKS[code], numbers)
        bits = bits_of(CODEBOOKS[code], count)
        return Entry(code, shape, bits=bits, numbers=numbers), reader.varint()
    if code == LOSSY or code in INTEGERS:
        return Entry(code, shape), reader.varint()
    raise ValueError(f"a tensor has the unknown type {code}")
