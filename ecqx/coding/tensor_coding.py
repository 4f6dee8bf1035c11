"""One tensor as bytes: a header (type, shape, grid) and a payload.

The type codes, headers and payloads are specified in docs/bitstream.md.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ecqx.assignment.codebooks import Codebook, Form
from ecqx.coding import entropy_coder
from ecqx.coding.quantized import CodebookTensor, Quantized, QuantizedTensor, check_grid
from ecqx.coding.storable import CODE_OF, FLOAT_DTYPES, INTEGER_DTYPES, check_tensor

# How floats are stored that are not quantized: without loss, or float32 with loss by NNCodec.
Floats = Literal["raw", "published"]
Kind = Literal["quantized", "lossy", "float", "integer"]

# Type codes of integers on an equidistant grid, and of float32 stored with loss.
QUANTIZED, LOSSY = 0, 1
# Type codes of integers with a codebook, and its form (`ecqx.assignment.codebooks`).
CODEBOOKS: dict[int, Form] = {12: "values", 13: "sums"}
# Type codes of weights that are stored as integers.
WEIGHTS = (QUANTIZED, *CODEBOOKS)
# Kind and dtype of what is decoded, by type code.
TYPES: dict[int, tuple[Kind, torch.dtype]] = {
    **dict.fromkeys(WEIGHTS, ("quantized", torch.float32)),
    LOSSY: ("lossy", torch.float32),
    **{code: ("float", dtype) for code, dtype in FLOAT_DTYPES.items()},
    **{code: ("integer", dtype) for code, dtype in INTEGER_DTYPES.items()},
}
_CODE_OF_FORM = {form: code for code, form in CODEBOOKS.items()}
# The integer type of as many bytes, as which the bits of floats are stored.
_BITS_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}
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

    Weights also have ``bits``, and ``step`` or ``codebook``.
    """

    code: int
    shape: tuple[int, ...]
    payload: bytes | memoryview = b""
    bits: int = 0
    step: float = 0.0
    codebook: Codebook | None = None

    def header(self) -> bytes:
        """The bytes that `read_header` reads."""
        dims = b"".join(map(varint, self.shape))
        grid = struct.pack("<Bf", self.bits, self.step) if self.code == QUANTIZED else b""
        if self.codebook is not None:
            numbers = self.codebook.numbers.tolist()
            grid = struct.pack(f"<B{len(numbers)}f", len(numbers), *numbers)
        # The shape tells how long uncompressed floats are.
        length = b"" if self.code in FLOAT_DTYPES else varint(len(self.payload))
        return bytes([self.code | len(self.shape) << 4]) + dims + grid + length

    def tensor(self) -> Tensor:
        """Decode; ``ValueError`` if the payload does not fit the header."""
        decoded = self._decoded()
        # NumPy's empty arrays have strides of 0, which torch cannot view as another dtype.
        return decoded if decoded.numel() else decoded.new_empty(self.shape)

    def _decoded(self) -> Tensor:
        if self.code in WEIGHTS:
            return self.quantized().values()
        if self.code == LOSSY:
            return torch.from_numpy(entropy_coder.decode_floats(self.payload, self.shape))
        if self.code in INTEGER_DTYPES:
            return _decode_integer_tensor(self.payload, INTEGER_DTYPES[self.code], self.shape)
        dtype = FLOAT_DTYPES[self.code]
        native = np.frombuffer(self.payload, f"<i{dtype.itemsize}").astype(f"=i{dtype.itemsize}")
        return torch.from_numpy(native).view(dtype).reshape(self.shape)

    def quantized(self) -> Quantized:
        """Integers and centroids of weights; ``ValueError`` if they do not fit each other."""
        integers = torch.from_numpy(entropy_coder.decode_integers(self.payload, self.shape))
        quantized: Quantized = QuantizedTensor(integers, self.step, self.bits)
        if self.codebook is not None:
            quantized = CodebookTensor(integers, self.codebook)
        quantized.check()
        return quantized


def read_header(reader: Reader) -> tuple[Entry, int]:
    """A tensor without its payload, and the length of the payload."""
    first = reader.take(1)[0]
    code = first & 15
    shape = tuple(reader.varint() for _ in range(first >> 4))
    # Zeros count as ones, so that the other dimensions of an empty tensor are bounded, too.
    if math.prod(max(1, size) for size in shape) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor has the impossible shape {shape}")
    if code in FLOAT_DTYPES:
        return Entry(code, shape), math.prod(shape) * FLOAT_DTYPES[code].itemsize
    if code == QUANTIZED:
        bits, step = struct.unpack("<Bf", reader.take(5))
        check_grid(bits, step)
        return Entry(code, shape, bits=bits, step=step), reader.varint()
    if code in CODEBOOKS:
        count = reader.take(1)[0]
        numbers = struct.unpack(f"<{count}f", reader.take(4 * count))
        codebook = Codebook.of(
            CODEBOOKS[code], torch.tensor(numbers, dtype=torch.float32, device="cpu")
        )
        return Entry(code, shape, bits=codebook.bits, codebook=codebook), reader.varint()
    if code == LOSSY or code in INTEGER_DTYPES:
        return Entry(code, shape), reader.varint()
    raise ValueError(f"a tensor has the unknown type {code}")


def code_tensor(tensor: object, quantized: Quantized | None, floats: Floats) -> Entry:
    """Code a tensor, as ``quantized`` if given; ``ValueError`` if it cannot be stored."""
    tensor = check_tensor(tensor, as_integers=quantized is not None)
    shape = tuple(tensor.shape)
    if quantized is not None:
        return _quantized_entry(quantized, shape)
    code = CODE_OF[tensor.dtype]
    tensor = tensor.detach().cpu().contiguous()
    if code in INTEGER_DTYPES:
        return Entry(code, shape, _encode_integer_tensor(tensor))
    if tensor.dtype == torch.float32 and floats == "published":
        return Entry(LOSSY, shape, entropy_coder.encode_floats(tensor.numpy()))
    stored = tensor.view(_BITS_OF[tensor.itemsize]).numpy().astype(f"<i{tensor.itemsize}")
    return Entry(code, shape, stored.tobytes())


def _quantized_entry(quantized: Quantized, shape: tuple[int, ...]) -> Entry:
    integers = quantized.integers.detach().cpu()
    if integers.is_floating_point() or tuple(integers.shape) != shape:
        raise ValueError(
            f"integers must be integers of shape {shape}, "
            f"not {integers.dtype} of shape {tuple(integers.shape)}"
        )
    # Step and codebook as a reader has them: in float32, and sums computed on the CPU.
    if isinstance(quantized, CodebookTensor):
        codebook = Codebook.of(quantized.codebook.form, quantized.codebook.numbers.cpu())
        quantized = CodebookTensor(integers, codebook)
        entry = Entry(_CODE_OF_FORM[codebook.form], shape, bits=codebook.bits, codebook=codebook)
    else:
        step = float(torch.tensor(quantized.step, dtype=torch.float32, device="cpu"))
        quantized = QuantizedTensor(integers, step, quantized.bits)
        entry = Entry(QUANTIZED, shape, bits=quantized.bits, step=step)
    quantized.check()
    return replace(entry, payload=entropy_coder.encode_integers(integers.numpy()))


def _encode_integer_tensor(tensor: Tensor) -> bytes:
    """Varints of the values 0, -1, 1, -2, … as 0, 1, 2, 3, …, in row-major order."""
    values = map(int, tensor.flatten().tolist())
    return b"".join(varint(2 * x if x >= 0 else -2 * x - 1) for x in values)


def _decode_integer_tensor(
    payload: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]
) -> Tensor:
    lowest, highest = 0, 1
    if dtype != torch.bool:
        lowest, highest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    reader, count = Reader(payload), math.prod(shape)

    def value() -> int:
        coded = reader.varint()
        x = coded >> 1 if coded % 2 == 0 else -(coded >> 1) - 1
        if not lowest <= x <= highest:
            raise ValueError(f"holds values that do not fit {dtype}")
        return x

    if count <= reader.left:
        kind = str(dtype).removeprefix("torch.")
        values = np.fromiter((value() for _ in range(count)), kind, count)
        if reader.left == 0:
            return torch.from_numpy(values).reshape(shape)
    raise ValueError(f"{len(payload)} bytes are not the code of {count} integers")
