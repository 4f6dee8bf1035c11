"""The bytes of a file: magic, version, checksum, names, headers and payloads.

The layout is specified in docs/bitstream.md.
"""

from __future__ import annotations

import hashlib
import math
import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import torch

from ecqx.assignment.codebooks import Codebook
from ecqx.coding.tensor_coding import (
    CODEBOOKS,
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    LOSSY,
    QUANTIZED,
    Entry,
    check_grid,
    varint,
)
from ecqx.errors import InputError

MAGIC, DIGEST_BYTES = b"ECQX", 16
# The second one has codebooks; a file without them is of the first.
VERSIONS = (1, 2)
_MAX_SHARED_TOKENS, _MAX_NAME = 15, 1024
_MAX_ELEMENTS = 1 << 40
_MAX_VARINT_BYTES = 10


def pack(names: Sequence[str], entries: Sequence[Entry]) -> bytes:
    """A whole file of named tensors.

    Raises
    ------
    InputError
        If a name cannot be stored.
    """
    body = _names_and_headers(names, entries) + b"".join(entry.payload for entry in entries)
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    return MAGIC + bytes([_version_of(entries)]) + varint(len(body)) + digest + body


def _version_of(entries: Iterable[Entry]) -> int:
    """The first version that has all types of tensors."""
    return VERSIONS[any(entry.code in CODEBOOKS for entry in entries)]


def body_length_bytes(total: int) -> int:
    """Bytes that a file of ``total`` bytes spends on the length of its body."""
    fixed = len(MAGIC) + 1 + DIGEST_BYTES
    field = 1
    while len(varint(total - fixed - field)) > field:
        field += 1
    return field


def _names_and_headers(names: Sequence[str], entries: Sequence[Entry]) -> bytes:
    """Table of the tokens of all names, then each tensor's name, as token numbers, and header."""
    token_ids: dict[str, int] = {}
    headers, previous = [], list[str]()
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise InputError(f"{name!r:.60} is no name of at most {_MAX_NAME} characters")
        tokens = name.split(".")
        shared = min(_common(previous, tokens), _MAX_SHARED_TOKENS)
        ids = [token_ids.setdefault(token, len(token_ids)) for token in tokens[shared:]]
        headers.append(b"".join(map(varint, [shared | len(ids) << 4, *ids])) + entry.header())
        previous = tokens
    table = b"".join(varint(len(t)) + t for t in map(_utf8, token_ids))
    return varint(len(token_ids)) + table + varint(len(entries)) + b"".join(headers)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Number of leading tokens that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _utf8(token: str) -> bytes:
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name part {token!r} is not valid Unicode") from None


def read_entries(path: Path) -> dict[str, Entry]:
    """Entries of a file by name, their payloads not yet decoded.

    Raises
    ------
    InputError
        If the file is not a bitstream, is cut off, damaged or inconsistent.
    OSError
        If the file cannot be read.
    """
    version, body = _verified_body(path)
    try:
        entries = _parse(_Reader(body))
        if version != _version_of(entries.values()):
            raise ValueError(f"its types of tensors are not those of version {version}")
        return entries
    except ValueError as error:
        raise InputError(f"{path} is no valid bitstream: {error}") from error


def _verified_body(path: Path) -> tuple[int, memoryview]:
    """Version, and all that follows the checksum, once the checksum is right."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path} is no regular file")
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 1)
        if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
            raise InputError(
                f"{path} is no ECQX bitstream: it does not begin with {MAGIC.decode()}"
            )
        if start[len(MAGIC) :] and start[-1] not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise InputError(
                f"{path} has format version {start[-1]}; this ecqx reads versions {known}"
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
    return start[-1], body


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


def _parse(reader: _Reader) -> dict[str, Entry]:
    tokens = [reader.text() for _ in range(reader.count())]
    headers: dict[str, tuple[Entry, int]] = {}
    parts: list[str] = []
    for _ in range(reader.count()):
        parts = _read_name(reader, tokens, parts)
        name = ".".join(parts)
        if name in headers:
            raise ValueError(f"two tensors are named {name!r}")
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


def _read_header(reader: _Reader) -> tuple[Entry, int]:
    """The next tensor's header, and the length of its payload."""
    first = reader.take(1)[0]
    code = first & 15
    shape = tuple(reader.varint() for _ in range(first >> 4))
    if math.prod(max(1, size) for size in shape) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor has the impossible shape {shape}")
    if code in FLOAT_DTYPES:
        return Entry(code, shape), math.prod(shape) * FLOAT_DTYPES[code][0].itemsize
    if code == QUANTIZED:
        bits, step = struct.unpack("<Bf", reader.take(5))
        check_grid(bits, step)
        return Entry(code, shape, bits=bits, step=step), reader.varint()
    if code in CODEBOOKS:
        count = reader.take(1)[0]
        numbers = struct.unpack(f"<{count}f", reader.take(4 * count))
        codebook = Codebook.of(CODEBOOKS[code], torch.tensor(numbers, dtype=torch.float32))
        return Entry(code, shape, bits=codebook.bits, codebook=codebook), reader.varint()
    if code == LOSSY or code in INTEGER_DTYPES:
        return Entry(code, shape), reader.varint()
    raise ValueError(f"a tensor has the unknown type {code}")
