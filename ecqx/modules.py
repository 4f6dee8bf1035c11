"""Helpers for networks: wrappers, modes, inputs and outputs; the rule of what is a weight.

A weight is a parameter with more than one dimension of a layer of `WEIGHTED`, by the names that
torch gives weights. Only these are quantized, and what `include` names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from ecqx.errors import InputError

Module = TypeVar("Module", bound=nn.Module)
# What a model takes: a tensor of shape (B, …), or its positional or keyword arguments.
Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
# Names of the logits among several outputs.
LOGITS = ("out", "logits")
HALF = (torch.float16, torch.bfloat16)
# Layers that multiply by their weights: linear, convolution, embedding, attention, recurrent.
WEIGHTED = (
    *(nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag),
    *(nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
)
# How torch's recurrent layers name their weights; all others end in "weight".
_RECURRENT = ("weight_ih", "weight_hh", "weight_hr")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards each module has the mode it had.

    By ``train(mode)``, which some layers override to merge weights, from the whole to its parts.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.train(mode)
        # What a layer's own train() does not restore.
        for module, mode in modes:
            module.training = mode


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel or ``torch.compile``."""
    *_, inner = wrapped(model)
    return inner


def wrapped(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and what each of its wrappers holds, from the outermost inwards."""
    while True:
        yield model
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters by all their names, as `plain_name`."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield plain_name(name), parameter


def state_of(model: nn.Module) -> dict[str, Any]:
    """The state_dict of a model, with names as `plain_name`."""
    return {plain_name(name): tensor for name, tensor in model.state_dict().items()}


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore a state_dict with names as `plain_name`; errors as of ``load_state_dict``."""
    wrapped = {plain_name(name): name for name in model.state_dict()}
    model.load_state_dict({wrapped.get(name, name): tensor for name, tensor in state.items()})


def plain_name(name: str) -> str:
    """The name of a parameter or buffer without what ``torch.compile`` of a part adds to it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class _Detaching(TorchFunctionMode):
    """Copies a tensor that a network computed without its graph, which torch refuses to copy."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and args[0].grad_fn is not None:
            original, memo = args
            memo[id(original)] = original.detach().clone()
            return memo[id(original)]
        return func(*args, **(kwargs or {}))


def copied(model: Module) -> Module:
    """A deep copy of a model, even of one that keeps what it computed: an activation, a weight."""
    with _Detaching():
        return copy.deepcopy(model)


def check_has_values(model: nn.Module) -> None:
    """Raise ``ValueError`` for the first parameter that has no values yet."""
    for name, tensor in model.named_parameters():
        if isinstance(tensor, UninitializedParameter):
            raise ValueError(f"{name}: has no shape yet; send a batch through the lazy model first")
        if tensor.is_meta:
            raise ValueError(f"{name}: is on the meta device, without values; load the weights")


def is_quantizable(tensor: Tensor) -> bool:
    """Whether a grid fits a tensor: floating point, more than one dimension, and not empty."""
    return tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel() > 0


def is_named_weight(name: str) -> bool:
    """Whether a tensor has a name of a weight: ``weight``, ``in_proj_weight``, ``weight_ih_l0``."""
    last = name.rpartition(".")[2]
    return last == "weight" or last.endswith("_weight") or last.startswith(_RECURRENT)


def is_weight(layer: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a layer's own parameter is a weight, which is quantized unless it is excluded."""
    return isinstance(layer, WEIGHTED) and is_named_weight(name) and is_quantizable(parameter)


def is_weight_of_state(name: str, tensor: Tensor) -> bool:
    """`is_weight` for a tensor of a state_dict, without the layer: by its name alone."""
    return is_named_weight(name) and is_quantizable(tensor)


def weights_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of a model, a tied one by each of its names."""
    for prefix, layer in model.named_modules(remove_duplicate=False):
        for name, parameter in layer.named_parameters(prefix, False, False):
            if is_weight(layer, name, parameter):
                yield name, parameter


def name_parts(setting: str, parts: Iterable[str]) -> tuple[str, ...]:
    """The parts of names in ``exclude`` or ``include``, as a tuple.

    ``ValueError`` unless they are strings that are not empty; a string is no list of its letters.
    """
    if isinstance(parts, str):
        raise ValueError(f"{setting} must be a sequence of names, not one: ({parts!r},)")
    if not isinstance(parts, Iterable):
        raise ValueError(f"{setting} must be a sequence of names, not {parts!r}")
    parts = tuple(parts)
    for part in parts:
        if not isinstance(part, str) or not part:
            raise ValueError(f"{setting} must be a sequence of names, and {part!r} is none")
    return parts


def meant_by(part: str, names: Iterable[str]) -> set[str]:
    """The names of tensors that a part of names means.

    A part that is the name of a module, or of a tensor, means that module's tensors (``layer3`` all
    of ``layer3.0.conv1.weight``, …; ``conv1`` not ``layer3.0.conv1.weight``); any other part means
    all names that contain it.
    """
    names, below = list(names), f"{part}."
    of_module = {name for name in names if name == part or name.startswith(below)}
    return of_module or {name for name in names if part in name}


def called(model: nn.Module, inputs: Inputs) -> Any:
    """The output of a model; several inputs are its positional or its keyword arguments."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def each_tensor(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The inputs with a function applied to each tensor among them."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: each_tensor(value, function) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return tuple(each_tensor(value, function) for value in inputs)
    return inputs


def main_output(output: Any) -> Tensor:
    """The logits of a network: its output, or what that holds as ``out`` or ``logits``.

    torchvision's segmentation networks return a dict, and others a named tuple or an object of
    several outputs. ``InputError`` for anything else: which of two tensors is meant is no guess.
    """
    found = [output]
    if isinstance(output, Mapping):
        found = [output.get(name) for name in LOGITS]
    elif not isinstance(output, Tensor):
        found = [getattr(output, name, None) for name in LOGITS]
        if isinstance(output, list | tuple) and len(output) == 1:
            found = [*output]
    for logits in found:
        if isinstance(logits, Tensor):
            return logits
    kind = type(output).__name__
    if isinstance(output, Mapping):
        kind += f" of {', '.join(map(repr, output))}"
    elif isinstance(output, list | tuple):
        kind += f" of {len(output)}"
    raise InputError(
        f"the network returns a {kind}, but must return its logits: a tensor, or a dict with them "
        "under 'out' or 'logits'"
    )


class MainOutput(nn.Module):
    """A model without what it puts out beside its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        """Inputs to logits."""
        return main_output(called(self.model, inputs))
