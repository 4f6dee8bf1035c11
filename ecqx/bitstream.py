"""One file that restores a quantized model: integers coded by NNCodec's engine, steps, floats.

Paper: the coding step after quantization. The layout is specified in docs/bitstream.md.
"""

from __future__ import annotations

import hashlib
import math
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecqx import entropy_coder
from ecqx.centroids import MAX_BITS, MIN_BITS
from ecqx.errors import InputError
from ecqx.files import write_atomically

_T = TypeVar("_T")
Floats = Literal["raw", "published"]
Kind = Literal["quantized", "lossy", "float", "integer"]

FLOATS_CHOICES: tuple[Floats, ...] = ("raw", "published")
MAGIC, VERSION, DIGEST_BYTES = b"ECQX", 1, 16
_QUANTIZED, _LOSSY = 0, 1
# How a stored dtype is seen as integers of the same width, least significant byte first.
_FLOAT_DTYPES = {
    2: (torch.float32, torch.int32, "<i4"),
    3: (torch.float16, torch.int16, "<i2"),
    4: (torch.bfloat16, torch.int16, "<i2"),
    5: (torch.float64, torch.int64, "<i8"),
}
_INTEGER_DTYPES = {
    6: torch.int64,
    7: torch.int32,
    8: torch.int16,
    9: torch.int8,
    10: torch.uint8,
    11: torch.bool,
}
_CODE_OF = {dtype: code for code, (dtype, _, _) in _FLOAT_DTYPES.items()} | {
    dtype: code for code, dtype in _INTEGER_DTYPES.items()
}

_MAX_DIMS, _MAX_SHARED_TOKENS, _MAX_NAME = 15, 15, 1024
_MAX_ELEMENTS = 1 << 40
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight tensor on an equidistant grid; its values are ``float32(k) * float32(step)``.

    Attributes
    ----------
    integers : Tensor of integers
        The k, shape of the weight, from ``-2 ** (bits - 1)`` to ``2 ** bits - 1``.
    step : float
        Distance of neighbouring centroids, greater than 0.
    bits : int
        Bit width, 2 to 8.
    """

    integers: Tensor
    step: float
    bits: int


class CodedStateSource(Protocol):
    """What `save` needs of a quantizer."""

    def coded_state(self) -> tuple[dict[str, Tensor], dict[str, QuantizedTensor]]:
        """The model's whole state_dict in order, and its quantized tensors by name."""


@dataclass(frozen=True, eq=False)
class CodedState:
    """A state_dict with the integers of its quantized tensors, ready for `save`.

    Attributes
    ----------
    state : dict of str to Tensor
        The model's whole state_dict, in order.
    quantized : dict of str to QuantizedTensor
        The quantized ones among them.
    """

    state: dict[str, Tensor]
    quantized: dict[str, QuantizedTensor]

    def coded_state(self) -> tuple[dict[str, Tensor], dict[str, QuantizedTensor]]:
        """Both attributes."""
        return self.state, self.quantized


@dataclass(frozen=True)
class FileSize:
    """Size of a file in bytes: ``total``, of which ``integers`` for the coded weights."""

    total: int
    integers: int

    @property
    def other(self) -> int:
        """Bytes for everything but the coded weights: header, names, steps, other tensors."""
        return self.total - self.integers


@dataclass(frozen=True)
class TensorRecord:
    """What a file says of one tensor.

    Attributes
    ----------
    name : str
    kind : {"quantized", "lossy", "float", "integer"}
    dtype : torch.dtype
        Of the tensor that `load` returns.
    shape : tuple of int
    coded_bytes : int
        Length of the payload.
    bits : int, optional
        Bit width; None unless quantized.
    step : float, optional
        Distance of neighbouring centroids; None unless quantized.
    sparsity : float, optional
        Share of zeros, in [0, 1]; None unless quantized, decoded and not empty.
    entropy : float, optional
        First-order entropy of the integers, bits per element; None as for ``sparsity``.
    """

    name: str
    kind: Kind
    dtype: torch.dtype
    shape: tuple[int, ...]
    coded_bytes: int
    bits: int | None = None
    step: float | None = None
    sparsity: float | None = None
    entropy: float | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileInfo:
    """Contents of a file: its size and a record of each tensor, in order."""

    size: FileSize
    tensors: tuple[TensorRecord, ...]

    @property
    def float_elements(self) -> int:
        """Elements of all floating-point tensors, quantized ones included."""
        return sum(record.elements for record in self.tensors if record.dtype.is_floating_point)

    @property
    def compression_ratio(self) -> float:
        """Four bytes for each float element over the size of the file."""
        return 4 * self.float_elements / self.size.total


def save(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
    floats: Floats = "raw",
) -> FileSize:
    """Write a model to one file.

    Parameters
    ----------
    path : path
        Replaced as a whole, or left as it was if anything fails.
    model : Module, state_dict or quantizer
        A quantizer (anything with ``coded_state()``) has its quantized weights coded as integers;
        of a module or a state_dict every tensor is stored without loss.
    floats : {"raw", "published"}
        How tensors that are not quantized are stored: as they are, or, float32 only, with loss by
        NNCodec with the published settings.

    Returns
    -------
    FileSize

    Raises
    ------
    ValueError
        If a tensor or a name cannot be stored; the message names it.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> size = save("model.ecqx", torch.nn.Linear(3, 2))  # doctest: +SKIP
    >>> load("model.ecqx")["bias"].shape  # doctest: +SKIP
    torch.Size([2])
    """
    check_replaceable(path)
    if floats not in FLOATS_CHOICES:
        raise InputError(f"floats must be one of {', '.join(FLOATS_CHOICES)}, not {floats!r}")
    state, quantized = _coded_state(model)
    entries = []
    for name, tensor in state.items():
        try:
            entries.append(_entry(tensor, quantized.get(name), floats))
        except ValueError as error:
            raise InputError(f"tensor {name}: {error}") from error
    body = _names_and_headers(list(state), entries)
    body += b"".join(entry.payload for entry in entries)
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    data = MAGIC + bytes([VERSION]) + _varint(len(body)) + digest + body
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return FileSize(len(data), _integer_bytes(entries))


def load(path: str | Path) -> dict[str, Tensor]:
    """Read a file back to a state_dict.

    Parameters
    ----------
    path : path
        A file that `save` wrote.

    Returns
    -------
    dict of str to Tensor
        On the CPU, in the original order. A quantized tensor is ``float32(k) * float32(step)``,
        every other one has the dtype and, unless stored with loss, the bits it had.

    Raises
    ------
    ValueError
        If the file is not a bitstream, is cut off, damaged or inconsistent.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    return {name: _decoded(path, name, entry.tensor) for name, entry in _read(path).items()}


def inspect(path: str | Path, statistics: bool = True) -> FileInfo:
    """What is in a file.

    Parameters
    ----------
    path : path
        A file that `save` wrote.
    statistics : bool
        Also decode the quantized tensors, for their sparsity and entropy.

    Returns
    -------
    FileInfo

    Raises
    ------
    ValueError
        As `load`.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    entries = _read(path)
    records = tuple(
        _decoded(path, name, partial(entry.record, name, statistics))
        for name, entry in entries.items()
    )
    return FileInfo(FileSize(path.stat().st_size, _integer_bytes(entries.values())), records)


def first_order_entropy(integers: Tensor) -> float:
    """First-order entropy of integers, bits per element.

    Parameters
    ----------
    integers : Tensor of integers
        Any shape.

    Returns
    -------
    float
        0 for an empty tensor.
    """
    if integers.numel() == 0:
        return 0.0
    counts = torch.unique(integers, return_counts=True)[1].to(torch.float64)
    share = counts / integers.numel()
    return abs(float((share * torch.log2(share)).sum()))


def check_replaceable(path: str | Path) -> None:
    """Raise ``ValueError`` if a folder, a device or the like already has this name."""
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path} is no regular file, so it is not replaced")


@dataclass(frozen=True)
class _Entry:
    """One tensor as it stands in the file: type code, shape, grid if quantized, payload."""

    code: int
    shape: tuple[int, ...]
    payload: bytes | memoryview = b""
    bits: int = 0
    step: float = 0.0

    def header(self) -> bytes:
        dims = b"".join(map(_varint, self.shape))
        grid = struct.pack("<Bf", self.bits, self.step) if self.code == _QUANTIZED else b""
        length = b"" if self.code in _FLOAT_DTYPES else _varint(len(self.payload))
        return bytes([self.code | len(self.shape) << 4]) + dims + grid + length

    def tensor(self) -> Tensor:
        """Decode; ``ValueError`` if the payload does not fit the header."""
        if self.code == _QUANTIZED:
            return torch.from_numpy(_dequantized(self._integers(), self.step))
        if self.code == _LOSSY:
            return torch.from_numpy(entropy_coder.decode_floats(self.payload, self.shape))
        if self.code in _INTEGER_DTYPES:
            return _integer_tensor(self.payload, self.shape, _INTEGER_DTYPES[self.code])
        dtype, _, layout = _FLOAT_DTYPES[self.code]
        native = np.frombuffer(self.payload, layout).astype(np.dtype(layout).newbyteorder("="))
        return torch.from_numpy(native).view(dtype).reshape(self.shape)

    def record(self, name: str, statistics: bool) -> TensorRecord:
        if self.code != _QUANTIZED:
            kind: Kind = "lossy" if self.code == _LOSSY else "integer"
            dtype = _INTEGER_DTYPES.get(self.code, torch.float32)
            if self.code in _FLOAT_DTYPES:
                kind, dtype = "float", _FLOAT_DTYPES[self.code][0]
            return TensorRecord(name, kind, dtype, self.shape, len(self.payload))
        sparsity = entropy = None
        if statistics and math.prod(self.shape) > 0:
            integers = self._integers()
            sparsity = 1 - np.count_nonzero(integers) / integers.size
            entropy = first_order_entropy(torch.from_numpy(integers))
        plain = TensorRecord(name, "quantized", torch.float32, self.shape, len(self.payload))
        return replace(plain, bits=self.bits, step=self.step, sparsity=sparsity, entropy=entropy)

    def _integers(self) -> NDArray[np.int32]:
        integers = entropy_coder.decode_integers(self.payload, self.shape)
        _check_integers(integers, self.bits)
        return integers


def _integer_bytes(entries: Iterable[_Entry]) -> int:
    return sum(len(entry.payload) for entry in entries if entry.code == _QUANTIZED)


def _decoded(path: Path, name: str, decode: Callable[[], _T]) -> _T:
    """Call ``decode``; where it fails, say in which file and tensor."""
    try:
        return decode()
    except ValueError as error:
        raise InputError(f"{path} is no valid bitstream: tensor {name}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{path}: tensor {name} needs more memory than there is") from error


def _coded_state(
    model: nn.Module | Mapping[str, Tensor] | CodedStateSource,
) -> tuple[Mapping[str, Tensor], Mapping[str, QuantizedTensor]]:
    coded_state = getattr(model, "coded_state", None)
    if coded_state is not None:
        state, quantized = coded_state()
    elif isinstance(model, nn.Module):
        state, quantized = model.state_dict(), {}
    elif isinstance(model, Mapping):
        state, quantized = model, {}
    else:
        raise InputError(
            f"model must be a module, a state_dict or a quantizer, not a {type(model).__name__}"
        )
    for name in quantized:
        if name not in state:
            raise InputError(f"quantized tensor {name} is not in the state_dict")
    return state, quantized


def _entry(tensor: object, quantized: QuantizedTensor | None, floats: Floats) -> _Entry:
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
    if code in _INTEGER_DTYPES:
        return _Entry(code, shape, entropy_coder.encode_varints(tensor.to(torch.int64).numpy()))
    if tensor.dtype == torch.float32 and floats == "published":
        return _Entry(_LOSSY, shape, entropy_coder.encode_floats(tensor.numpy()))
    _, as_integers, layout = _FLOAT_DTYPES[code]
    return _Entry(code, shape, tensor.view(as_integers).numpy().astype(layout).tobytes())


def _quantized_entry(quantized: QuantizedTensor, shape: tuple[int, ...]) -> _Entry:
    integers, bits = quantized.integers, quantized.bits
    if integers.is_floating_point() or tuple(integers.shape) != shape:
        raise ValueError(
            f"integers must be integers of shape {shape}, "
            f"not {integers.dtype} of shape {tuple(integers.shape)}"
        )
    with np.errstate(over="ignore"):
        step = float(np.float32(quantized.step))
    _check_grid(bits, step)
    levels = integers.detach().cpu().numpy()
    _check_integers(levels, bits)
    _dequantized(levels, step)
    return _Entry(_QUANTIZED, shape, entropy_coder.encode_integers(levels), bits, step)


def _check_grid(bits: int, step: float) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be an integer from {MIN_BITS} to {MAX_BITS}, not {bits!r}")
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be finite and greater than 0 in float32, not {step}")


def _check_integers(integers: NDArray[np.integer[Any]], bits: int) -> None:
    if integers.size == 0:
        return
    lowest, highest = int(integers.min()), int(integers.max())
    if lowest < -(2 ** (bits - 1)) or highest >= 2**bits:
        raise ValueError(
            f"holds integers from {lowest} to {highest}; {bits} bits allow "
            f"{-(2 ** (bits - 1))} to {2**bits - 1}"
        )


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
    values = torch.from_numpy(entropy_coder.decode_varints(payload, math.prod(shape)))
    tensor = values.to(dtype)
    if not torch.equal(tensor.to(torch.int64), values):
        raise ValueError(f"holds values that do not fit {dtype}")
    return tensor.reshape(shape)


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, least significant first, the top bit set where more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _names_and_headers(names: Sequence[str], entries: Sequence[_Entry]) -> bytes:
    """Table of the tokens of all names, then each tensor's name, as token numbers, and header."""
    token_ids: dict[str, int] = {}
    headers, previous = [], list[str]()
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise InputError(f"{name!r:.60} is no name of at most {_MAX_NAME} characters")
        tokens = name.split(".")
        shared = min(_common(previous, tokens), _MAX_SHARED_TOKENS)
        ids = [token_ids.setdefault(token, len(token_ids)) for token in tokens[shared:]]
        headers.append(b"".join(map(_varint, [shared | len(ids) << 4, *ids])) + entry.header())
        previous = tokens
    table = b"".join(_varint(len(t)) + t for t in map(_utf8, token_ids))
    return _varint(len(token_ids)) + table + _varint(len(entries)) + b"".join(headers)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Number of leading tokens that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _utf8(token: str) -> bytes:
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name part {token!r} is not valid Unicode") from None


def _read(path: Path) -> dict[str, _Entry]:
    """Entries of a file by name, their payloads not yet decoded."""
    body = _verified_body(path)
    try:
        return _parse(_Reader(body))
    except ValueError as error:
        raise InputError(f"{path} is no valid bitstream: {error}") from error


def _verified_body(path: Path) -> memoryview:
    """All that follows the checksum, once the checksum is right."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is no regular file")
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 1)
        if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
            raise InputError(
                f"{path} is no ECQX bitstream: it does not begin with {MAGIC.decode()}"
            )
        if start[len(MAGIC) :] not in (b"", bytes([VERSION])):
            raise InputError(
                f"{path} has format version {start[-1]}; this ecqx reads version {VERSION}"
            )
        reader = _Reader(memoryview(file.read()))
    try:
        length = reader.varint()
        digest = reader.take(DIGEST_BYTES)
    except ValueError:
        raise InputError(f"{path} is cut off within its first bytes") from None
    if reader.left != length:
        what = "is cut off" if reader.left < length else "has bytes after its end"
        raise InputError(f"{path} {what}: {length} bytes of contents expected, {reader.left} found")
    body = reader.take(length)
    if hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
        raise InputError(f"{path} is damaged: its checksum does not fit its contents")
    return body


class _Reader:
    """Reads the parts of a file in order; ``ValueError`` where it is inconsistent."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise ValueError("it ends too early")
        self._position += count
        return self._data[self._position - count : self._position]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift > 0:
                    break
                return value
        raise ValueError("a number is not coded as it should be")

    def count(self) -> int:
        """A number of things of which each takes at least one byte."""
        count = self.varint()
        if count > self.left:
            raise ValueError("it announces more than it holds")
        return count

    def text(self) -> str:
        try:
            return str(self.take(self.varint()), "utf-8")
        except UnicodeDecodeError:
            raise ValueError("a name is not UTF-8") from None


def _parse(reader: _Reader) -> dict[str, _Entry]:
    tokens = [reader.text() for _ in range(reader.count())]
    headers: dict[str, tuple[_Entry, int]] = {}
    parts: list[str] = []
    for _ in range(reader.count()):
        parts = _read_name(reader, tokens, parts)
        name = ".".join(parts)
        if name in headers:
            raise ValueError(f"two tensors are named {name}")
        headers[name] = _read_header(reader)
    if sum(length for _, length in headers.values()) != reader.left:
        raise ValueError("its payloads do not fill it exactly")
    return {
        name: replace(entry, payload=reader.take(length))
        for name, (entry, length) in headers.items()
    }


def _read_name(reader: _Reader, tokens: Sequence[str], previous: Sequence[str]) -> list[str]:
    counts = reader.varint()
    shared, new = counts & 15, counts >> 4
    if shared > len(previous) or not 0 < shared + new <= _MAX_NAME + 1:
        raise ValueError("a name has an impossible number of parts")
    parts = list(previous[:shared])
    for _ in range(new):
        token = reader.varint()
        if token >= len(tokens):
            raise ValueError(f"a name uses part {token} of {len(tokens)}")
        parts.append(tokens[token])
    if sum(map(len, parts)) + len(parts) - 1 > _MAX_NAME:
        raise ValueError(f"a name is longer than {_MAX_NAME} characters")
    return parts


def _read_header(reader: _Reader) -> tuple[_Entry, int]:
    """The next tensor's header, and the length of its payload."""
    first = reader.take(1)[0]
    code = first & 15
    shape = tuple(reader.varint() for _ in range(first >> 4))
    if math.prod(max(1, size) for size in shape) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor has the impossible shape {shape}")
    if code in _FLOAT_DTYPES:
        return _Entry(code, shape), math.prod(shape) * _FLOAT_DTYPES[code][0].itemsize
    if code == _QUANTIZED:
        bits, step = struct.unpack("<Bf", reader.take(5))
        _check_grid(bits, step)
        return _Entry(code, shape, bits=bits, step=step), reader.varint()
    if code == _LOSSY or code in _INTEGER_DTYPES:
        return _Entry(code, shape), reader.varint()
    raise ValueError(f"a tensor has the unknown type {code}")
