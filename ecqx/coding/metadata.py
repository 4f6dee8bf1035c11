"""Metadata of a file, as JSON in the one form that gives the same bytes everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecqx.errors import InputError

# Reading JSON takes some thirty times its bytes.
MAX_BYTES = 1 << 20


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
    if len(data) > MAX_BYTES:
        raise InputError(f"metadata take {len(data):,} bytes as JSON; at most {MAX_BYTES:,}")
    return data


def read_metadata(data: memoryview) -> dict[str, Any]:
    """What `code_metadata` coded; ``ValueError`` for anything else."""
    try:
        if len(data) > MAX_BYTES:
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
