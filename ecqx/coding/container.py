"""The bytes of a file: magic, version, checksum, names, headers and payloads.

The layout is specified in docs/bitstream.md.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import takewhile
from operator import eq
from pathlib import Path
from typing import Any

from ecqx.coding.entries import Entry, Reader, read_header, varint
from ecqx.coding.type_codes import CODEBOOKS, MAX_NAME, check_name
from ecqx.errors import InputError, input_errors
from ecqx.files import expanded

MAGIC, DIGEST_BYTES = b"ECQX", 16
# Version 2 added codebooks, version 3 metadata; a file has the first version that has its contents.
VERSIONS = (1, 2, 3)
# Bytes of metadata; to read JSON takes some thirty times its bytes.
MAX_METADATA = 1 << 20
# The number of shared tokens has four bits of a varint.
_MAX_SHARED_TOKENS = 15


@dataclass(frozen=True)
class Contents:
    """Entries of a file by name, their payloads not yet decoded, and its metadata."""

    entries: dict[str, Entry]
    metadata: dict[str, Any]


def pack(
    names: Sequence[str], entries: Sequence[Entry], metadata: Mapping[str, Any] | None = None
) -> bytes:
    """A whole file of named tensors; `InputError` if a name or the metadata cannot be stored."""
    body = _names_and_headers(names, entries) + b"".join(entry.payload for entry in entries)
    if metadata:
        about = code_metadata(metadata)
        body = varint(len(about)) + about + body
    digest = hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()
    version = _version_of(entries, bool(metadata))
    return MAGIC + bytes([version]) + varint(len(body)) + digest + body


def _version_of(entries: Iterable[Entry], has_metadata: bool) -> int:
    """3 if there are metadata, else 2 if there is a codebook, else 1."""
    if has_metadata:
        return 3
    return 2 if any(entry.code in CODEBOOKS for entry in entries) else 1


def body_length_bytes(total: int) -> int:
    """Number of bytes of the field for the length of the body, in a file of ``total`` bytes."""
    fixed = len(MAGIC) + 1 + DIGEST_BYTES
    field = 1
    # What the field takes is missing from the body.
    while len(varint(total - fixed - field)) > field:
        field += 1
    return field


def _names_and_headers(names: Sequence[str], entries: Sequence[Entry]) -> bytes:
    """Table of the distinct parts (tokens) of all names, then name and header of each tensor.

    A name is the number of leading tokens that it shares with the previous name, and its others.
    """
    token_ids: dict[str, int] = {}
    headers, previous = [], list[str]()
    for name, entry in zip(names, entries, strict=True):
        tokens = check_name(name).split(".")
        in_common = sum(takewhile(bool, map(eq, previous, tokens)))
        shared = min(in_common, _MAX_SHARED_TOKENS)
        ids = [token_ids.setdefault(token, len(token_ids)) for token in tokens[shared:]]
        headers.append(b"".join(map(varint, [shared | len(ids) << 4, *ids])) + entry.header())
        previous = tokens
    table = b"".join(varint(len(t)) + t for t in map(str.encode, token_ids))
    return varint(len(token_ids)) + table + varint(len(entries)) + b"".join(headers)


def name_of(file: Path | bytes) -> str:
    """How messages name a file."""
    return "the file given as bytes" if isinstance(file, bytes) else str(file)


def read_contents(file: Path | bytes) -> Contents:
    """Read headers and metadata of a file, or of its bytes.

    `InputError` if the file is not a bitstream, is cut off, damaged or inconsistent.
    """
    version, body = _verified_body(file)
    with input_errors(f"{name_of(file)} is no valid bitstream: "):
        reader = Reader(body)
        metadata = read_metadata(reader.take(reader.varint())) if version == VERSIONS[-1] else {}
        entries = _parse(reader)
        if version != _version_of(entries.values(), bool(metadata)):
            raise ValueError(f"its types of tensors are not those of version {version}")
    return Contents(entries, metadata)


def metadata_of(path: str | Path) -> dict[str, Any]:
    """The metadata of a file; errors as of `read_contents`."""
    return read_contents(expanded(path)).metadata


def _verified_body(source: Path | bytes) -> tuple[int, memoryview]:
    """Version and body of a file, once its checksum is found right."""
    path = name_of(source)
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise InputError(f"{path} is no regular file")
    with source.open("rb") if isinstance(source, Path) else BytesIO(source) as file:
        start = file.read(len(MAGIC) + 1)
        if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
            raise InputError(
                f"{path} is no ECQX bitstream: it does not begin with {MAGIC.decode()}"
            )
        # A file without a version is cut off, which is reported below.
        if start[len(MAGIC) :] and start[-1] not in VERSIONS:
            known = f"{', '.join(map(str, VERSIONS[:-1]))} and {VERSIONS[-1]}"
            raise InputError(
                f"{path} has format version {start[-1]}; this ecqx reads versions {known}"
            )
        reader = Reader(file.read())
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


def _parse(reader: Reader) -> dict[str, Entry]:
    """The entries of a body by name; ``ValueError`` if it is not valid."""
    tokens = [reader.text() for _ in range(reader.count())]
    headers: dict[str, tuple[Entry, int]] = {}
    parts: list[str] = []
    for _ in range(reader.count()):
        parts = _read_name(reader, tokens, parts)
        name = ".".join(parts)
        if name in headers:
            raise ValueError(f"two tensors are named {name!r}")
        headers[name] = read_header(reader)
    if sum(length for _, length in headers.values()) != reader.left:
        raise ValueError("its payloads do not fill it exactly")
    return {
        name: replace(entry, payload=reader.take(length))
        for name, (entry, length) in headers.items()
    }


def _read_name(reader: Reader, tokens: Sequence[str], previous: Sequence[str]) -> list[str]:
    """The tokens of the next name, as `_names_and_headers` writes them."""
    counts = reader.varint()
    shared, new = counts & 15, counts >> 4
    # A name of n characters has at most n + 1 tokens, if all are empty.
    if shared > len(previous) or not 0 < shared + new <= MAX_NAME + 1:
        raise ValueError("a name has an impossible number of parts")
    parts = list(previous[:shared])
    for _ in range(new):
        token = reader.varint()
        if token >= len(tokens):
            raise ValueError(f"a name uses part {token} of {len(tokens)}")
        parts.append(tokens[token])
    if sum(map(len, parts)) + len(parts) - 1 > MAX_NAME:
        raise ValueError(f"a name is longer than {MAX_NAME} characters")
    return parts


def code_metadata(metadata: Mapping[str, Any]) -> bytes:
    """UTF-8 of JSON: keys sorted, no spaces, no NaN; ``InputError`` if that cannot be stored."""
    try:
        # Read back: keys that are numbers are sorted as the strings that JSON makes of them.
        data = _canonical(json.loads(json.dumps(dict(metadata), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata must be a dict of what JSON can hold: strings, finite numbers, booleans, "
            f"None, lists and dicts ({' '.join(str(error).split())})"
        ) from error
    if len(data) > MAX_METADATA:
        raise InputError(f"metadata take {len(data):,} bytes as JSON; at most {MAX_METADATA:,}")
    return data


def read_metadata(data: memoryview) -> dict[str, Any]:
    """What `code_metadata` coded; ``ValueError`` for anything else."""
    try:
        if len(data) > MAX_METADATA:
            raise ValueError
        metadata = json.loads(bytes(data))
        if not metadata or not isinstance(metadata, dict) or _canonical(metadata) != data:
            raise ValueError
    except (ValueError, RecursionError):
        raise ValueError("its metadata are not JSON in the form of the format") from None
    return metadata


def _canonical(value: dict[Any, Any]) -> bytes:
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode()
