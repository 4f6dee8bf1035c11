"""What a file can hold of a model, checked without coding it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecqx.coding.type_codes import FLOATS, INTEGERS, check_name
from ecqx.errors import input_errors

# Type codes of tensors that are stored without loss.
FLOAT_DTYPES: dict[int, torch.dtype] = {c: getattr(torch, name) for c, name in FLOATS.items()}
INTEGER_DTYPES: dict[int, torch.dtype] = {c: getattr(torch, name) for c, name in INTEGERS.items()}
CODE_OF = {dtype: code for code, dtype in (FLOAT_DTYPES | INTEGER_DTYPES).items()}
# The number of dimensions has four bits of a header's first byte.
MAX_DIMS = 15


def check_state(state: Mapping[str, object]) -> None:
    """Raise ``InputError`` for the first tensor of a state_dict that no file can hold."""
    for name, tensor in state.items():
        check_name(name)
        with input_errors(f"tensor {name}: "):
            check_tensor(tensor)


def check_tensor(tensor: object, as_integers: bool = False) -> Tensor:
    """The tensor, or ``ValueError`` if it cannot be stored; of any type if ``as_integers``."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"is not a dense tensor with values ({_kind(tensor)})")
    if tensor.dim() > MAX_DIMS:
        raise ValueError(f"has {tensor.dim()} dimensions; at most {MAX_DIMS} can be stored")
    if tensor.dtype not in CODE_OF and not as_integers:
        raise ValueError(f"has dtype {tensor.dtype}, which cannot be stored")
    return tensor


def _kind(tensor: object) -> str:
    if isinstance(tensor, Tensor) and tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return type(tensor).__name__
