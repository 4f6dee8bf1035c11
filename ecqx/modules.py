"""Helpers for networks: wrappers, modes, outputs, labels; the rule of what is a weight.

A weight is a parameter with more than one dimension of a layer of `WEIGHTED`, by the names that
torch gives weights. Only these are quantized, and what `include` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

HALF = (torch.float16, torch.bfloat16)
# Pixels with this label count for nothing: not for the loss, a metric or relevance.
IGNORED_LABEL = 255
# Layers that multiply by their weights: linear, convolution, embedding, attention, recurrent.
WEIGHTED = (
    *(nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag),
    *(nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
)
# How torch's recurrent layers name their weights; all others end in "weight".
_RECURRENT = ("weight_ih", "weight_hh", "weight_hr")


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


def parts_in(parts: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Those of the parts that are contained in a name."""
    names = list(names)
    return tuple(part for part in parts if any(part in name for name in names))


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
