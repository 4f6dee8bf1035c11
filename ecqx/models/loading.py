"""Copying a state_dict into a network that it fits, or fits but for the last layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ecqx.errors import InputError

# Classifiers of torchvision's networks that take part in training alone.
AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
_COUNTER = "num_batches_tracked"
_NAMES_SHOWN = 3


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy a state_dict into a model.

    Names and shapes must agree, with three exceptions: a last layer for another number of classes
    keeps its random values; ``num_batches_tracked`` may be missing; and the auxiliary classifiers
    that pre-trained networks bring along are passed over where the model has none.

    Parameters
    ----------
    model : Module
        Changed in place, or left as it was if anything does not fit.
    state : mapping of str to Tensor
    source : str
        What errors call the state: its file, for instance.

    Returns
    -------
    list of str
        Names of the model's tensors that keep their random values: those of the last layer if it
        is for another number of classes, else none.

    Raises
    ------
    InputError
        If tensors are missing, unknown or of another shape.
    """
    own = model.state_dict()
    given = {name: t for name, t in state.items() if name in own or not name.startswith(AUXILIARY)}
    head = _head(model)
    resized = any(name in given and _other_classes(given[name], own[name]) for name in head)
    left_out = [name for name in head if resized]
    _check(own, given, left_out, source)
    with torch.no_grad():
        for name in given.keys() - set(left_out):
            own[name].copy_(given[name])
    return left_out


def _head(model: nn.Module) -> list[str]:
    """Names of the tensors of the last layer with a weight of more than one dimension."""
    layers = [
        prefix
        for prefix, module in model.named_modules()
        if any(p.ndim > 1 for p in module.parameters(recurse=False))
        and not prefix.startswith(AUXILIARY)
    ]
    return [name for name in model.state_dict() if layers and _layer(name) == layers[-1]]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _other_classes(given: Tensor, own: Tensor) -> bool:
    return given.ndim == own.ndim and given.shape != own.shape and given.shape[1:] == own.shape[1:]


def _check(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], left_out: Sequence[str], source: str
) -> None:
    """Raise ``InputError`` where names differ, or a shape that is not left out."""
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    unknown = [name for name in given if name not in own]
    complaints = [f"the model needs {_some(missing)}, which it lacks"] if missing else []
    complaints += [f"it has {_some(unknown)}, which the model does not know"] if unknown else []
    complaints += [
        f"{name} has shape {list(tensor.shape)}, where the model needs {list(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape and name not in left_out
    ][:1]
    if complaints:
        raise InputError(f"{source} does not fit the model: {'; '.join(complaints)}")


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
