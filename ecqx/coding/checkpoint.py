"""A model's state_dict from whichever file it was saved in, without running code from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ecqx.coding import bitstream
from ecqx.coding.coded_state import METADATA_KEY, read_coded_state
from ecqx.coding.tensor_files import read_tensors
from ecqx.errors import InputError

# Where training checkpoints keep the state_dict.
STATE_KEYS = ("state_dict", "model", "model_state_dict", "net")
DATA_PARALLEL = "module."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a model's state_dict, in whichever form it was saved, without running code from it.

    Parameters
    ----------
    path : path
        A file of ``torch.save`` that holds a state_dict, or a training checkpoint that holds one
        under one of `STATE_KEYS`; a ``.safetensors`` file of tensors or of `write_coded_state`; or
        a ``.ecqx`` file. The prefix of DataParallel is taken off the names.

    Returns
    -------
    dict of str to Tensor
        On the CPU; the quantized ones of a quantized model as the values they stand for.

    Raises
    ------
    InputError
        If the file is missing, damaged, cannot be read safely, or holds no state_dict.
    """
    path = Path(path)
    if not path.is_file():
        problem = "no such file" if not path.exists() else "a checkpoint is a file, not a folder"
        raise InputError(f"{path}: {problem}")
    try:
        content = _read_any(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    return _checked_state(path, _without_wrapping(content))


def _read_any(path: Path) -> object:
    if path.suffix == ".ecqx":
        return bitstream.load(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # A file that is refused has one line about it, not the library's remarks as well.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a file that is no checkpoint raises nearly anything
        raise InputError(
            f"{path} is no checkpoint that can be loaded safely; "
            "save the model's state_dict with torch.save or as .safetensors"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    tensors, _ = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        is_quantized = METADATA_KEY in (file.metadata() or {})
    return dict(read_coded_state(path).state) if is_quantized else tensors


def _without_wrapping(content: object) -> dict[Any, Any]:
    """The state_dict itself or the one that a training checkpoint holds; empty where none is."""
    if not isinstance(content, dict):
        return {}
    for key in STATE_KEYS:
        if isinstance(content.get(key), dict):
            return dict(content[key])
    return dict(content)


def _checked_state(path: Path, state: dict[Any, Any]) -> dict[str, Tensor]:
    named = all(isinstance(name, str) for name in state)
    if not named or not any(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds no state_dict (a dict of names and tensors)")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise InputError(f"{path}: tensor {name}: is not a dense tensor")
    parallel = all(name.startswith(DATA_PARALLEL) for name in state)
    prefix = DATA_PARALLEL if parallel else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}
