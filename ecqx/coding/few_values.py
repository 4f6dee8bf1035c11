"""Weights that are quantized already, by any method: tensors with few distinct values.

They are coded without loss, as integers where the values are equidistant, else by a codebook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecqx.assignment.bits import MAX_BITS, MIN_BITS, MOST_VALUES
from ecqx.assignment.codebooks import Codebook
from ecqx.coding.quantized import CodebookTensor, Quantized, QuantizedTensor, first_order_entropy

# Zero and the numbers of the largest codebook.
MOST_DISTINCT = MOST_VALUES + 1
# Size of a first sample: if it has too many values, the whole tensor is not sorted.
_SAMPLE = 1 << 13
# Rows that are looked at, and how often each of their values occurs, if they are quantized.
_ROWS, _REPEATED = 4, 4
# The step is the smallest magnitude over one of these.
_MOST_STEPS = 8
# Largest range of a grid's integers, as a multiple of the number of distinct values.
_MOST_SPREAD = 2
# Bytes of a tensor's name, shape and length, about.
_HEADER = 16


def few_valued(tensors: Mapping[str, Tensor]) -> dict[str, Quantized]:
    """The tensors that have few values and become smaller by it, as integers with centroids.

    Those of at most 255 distinct values beside zero, all exact in float32, whose integers (by their
    first-order entropy) and centroids take fewer bytes than the values.
    """
    found = {name: _as_quantized(tensor.detach().cpu()) for name, tensor in tensors.items()}
    return {
        name: quantized
        for name, quantized in found.items()
        if quantized is not None
        # No file holds 8-bit floats in another way.
        and (tensors[name].itemsize == 1 or _coded_bytes(quantized) < tensors[name].nbytes)
    }


def distinct_values(tensor: Quantized) -> int:
    """Number of distinct weights of a quantized tensor."""
    return len(torch.unique(tensor.integers))


def has_scaled_rows(tensor: Tensor) -> bool:
    """Whether the first rows have few values each: a scale for each channel, and no codebook."""
    rows = tensor.detach().cpu().flatten(1)[:_ROWS].double()
    most = min(MOST_DISTINCT, rows.shape[1] // _REPEATED)
    return all(1 < len(torch.unique(row)) <= most for row in rows)


def as_grid(tensor: Quantized) -> Quantized:
    """A codebook of equidistant centroids as a grid, which other formats hold in fewer bytes."""
    if isinstance(tensor, QuantizedTensor) or not tensor.codebook.values.any():
        return tensor
    values, zero = tensor.codebook.values.cpu(), tensor.codebook.zero
    if (grid := equidistant(values)) is None:
        return tensor
    step, places = grid
    return QuantizedTensor(places[tensor.integers.cpu().long() + zero], step, tensor.bits)


def equidistant(values: Tensor) -> tuple[float, Tensor] | None:
    """A step and integers k, so that the values are ``float32(k) * float32(step)`` exactly.

    ``values`` are float32, of one dimension, and not all zero; k are int32, from -128 to 255. None
    if there is no such step, or the integers lie further apart than a codebook's would.
    """
    smallest = float(values[values != 0].abs().min())
    for divisor in range(1, _MOST_STEPS + 1):
        for step in _neighbours(smallest / divisor):
            integers = (values.double() / step).round()
            low, high = float(integers.min()), float(integers.max())
            fits = low >= -(2 ** (MAX_BITS - 1)) and high < 2**MAX_BITS
            is_dense = high - low < _MOST_SPREAD * len(values)
            exact = integers.float() * torch.tensor(step, dtype=torch.float32)
            if fits and is_dense and torch.equal(exact, values):
                return step, integers.to(torch.int32)
    return None


def _neighbours(step: float) -> list[float]:
    """The nearest float32, the next above and the next below, if they are steps at all."""
    nearest = torch.tensor(step, dtype=torch.float32)
    ends = (torch.tensor(math.inf), torch.tensor(0.0))
    near = [float(nearest), *(float(nearest.nextafter(end)) for end in ends)]
    return [step for step in near if 0 < step < math.inf]


def _as_quantized(tensor: Tensor) -> Quantized | None:
    """A tensor with few values, or None if it has too many or some that float32 does not hold."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    if tensor.itemsize == 1:
        tensor = tensor.float()  # torch sorts no 8-bit floats
    if torch.unique(tensor.flatten()[:_SAMPLE]).numel() > MOST_DISTINCT:
        return None
    values, position = torch.unique(tensor, return_inverse=True)
    numbers = values.float()
    if not numbers.isfinite().all() or not torch.equal(numbers.to(values.dtype), values):
        return None
    others = numbers[numbers != 0]
    if len(others) > MOST_VALUES:
        return None
    if len(others) == 0:
        return QuantizedTensor(position.to(torch.int32), 1.0, MIN_BITS)
    grid = equidistant(numbers)
    if grid is not None:
        step, integers = grid
        low, high = int(integers.min()), int(integers.max())
        bits = max(MIN_BITS, high.bit_length(), (-low - 1).bit_length() + 1 if low < 0 else 0)
        return QuantizedTensor(integers[position], step, bits)
    codebook = Codebook.of("values", others)
    places = torch.searchsorted(codebook.values, numbers) - codebook.zero
    return CodebookTensor(places[position].to(torch.int32), codebook)


def _coded_bytes(quantized: Quantized) -> float:
    numbers = 1 if isinstance(quantized, QuantizedTensor) else len(quantized.codebook.numbers)
    integers = quantized.integers
    return _HEADER + 4 * numbers + first_order_entropy(integers) * integers.numel() / 8
