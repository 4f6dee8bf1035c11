"""Helpers for networks: wrappers, modes, outputs, labels; the rule of what is a weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

HALF = (torch.float16, torch.bfloat16)
# Pixels with this label count for nothing: not for the loss, a metric or relevance.
IGNORED_LABEL = 255


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


def main_output(output: Any) -> Tensor:
    """The logits of a network, which torchvision's segmentation networks return in a dict."""
    logits = output["out"] if isinstance(output, dict) else output
    assert isinstance(logits, Tensor)
    return logits


class MainOutput(nn.Module):
    """A model without what it puts out beside its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs to logits."""
        return main_output(self.model(inputs))
