"""A model's state_dict from a file of any supported kind, without running code from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecqx.coding import bitstream
from ecqx.coding.coded_state import is_coded_state, read_coded_state
from ecqx.coding.tensor_files import read_tensors
from ecqx.errors import InputError
from ecqx.files import expanded

# Keys under which training checkpoints have the state_dict.
STATE_KEYS = ("state_dict", "model", "model_state_dict", "net")
DATA_PARALLEL = "module."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a model's state_dict without running code from its file; quantized tensors as values.

    The file is one of ``torch.save`` with a state_dict, or with a training checkpoint that has one
    under one of `STATE_KEYS`; a ``.safetensors`` file of tensors or of `write_coded_state`; or a
    ``.ecqx`` file. DataParallel's prefix of the names is removed. A file that is missing, damaged,
    not safe to read, or holds no state_dict is an `InputError`.
    """
    path = expanded(path)
    if not path.is_file():
        problem = "no such file" if not path.exists() else "a checkpoint is a file, not a folder"
        raise InputError(f"{path}: {problem}")
    try:
        content = _read_any(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    return _state_in(path, content)


def _read_any(path: Path) -> object:
    if path.suffix == ".ecqx":
        return bitstream.load(path)
    if is_coded_state(path):
        return read_coded_state(path).state
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises almost anything
        raise InputError(
            f"{path} is no checkpoint that can be loaded safely; "
            "save the model's state_dict with torch.save or as .safetensors"
        ) from error


def _state_in(path: Path, content: object) -> dict[str, Tensor]:
    """The state_dict that the content of a file is, or has under one of `STATE_KEYS`."""
    state: dict[Any, Any] = content if isinstance(content, dict) else {}
    state = next((state[key] for key in STATE_KEYS if isinstance(state.get(key), dict)), state)
    named = all(isinstance(name, str) for name in state)
    if not named or not any(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds no state_dict (a dict of names and tensors)")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise InputError(f"{path}: tensor {name}: is not a dense tensor")
    parallel = all(name.startswith(DATA_PARALLEL) for name in state)
    prefix = DATA_PARALLEL if parallel else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}
