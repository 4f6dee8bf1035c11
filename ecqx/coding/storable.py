"""What a file can hold of a model, checked without coding it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecqx.errors import InputError, input_errors

# Type codes of tensors that are stored without loss.
FLOAT_DTYPES = {2: torch.float32, 3: torch.float16, 4: torch.bfloat16, 5: torch.float64}
INTEGER_DTYPES = {
    **{6: torch.int64, 7: torch.int32, 8: torch.int16},
    **{9: torch.int8, 10: torch.uint8, 11: torch.bool},
}
CODE_OF = {dtype: code for code, dtype in (FLOAT_DTYPES | INTEGER_DTYPES).items()}
# The number of dimensions has four bits of a header's first byte.
MAX_DIMS = 15
# A name is counted in characters.
MAX_NAME = 1024


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


def check_name(name: object) -> str:
    """The name of a tensor, or ``InputError`` if it cannot be stored."""
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise InputError(f"{name!r:.60} is no name of at most {MAX_NAME} characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {name!r} is not valid Unicode") from None
    return name
