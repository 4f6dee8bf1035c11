"""Every parameter of a model: whether it is quantized, why not, and a table of the result."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ecqx.errors import InputWarning
from ecqx.modules import (
    WEIGHTED,
    check_has_values,
    is_named_weight,
    is_quantizable,
    meant_by,
    name_parts,
    named_parameters,
    weights_of,
)

# Why a parameter of more than one dimension is not quantized unless `include` names it.
NO_WEIGHT = "no weight of a linear, convolution, embedding or attention layer"
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


def survey(
    model: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()
) -> list[ModelParameter]:
    """All parameters of a model by all their names, and which of them are to be quantized.

    These are the weights (`ecqx.modules.is_weight`) and the other parameters of more than one
    dimension that the strings in ``include`` mean, except those that ``exclude`` means
    (`ecqx.modules.meant_by`).

    Raises
    ------
    ValueError
        In one line, for a parameter that has no values yet, that a weight is computed from, or
        that shares a part of its memory with another one; if nothing is left to quantize; or for
        names that are none (`ecqx.modules.name_parts`).
    """
    check_has_values(model)
    exclude, include = name_parts("exclude", exclude), name_parts("include", include)
    named = list(named_parameters(model))
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    sources = dict(_sources(model))
    weights = {id(tensor) for _, tensor in weights_of(model)}
    weights |= {tensor for tensor, source in sources.items() if source.is_weight}
    excluded, included = (_by_name(parts, dict(named)) for parts in (exclude, include))
    found = []
    for name, tensor in named:
        every = names[id(tensor)]
        is_wanted = id(tensor) in weights or any(one in included for one in every)
        excluded_by = next((excluded[one] for one in every if one in excluded), "")
        kept = _reason_to_keep(tensor, excluded_by, is_wanted)
        found.append(ModelParameter(name, tensor, kept, "" if name == every[0] else every[0]))
    quantized = [parameter for parameter in found if not parameter.kept]
    if not quantized:
        raise ValueError(
            "the model has no weight to quantize: no parameter of more than one dimension of a "
            "linear, convolution, embedding or attention layer is left; include can name others"
        )
    for parameter in quantized:
        # Its centroids would not be the weights that the network computes with.
        if source := sources.get(id(parameter.tensor)):
            raise ValueError(
                f"{parameter.name}: {source.computed} is computed from it in each pass; make that "
                "permanent (remove_parametrizations, remove_weight_norm, prune.remove) or exclude "
                "it"
            )
    _check_memory(quantized)
    return found


def _by_name(parts: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """The names that some parts mean, each with the first such part."""
    return {name: part for part in reversed(parts) for name in meant_by(part, names)}


def _reason_to_keep(tensor: Tensor, excluded_by: str, is_wanted: bool) -> str:
    """Why a parameter is not quantized; empty if it is."""
    if tensor.ndim < 2:
        return "one dimension" if tensor.ndim else "a single number"
    if excluded_by:
        return f"excluded by {excluded_by!r}"
    if tensor.numel() == 0:
        return "no elements"
    if not is_quantizable(tensor):
        return f"not floating point ({_plain(tensor.dtype)})"
    return "" if is_wanted else NO_WEIGHT


class UnusedNameWarning(InputWarning):
    """A part of a name in ``exclude`` or ``include`` that no parameter has in its name."""


_lists_are_shared: ContextVar[bool] = ContextVar("_lists_are_shared", default=False)


@contextmanager
def shared_lists() -> Iterator[None]:
    """Within the block a list of names is shared between networks: one may use no part of it."""
    token = _lists_are_shared.set(True)
    try:
        yield
    finally:
        _lists_are_shared.reset(token)


def used_parts(model: nn.Module, setting: str, parts: Iterable[str]) -> tuple[str, ...]:
    """The parts in ``exclude`` or ``include`` that names of the model's parameters contain.

    Names for ``include`` are those of parameters that can be quantized. Parts that none of them
    contains cause an `UnusedNameWarning`.

    Raises
    ------
    ValueError
        As `ecqx.modules.name_parts`; or if no part is used, except within `shared_lists`.
    """
    parts = name_parts(setting, parts)
    names = [
        name
        for name, parameter in named_parameters(model)
        if setting == "exclude" or is_quantizable(parameter)
    ]
    used = tuple(part for part in parts if meant_by(part, names))
    unused = [part for part in parts if part not in used]
    if unused:
        kind = "parameter" if setting == "exclude" else "parameter of more than one dimension"
        line = f"{setting}: no {kind} has {' or '.join(map(repr, unused))} in its name"
        if not used and not _lists_are_shared.get():
            raise ValueError(line)
        warnings.warn(line, UnusedNameWarning, stacklevel=3)
    return used


def warn_of_unknown_layers(model: nn.Module, parameters: Iterable[ModelParameter]) -> None:
    """Name what is not quantized although it is called a weight: its layer is not of torch."""
    layers = {id(p): type(layer) for layer in model.modules() for p in layer._parameters.values()}
    unknown: dict[str, str] = {}
    for parameter in parameters:
        if parameter.kept == NO_WEIGHT and is_named_weight(parameter.name):
            layer = layers[id(parameter.tensor)]
            if not layer.__module__.startswith("torch.nn."):
                unknown[parameter.name] = layer.__name__
    if unknown:
        first, more = next(iter(unknown)), len(unknown) - 1
        warnings.warn(
            f"not quantized: {first}{f' and {more} more' if more else ''}, because "
            f"{' and '.join(dict.fromkeys(unknown.values()))} is no layer of torch; include=[…] "
            "with a part of their names quantizes them",
            InputWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class _Computed:
    """The tensor that a module computes from a parameter; whether it is a layer's weight."""

    computed: str
    is_weight: bool


def _sources(model: nn.Module) -> Iterator[tuple[int, _Computed]]:
    """The parameters, by their `id`, that others are computed from in each forward pass."""
    for module in model.modules():
        is_layer = isinstance(module, WEIGHTED)
        for source, name in _computed(module):
            computed = _Computed(name, is_layer and is_named_weight(name))
            yield id(module.get_parameter(source)), computed


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
    """Raise ``ValueError`` for two different parameters that share memory, or elements that do."""
    quantized = list(quantized)
    for name, tensor in ((p.name, p.tensor) for p in quantized):
        if tensor.numel() * tensor.element_size() > _extent(tensor):
            raise ValueError(
                f"{name}: several of its elements are one number in memory (expand); give each its "
                f"own: model.{name} = torch.nn.Parameter(model.{name}.detach().clone())"
            )
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
