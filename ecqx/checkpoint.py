"""Tensor files: safetensors with metadata, read as data and written atomically."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ecqx import bitstream
from ecqx.bitstream import CodebookTensor, CodedState, Quantized, QuantizedTensor
from ecqx.codebooks import Codebook
from ecqx.errors import InputError
from ecqx.files import write_atomically

METADATA_KEY = "ecqx_quantizer"
# Where training checkpoints keep the state_dict.
STATE_KEYS = ("state_dict", "model", "model_state_dict", "net")
DATA_PARALLEL = "module."


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file; tensors that share memory are written apart.

    Parameters
    ----------
    path : path
    tensors : mapping of str to Tensor
    metadata : mapping of str to str, optional
    """
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, lambda p: save_file(apart, p, dict(metadata or {})))


def read_tensors(
    path: str | Path, metadata_key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """Read a safetensors file.

    Parameters
    ----------
    path : path
    metadata_key : str, optional
        Entry that the file's metadata must have.

    Returns
    -------
    (dict of str to Tensor, str)
        The tensors in the order of the file, and the metadata entry (empty without a key).

    Raises
    ------
    InputError
        If the file is missing, no safetensors file, or lacks the entry.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata_key is not None and metadata_key not in metadata:
                raise InputError(f"{path}: has no {metadata_key!r} in its metadata")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    return tensors, metadata.get(metadata_key or "", "")


def write_coded_state(
    path: str | Path, state: Mapping[str, Tensor], quantized: Mapping[str, Quantized]
) -> None:
    """Write a quantized model to a safetensors file that ``ecqx encode`` takes as it is.

    Parameters
    ----------
    path : path
    state : mapping of str to Tensor
        The model's whole state_dict, in order.
    quantized : mapping of str to QuantizedTensor or CodebookTensor
        The quantized ones, of which integers and step, or the codebook's numbers, are written in
        place of the values.
    """
    tensors = {f"model.{name}": t for name, t in state.items() if name not in quantized}
    bits, forms = {}, {}
    for name, tensor in quantized.items():
        # Up to 7 bits every integer of either grid fits into a byte.
        narrow = torch.int8 if tensor.bits < 8 else torch.int16
        tensors[f"integers.{name}"] = tensor.integers.to(narrow)
        bits[name] = tensor.bits
        if isinstance(tensor, CodebookTensor):
            tensors[f"codebook.{name}"] = tensor.codebook.numbers
            forms[name] = tensor.codebook.form
        else:
            tensors[f"step.{name}"] = torch.tensor(tensor.step, dtype=torch.float64)
    about = {"bits": bits, "names": list(state)} | ({"codebooks": forms} if forms else {})
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(about)})


def read_coded_state(path: str | Path) -> CodedState:
    """Read what `write_coded_state` wrote.

    Raises
    ------
    InputError
        If the file is missing or not such a checkpoint.
    """
    tensors, metadata = read_tensors(path, METADATA_KEY)
    state, integers = section(tensors, "model"), section(tensors, "integers")
    steps, codebooks = section(tensors, "step"), section(tensors, "codebook")
    try:
        about = json.loads(metadata)
        quantized: dict[str, Quantized] = {}
        for name in filter(integers.__contains__, about["names"]):
            if name in codebooks:
                codebook = Codebook.of(about["codebooks"][name], codebooks[name])
                quantized[name] = CodebookTensor(integers[name], codebook)
            else:
                step, bits = float(steps[name]), about["bits"][name]
                quantized[name] = QuantizedTensor(integers[name], step, bits)
            # The weight that training used.
            state[name] = quantized[name].values()
        return CodedState({name: state[name] for name in about["names"]}, quantized)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a whole quantizer checkpoint ({error})") from error


def section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a flat state whose names start with ``prefix`` and a dot, without it."""
    start = f"{prefix}."
    return {key.removeprefix(start): t for key, t in state.items() if key.startswith(start)}


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
