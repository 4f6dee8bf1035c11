"""How one tensor becomes bytes: integers by NNCodec's engine, floats raw or with loss.

The type codes and headers are specified in docs/bitstream.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.assignment.centroids import check_bits
from ecqx.assignment.codebooks import Codebook, Form
from ecqx.coding import entropy_coder
from ecqx.coding.quantized import CodebookTensor, Quantized, check_integers, places

Floats = Literal["raw", "published"]

QUANTIZED, LOSSY = 0, 1
# How a stored dtype is seen as integers of the same width, least significant byte first.
FLOAT_DTYPES = {
    2: (torch.float32, torch.int32, "<i4"),
    3: (torch.float16, torch.int16, "<i2"),
    4: (torch.bfloat16, torch.int16, "<i2"),
    5: (torch.float64, torch.int64, "<i8"),
}
INTEGER_DTYPES = {
    6: torch.int64,
    7: torch.int32,
    8: torch.int16,
    9: torch.int8,
    10: torch.uint8,
    11: torch.bool,
}
CODEBOOKS: dict[int, Form] = {12: "values", 13: "sums"}
# Types of weights that are stored as integers.
WEIGHTS = (QUANTIZED, *CODEBOOKS)
_CODE_OF = {dtype: code for code, (dtype, _, _) in FLOAT_DTYPES.items()} | {
    dtype: code for code, dtype in INTEGER_DTYPES.items()
}
_MAX_DIMS = 15
_VARINTS_AT_ONCE = 1 << 16
_SEPTETS = np.arange(0, 70, 7, dtype=np.uint64)


@dataclass(frozen=True)
class Entry:
    """One tensor as it stands in the file: type code, shape, grid or codebook, payload."""

    code: int
    shape: tuple[int, ...]
    payload: bytes | memoryview = b""
    bits: int = 0
    step: float = 0.0
    codebook: Codebook | None = None

    def header(self) -> bytes:
        dims = b"".join(map(varint, self.shape))
        grid = struct.pack("<Bf", self.bits, self.step) if self.code == QUANTIZED else b""
        if self.codebook is not None:
            numbers = self.codebook.numbers.tolist()
            grid = struct.pack(f"<B{len(numbers)}f", len(numbers), *numbers)
        length = b"" if self.code in FLOAT_DTYPES else varint(len(self.payload))
        return bytes([self.code | len(self.shape) << 4]) + dims + grid + length

    def tensor(self) -> Tensor:
        """Decode; ``ValueError`` if the payload does not fit the header."""
        decoded = self._decoded()
        # The strides of NumPy's empty arrays are 0, and torch does not view them as another dtype.
        return decoded if decoded.numel() else decoded.new_empty(self.shape)

    def _decoded(self) -> Tensor:
        if self.codebook is not None:
            integers = entropy_coder.decode_integers(self.payload, self.shape)
            return CodebookTensor(torch.from_numpy(integers), self.codebook).values()
        if self.code == QUANTIZED:
            return torch.from_numpy(_dequantized(self.integers(), self.step))
        if self.code == LOSSY:
            return torch.from_numpy(entropy_coder.decode_floats(self.payload, self.shape))
        if self.code in INTEGER_DTYPES:
            return _integer_tensor(self.payload, self.shape, INTEGER_DTYPES[self.code])
        dtype, _, layout = FLOAT_DTYPES[self.code]
        native = np.frombuffer(self.payload, layout).astype(np.dtype(layout).newbyteorder("="))
        return torch.from_numpy(native).view(dtype).reshape(self.shape)

    def integers(self) -> NDArray[np.int32]:
        integers = entropy_coder.decode_integers(self.payload, self.shape)
        allowed = _range(self.bits) if self.codebook is None else places(self.codebook)
        check_integers(integers, *allowed)
        return integers


def code_tensor(tensor: object, quantized: Quantized | None, floats: Floats) -> Entry:
    """Code one tensor; ``ValueError`` if it cannot be stored."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"is not a dense tensor with values ({type(tensor).__name__})")
    if tensor.dim() > _MAX_DIMS:
        raise ValueError(f"has {tensor.dim()} dimensions; at most {_MAX_DIMS} can be stored")
    shape = tuple(tensor.shape)
    if quantized is not None:
        return _quantized_entry(quantized, shape)
    if tensor.dtype not in _CODE_OF:
        raise ValueError(f"has dtype {tensor.dtype}, which cannot be stored")
    code = _CODE_OF[tensor.dtype]
    tensor = tensor.detach().cpu().contiguous()
    if code in INTEGER_DTYPES:
        return Entry(code, shape, encode_varints(tensor.to(torch.int64).numpy()))
    if tensor.dtype == torch.float32 and floats == "published":
        return Entry(LOSSY, shape, entropy_coder.encode_floats(tensor.numpy()))
    _, as_integers, layout = FLOAT_DTYPES[code]
    return Entry(code, shape, tensor.view(as_integers).numpy().astype(layout).tobytes())


def _quantized_entry(quantized: Quantized, shape: tuple[int, ...]) -> Entry:
    integers, bits = quantized.integers, quantized.bits
    if integers.is_floating_point() or tuple(integers.shape) != shape:
        raise ValueError(
            f"integers must be integers of shape {shape}, "
            f"not {integers.dtype} of shape {tuple(integers.shape)}"
        )
    if isinstance(quantized, CodebookTensor):
        return _codebook_entry(quantized, shape)
    with np.errstate(over="ignore"):
        step = float(np.float32(quantized.step))
    check_grid(bits, step)
    levels = integers.detach().cpu().numpy()
    check_integers(levels, *_range(bits))
    _dequantized(levels, step)
    return Entry(QUANTIZED, shape, entropy_coder.encode_integers(levels), bits, step)


def _codebook_entry(quantized: CodebookTensor, shape: tuple[int, ...]) -> Entry:
    quantized.values()
    levels = quantized.integers.detach().cpu().numpy()
    # As it will be read, whatever its sums were on another device.
    codebook = Codebook.of(quantized.codebook.form, quantized.codebook.numbers.cpu())
    (code,) = (code for code, form in CODEBOOKS.items() if form == codebook.form)
    payload = entropy_coder.encode_integers(levels)
    return Entry(code, shape, payload, codebook.bits, codebook=codebook)


def check_grid(bits: int, step: float) -> None:
    check_bits(bits)
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be finite and greater than 0 in float32, not {step}")


def _range(bits: int) -> tuple[int, int, str]:
    return -(2 ** (bits - 1)), 2**bits - 1, f"{bits} bits allow"


def _dequantized(integers: NDArray[np.integer[Any]], step: float) -> NDArray[np.float32]:
    """``float32(k) * float32(step)``, the value of a weight everywhere in the suite."""
    values = integers.astype(np.float32)
    with np.errstate(over="ignore"):
        np.multiply(values, np.float32(step), out=values)
    if not np.isfinite(values).all():
        raise ValueError(f"a step of {step} makes the weights infinite")
    return values


def _integer_tensor(
    payload: bytes | memoryview, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    pieces, done = varint_pieces(payload, math.prod(shape)), 0
    tensor = torch.empty(math.prod(shape), dtype=dtype)
    for piece in pieces:
        values = torch.from_numpy(piece)
        part = tensor[done : done + len(piece)].copy_(values)
        if not torch.equal(part.to(torch.int64), values):
            raise ValueError(f"holds values that do not fit {dtype}")
        done += len(piece)
    return tensor.reshape(shape)


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, least significant first, the top bit set where more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_varints(values: NDArray[np.int64]) -> bytes:
    """Code integers of any size: zigzag (0, -1, 1, -2, … to 0, 1, 2, 3, …), then LEB128.

    Parameters
    ----------
    values : array of int64
        Any shape; coded in row-major order.

    Returns
    -------
    bytes
        One to ten bytes a value.
    """
    flat = values.reshape(-1, 1)
    zigzag = ((flat << 1) ^ (flat >> 63)).view(np.uint64)
    rest = zigzag >> _SEPTETS
    more = rest > 0x7F
    coded = ((rest & np.uint64(0x7F)) | more.astype(np.uint64) << np.uint64(7)).astype(np.uint8)
    return bytes(coded[(rest > 0) | (_SEPTETS == 0)].data)


def decode_varints(payload: bytes | memoryview, count: int) -> NDArray[np.int64]:
    """Inverse of `encode_varints`.

    Parameters
    ----------
    payload : bytes
    count : int
        Number of values.

    Returns
    -------
    array of int64, shape (count,)

    Raises
    ------
    ValueError
        If the payload is not exactly the code of so many values.
    """
    pieces, done = varint_pieces(payload, count), 0
    values = np.empty(count, dtype=np.int64)
    for piece in pieces:
        values[done : done + len(piece)] = piece
        done += len(piece)
    return values


def varint_pieces(payload: bytes | memoryview, count: int) -> Iterator[NDArray[np.int64]]:
    """The same in pieces, so that decoding takes little more memory than what becomes of them."""
    coded = np.frombuffer(payload, dtype=np.uint8)
    whole = len(coded) == 0 or coded[-1] < 0x80
    if not whole or np.count_nonzero(coded < 0x80) != count:
        raise ValueError(f"{len(coded)} bytes are not the code of {count} integers")
    return _pieces(coded)


def _pieces(coded: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    while len(coded):
        ends = np.flatnonzero(coded[:_VARINTS_AT_ONCE] < 0x80)
        if len(ends) == 0:
            raise ValueError("an integer is not coded as it should be")
        yield _varints(coded[: ends[-1] + 1], ends)
        coded = coded[ends[-1] + 1 :]


def _varints(coded: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers whose codes end at ``ends``."""
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    last = coded[ends]
    if (((last == 0) & (lengths > 1)) | (lengths > 10) | ((lengths == 10) & (last > 1))).any():
        raise ValueError("an integer is not coded as it should be")
    place = (np.arange(len(coded)) - np.repeat(starts, lengths)).astype(np.uint64)
    septets = (coded & 0x7F).astype(np.uint64) << (np.uint64(7) * place)
    zigzag = np.bitwise_or.reduceat(septets, starts)
    return (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64)
