"""A quantizer checkpoint: a quantized model, integers and grids, in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ecqx.assignment.codebooks import Codebook
from ecqx.coding.quantized import CodebookTensor, CodedState, Quantized, QuantizedTensor
from ecqx.coding.tensor_files import read_metadata, read_tensors, section, write_tensors
from ecqx.errors import InputError

METADATA_KEY = "ecqx_quantizer"


def write_coded_state(
    path: str | Path, state: Mapping[str, Tensor], quantized: Mapping[str, Quantized]
) -> None:
    """Write a quantized model to a safetensors file, which ``ecqx encode`` codes unchanged.

    ``state`` is the model's whole state_dict, in order. In place of the tensors that are in
    ``quantized``, their integers and step, or codebook, are written.
    """
    tensors = {f"model.{name}": t for name, t in state.items() if name not in quantized}
    bits, forms = {}, {}
    for name, tensor in quantized.items():
        # Up to 7 bits every integer fits into a byte.
        narrow = torch.int8 if tensor.bits < 8 else torch.int16
        tensors[f"integers.{name}"] = tensor.integers.to(narrow)
        bits[name] = tensor.bits
        if isinstance(tensor, CodebookTensor):
            tensors[f"codebook.{name}"] = tensor.codebook.numbers
            forms[name] = tensor.codebook.form
        else:
            tensors[f"step.{name}"] = torch.tensor(tensor.step, dtype=torch.float64, device="cpu")
    about = {"bits": bits, "names": list(state)} | ({"codebooks": forms} if forms else {})
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(about)})


def is_coded_state(path: str | Path) -> bool:
    """Whether a file is a quantizer checkpoint; ``InputError`` if a ``.safetensors`` is damaged."""
    return Path(path).suffix == ".safetensors" and METADATA_KEY in read_metadata(path)


def read_coded_state(path: str | Path) -> CodedState:
    """Read what `write_coded_state` wrote; `InputError` if the file is missing or another one."""
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
            state[name] = quantized[name].values()
        return CodedState({name: state[name] for name in about["names"]}, quantized)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a complete quantizer checkpoint ({error})") from error
