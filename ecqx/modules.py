"""Helpers for networks: wrappers, modes, inputs and outputs; the rule of what is a weight."""

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


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards each module has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel or ``torch.compile``."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


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


def is_weight(parameter: Tensor) -> bool:
    """Whether a parameter is a weight, which quantization takes unless it is excluded by name."""
    return parameter.ndim > 1 and parameter.is_floating_point() and parameter.numel() > 0


def is_excluded(name: str, exclude: Iterable[str]) -> bool:
    """Whether a parameter's name contains one of the strings that exclude it."""
    return any(part in name for part in exclude)


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
