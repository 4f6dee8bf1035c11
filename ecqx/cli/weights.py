"""Which tensors of a checkpoint ``ecqx encode`` quantizes, and how."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid
from ecqx.assignment.mixed_precision import Bits, bits_of_weights
from ecqx.coding.few_values import distinct_values, few_valued, has_scaled_rows
from ecqx.coding.quantized import CodedState, Quantized, QuantizedTensor
from ecqx.errors import InputError, InputWarning, input_errors
from ecqx.modules import is_quantizable, is_weight_of_state, meant_by
from ecqx.progress import counted


def coded_weights(
    path: Path,
    state: Mapping[str, Tensor],
    exclude: Sequence[str],
    include: Sequence[str],
    settings: Mapping[str, Any],
    all_wanted: bool,
) -> tuple[CodedState, list[str]]:
    """A state_dict with its weights quantized, and remarks for the user.

    Weights with few values are taken as they are. In a model that has some, the others are
    quantized only if ``all_wanted``. ``settings`` are the ``bits``, ``lam`` and ``step`` of ECQ.
    """
    candidates = _candidates(path, state, exclude, include)
    known = few_valued(candidates)
    counts = [distinct_values(tensor) for tensor in known.values()]
    is_quantized = any(count > 1 for count in counts)
    included = {name for part in include for name in meant_by(part, candidates)}
    others = {
        name: tensor
        for name, tensor in candidates.items()
        if name not in known and (is_weight_of_state(name, tensor) or name in included)
    }
    left = [name for name in candidates if name not in known and name not in others]
    remarks = []
    if is_quantized:
        remarks.append(
            f"tensors with few values ({max(counts)} at most), stored without loss: {len(known)}"
        )
        if others and not all_wanted:
            remarks.append(f"others are not quantized (--bitwidth): {', '.join(others)}")
            others = {}
    else:
        others |= {name: candidates[name] for name in known}
        known = {}
        if not others:
            raise InputError(
                f"{path}: no tensor to quantize (floating point, two or more dimensions, named "
                "weight or ..._weight); --include takes others"
            )
    scaled = [name for name, tensor in others.items() if has_scaled_rows(tensor)]
    if scaled:
        remarks.append(
            f"few values in each row, but not in all, so quantized anew: {', '.join(scaled)}"
        )
    if left:
        remarks.append(f"not named as weights, so not quantized (--include): {', '.join(left)}")
    return CodedState(dict(state), known | _quantize(path, others, **settings)), remarks


def _candidates(
    path: Path, state: Mapping[str, Tensor], exclude: Sequence[str], include: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors that can be quantized and are not excluded; checks the options."""
    tensors = {name: tensor for name, tensor in state.items() if is_quantizable(tensor)}
    for option, parts, names in (("--exclude", exclude, state), ("--include", include, tensors)):
        unused = [part for part in parts if not meant_by(part, names)]
        if unused:
            line = f"{path}: no tensor has {' or '.join(map(repr, unused))} in its name ({option})"
            if len(unused) == len(parts):
                raise InputError(line)
            warnings.warn(line, InputWarning, stacklevel=2)
    excluded = {name for part in exclude for name in meant_by(part, state)}
    return {name: t for name, t in tensors.items() if name not in excluded}


def _quantize(
    path: Path, weights: Mapping[str, Tensor], bits: Bits, lam: float, step: Any
) -> dict[str, Quantized]:
    """Quantize weights by ECQ, without training; Λ is scaled by layer size."""
    with input_errors(f"{path}: "):
        widths = bits_of_weights(bits, {name: [name] for name in weights})
    largest = max((weight.numel() for weight in weights.values()), default=0)
    quantized: dict[str, Quantized] = {}
    for name, weight in counted(weights.items(), "quantizing", "tensor"):
        try:
            grid = CentroidGrid.fit(weight, widths[name], step)
            index = assign(weight, grid, lam, largest_layer_size=largest)
        except ValueError as error:
            raise InputError(f"{path}: tensor {name}: {error}") from error
        quantized[name] = QuantizedTensor(index - grid.zero, grid.step, widths[name])
    return quantized
