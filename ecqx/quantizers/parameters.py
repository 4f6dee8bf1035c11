"""Every parameter of a model: whether it is quantized, why not, and a table of the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ecqx.modules import is_excluded, is_weight, named_parameters, plain_name

# Suffixes of the parameters that torch.nn.utils computes a weight from in each forward pass: _orig
# of pruning and spectral norm, _g and _v of weight norm.
_SOURCES = ("_orig", "_g", "_v")


@dataclass(frozen=True, eq=False)
class ModelParameter:
    """A parameter under one of its names.

    Attributes
    ----------
    name : str
    tensor : Parameter
    kept : str
        Why it is kept as it is, not quantized; empty if it is quantized.
    shared_with : str
        The first name of the same parameter (tied weights); empty if this is the first.
    """

    name: str
    tensor: nn.Parameter
    kept: str
    shared_with: str


@dataclass(frozen=True)
class ParameterRecord:
    """A parameter of a quantized model, in plain values; the last four if it is quantized.

    Attributes
    ----------
    remark : str
        Why it is not quantized; with which name it is tied; whether it is frozen.
    shared : bool
        Whether it is another name of a parameter that has a record already.
    bits : int, optional
        Bit width.
    step : float, optional
        Distance of neighbouring centroids, on an equidistant grid.
    sparsity : float, optional
        Share of zeros, in [0, 1].
    entropy_bits_per_weight : float, optional
        First-order entropy of its integers: each weight's centroid, counted from the zero one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    quantized: bool
    remark: str
    shared: bool
    bits: int | None = None
    step: float | None = None
    sparsity: float | None = None
    entropy_bits_per_weight: float | None = None


def survey(model: nn.Module, exclude: Sequence[str]) -> list[ModelParameter]:
    """All parameters of a model by all their names, and which of them are to be quantized.

    A parameter is excluded if one of its names contains one of the strings in ``exclude``.

    Raises
    ------
    ValueError
        In one line, for a parameter that has no values yet, that a weight is computed from, or
        that shares a part of its memory with another one; or if nothing is left to quantize.
    """
    named = list(named_parameters(model))
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    found = []
    for name, tensor in named:
        every = names[id(tensor)]
        shared_with = "" if name == every[0] else every[0]
        found.append(
            ModelParameter(name, tensor, _reason_to_keep(tensor, every, exclude), shared_with)
        )
    quantized = [parameter for parameter in found if not parameter.kept]
    if not quantized:
        raise ValueError("the model has no parameter of more than one dimension to quantize")
    _check_are_weights(model, {parameter.name for parameter in quantized})
    _check_memory(quantized)
    return found


def _reason_to_keep(tensor: Tensor, names: Sequence[str], exclude: Sequence[str]) -> str:
    """Why a parameter is not quantized; empty if it is."""
    if tensor.ndim < 2:
        return "one dimension" if tensor.ndim else "a single number"
    for part in exclude:
        if any(is_excluded(name, [part]) for name in names):
            return f"excluded by {part!r}"
    if is_weight(tensor):
        return ""
    return "no elements" if tensor.numel() == 0 else f"not floating point ({_plain(tensor.dtype)})"


def _check_are_weights(model: nn.Module, quantized: set[str]) -> None:
    """Raise ``ValueError`` for a parameter from which a weight is computed in each forward pass.

    Its centroids would not be the weights that the network computes with.
    """
    for prefix, module in model.named_modules():
        for source, weight in _computed(module):
            name = plain_name(".".join(filter(None, (prefix, source))))
            if name in quantized:
                raise ValueError(
                    f"{name}: {weight} is computed from it in each pass; make that permanent "
                    "(remove_parametrizations, remove_weight_norm, prune.remove) or exclude it"
                )


def _computed(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the parameters that a module computes weights from, and of these weights."""
    if is_parametrized(module):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for weight, chain in parametrizations.items():
            for source, _ in chain.named_parameters(recurse=False):
                yield f"parametrizations.{weight}.{source}", weight
    for source in module._parameters:
        for end in _SOURCES:
            weight = source.removesuffix(end)
            # The computed weight is a plain attribute of the module, not a parameter.
            if weight != source and isinstance(module.__dict__.get(weight), Tensor):
                yield source, weight


def _check_memory(quantized: Iterable[ModelParameter]) -> None:
    """Raise ``ValueError`` for two different parameters that share memory."""
    tensors = {p.name: p.tensor for p in quantized if not p.shared_with}
    ranges = sorted((t.data_ptr(), t.data_ptr() + _extent(t), name) for name, t in tensors.items())
    for (_, end, first), (start, _, second) in combinations(ranges, 2):
        # Columns of one matrix, for instance, overlap as ranges only.
        if start < end and _share_elements(tensors[first], tensors[second]):
            raise ValueError(
                f"{first} and {second} share memory, but are two parameters; make them one: "
                f"model.{second} = model.{first}"
            )


def _extent(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in strides)
    return (last + 1) * tensor.element_size()


def _share_elements(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have an element in one place of memory."""
    return bool(torch.isin(_places(a), _places(b)).any())


def _places(tensor: Tensor) -> Tensor:
    """The address of each element."""
    places = torch.tensor(tensor.data_ptr(), device="cpu")
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        steps = torch.arange(size, device="cpu") * (stride * tensor.element_size())
        places = places[..., None] + steps
    return places.flatten()


def _remark(parameter: ModelParameter) -> str:
    shared = f"the same as {parameter.shared_with}" if parameter.shared_with else ""
    frozen = "" if parameter.tensor.requires_grad else "frozen: not trained"
    return ", ".join(filter(None, (parameter.kept, shared, frozen)))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def records_of(
    parameters: Iterable[ModelParameter], numbers: Mapping[str, Mapping[str, Any]]
) -> list[ParameterRecord]:
    """The records of a model's parameters.

    ``numbers`` holds the fields from ``bits`` on, by the first names of the quantized ones.
    """
    return [
        ParameterRecord(
            name=parameter.name,
            shape=tuple(parameter.tensor.shape),
            dtype=_plain(parameter.tensor.dtype),
            elements=parameter.tensor.numel(),
            quantized=not parameter.kept,
            remark=_remark(parameter),
            shared=bool(parameter.shared_with),
            **numbers.get(parameter.shared_with or parameter.name, {}),
        )
        for parameter in parameters
    ]


def table(records: Sequence[ParameterRecord]) -> str:
    """The records as a table to print, with totals in its last line."""
    from tabulate import tabulate

    rows = [
        (
            record.name,
            "×".join(map(str, record.shape)) or "–",
            f"{record.elements:,}",
            f"{record.bits} bit" if record.quantized else record.dtype,
            f"{record.step:.4g}" if record.step is not None else "",
            f"{record.sparsity:.1%}" if record.sparsity is not None else "",
            record.remark,
        )
        for record in records
    ]
    headers = ("parameter", "shape", "elements", "stored as", "step", "zero", "remark")
    aligned = ("left", "left", "right", "left", "right", "right", "left")
    body = tabulate(rows, headers, disable_numparse=True, colalign=aligned)
    return f"{body}\n\n{_totals(records)}"


def _totals(records: Sequence[ParameterRecord]) -> str:
    own = [record for record in records if not record.shared]
    elements = sum(record.elements for record in own)
    quantized = sum(record.elements for record in own if record.quantized)
    zeros = sum(record.elements * (record.sparsity or 0.0) for record in own)
    return (
        f"{quantized:,} of {elements:,} elements are quantized ({quantized / elements:.1%}), "
        f"{zeros / quantized:.1%} of these are zero"
    )
