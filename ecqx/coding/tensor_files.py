"""Tensors and metadata in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ecqx.errors import InputError
from ecqx.files import expanded, write_atomically


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file; tensors that share memory are stored separately."""
    separate = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, lambda p: save_file(separate, p, dict(metadata or {})))


def hub_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as model hubs have it: texts, and that the tensors are PyTorch's."""
    return {name: as_text(value) for name, value in metadata.items()} | {"format": "pt"}


def as_text(value: Any) -> str:
    """A value of metadata as text, others than text as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def read_tensors(
    path: str | Path, metadata_key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and the entry ``metadata_key`` of its metadata.

    Without a key the entry is empty. An `InputError` is raised if the file is missing, not a
    safetensors file, or lacks the entry.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata_key is not None and metadata_key not in metadata:
            raise InputError(f"{path}: has no {metadata_key!r} in its metadata")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, metadata.get(metadata_key or "", "")


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; ``InputError`` as `read_tensors`."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(expanded(path), framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix`` and a dot, by the rest of their names."""
    start = f"{prefix}."
    return {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}
