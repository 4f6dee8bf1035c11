"""Tensors of torch as entries of a file, and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ecqx.assignment.codebooks import Codebook
from ecqx.coding import entropy_coder
from ecqx.coding.entries import Entry, Reader, varint
from ecqx.coding.quantized import CodebookTensor, Quantized, QuantizedTensor
from ecqx.coding.storable import CODE_OF, FLOAT_DTYPES, INTEGER_DTYPES, check_tensor
from ecqx.coding.type_codes import CODEBOOKS, INTEGERS, LOSSY, QUANTIZED

# How floats are stored that are not quantized: without loss, or float32 with loss by NNCodec.
Floats = Literal["raw", "published"]

_CODE_OF_FORM = {form: code for code, form in CODEBOOKS.items()}
# The integer type of as many bytes, as which the bits of floats are stored.
_BITS_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def decode_tensor(entry: Entry) -> Tensor:
    """Decode what is not quantized; ``ValueError`` if the payload does not fit the header."""
    decoded = _decoded(entry)
    # NumPy's empty arrays have strides of 0, which torch cannot view as another dtype.
    return decoded if decoded.numel() else decoded.new_empty(entry.shape)


def _decoded(entry: Entry) -> Tensor:
    if entry.code == LOSSY:
        return torch.from_numpy(entropy_coder.decode_floats(entry.payload, entry.shape))
    if entry.code in INTEGERS:
        return _decode_integer_tensor(entry.payload, INTEGER_DTYPES[entry.code], entry.shape)
    dtype = FLOAT_DTYPES[entry.code]
    native = np.frombuffer(entry.payload, f"<i{dtype.itemsize}").astype(f"=i{dtype.itemsize}")
    return torch.from_numpy(native).view(dtype).reshape(entry.shape)


def decode_quantized(entry: Entry) -> Quantized:
    """Integers and centroids of weights; ``ValueError`` if they do not fit each other."""
    integers = torch.from_numpy(entry.integers())
    if entry.form is None:
        return QuantizedTensor(integers, entry.step, entry.bits)
    numbers = torch.tensor(entry.numbers, dtype=torch.float32, device="cpu")
    return CodebookTensor(integers, Codebook.of(entry.form, numbers))


def code_tensor(tensor: object, quantized: Quantized | None, floats: Floats) -> Entry:
    """Code a tensor, as ``quantized`` if given; ``ValueError`` if it cannot be stored."""
    tensor = check_tensor(tensor, as_integers=quantized is not None)
    shape = tuple(tensor.shape)
    if quantized is not None:
        return _quantized_entry(quantized, shape)
    code = CODE_OF[tensor.dtype]
    tensor = tensor.detach().cpu().contiguous()
    if code in INTEGERS:
        return Entry(code, shape, _encode_integer_tensor(tensor))
    if tensor.dtype == torch.float32 and floats == "published":
        return Entry(LOSSY, shape, entropy_coder.encode_floats(tensor.numpy()))
    stored = tensor.view(_BITS_OF[tensor.itemsize]).numpy().astype(f"<i{tensor.itemsize}")
    return Entry(code, shape, stored.tobytes())


def _quantized_entry(quantized: Quantized, shape: tuple[int, ...]) -> Entry:
    integers = quantized.integers.detach().cpu()
    if integers.is_floating_point() or tuple(integers.shape) != shape:
        raise ValueError(
            f"integers must be integers of shape {shape}, "
            f"not {integers.dtype} of shape {tuple(integers.shape)}"
        )
    # Step and numbers as a reader has them: in float32.
    if isinstance(quantized, CodebookTensor):
        code = _CODE_OF_FORM[quantized.codebook.form]
        numbers = tuple(quantized.codebook.numbers.tolist())
        entry = Entry(code, shape, bits=quantized.bits, numbers=numbers)
    else:
        step = float(torch.tensor(quantized.step, dtype=torch.float32, device="cpu"))
        entry = Entry(QUANTIZED, shape, bits=quantized.bits, step=step)
    entry.check(integers.numpy())
    return replace(entry, payload=entropy_coder.encode_integers(integers.numpy()))


def _encode_integer_tensor(tensor: Tensor) -> bytes:
    """Varints of the values 0, -1, 1, -2, … as 0, 1, 2, 3, …, in row-major order."""
    values = map(int, tensor.flatten().tolist())
    return b"".join(varint(2 * x if x >= 0 else -2 * x - 1) for x in values)


def _decode_integer_tensor(
    payload: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]
) -> Tensor:
    lowest, highest = 0, 1
    if dtype != torch.bool:
        lowest, highest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    reader, count = Reader(payload), math.prod(shape)

    def value() -> int:
        coded = reader.varint()
        x = coded >> 1 if coded % 2 == 0 else -(coded >> 1) - 1
        if not lowest <= x <= highest:
            raise ValueError(f"holds values that do not fit {dtype}")
        return x

    if count <= reader.left:
        kind = str(dtype).removeprefix("torch.")
        values = np.fromiter((value() for _ in range(count)), kind, count)
        if reader.left == 0:
            return torch.from_numpy(values).reshape(shape)
    raise ValueError(f"{len(payload)} bytes are not the code of {count} integers")
