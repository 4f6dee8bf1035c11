"""Loading a state_dict into a network, except a last layer for another number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ecqx.errors import InputError
from ecqx.modules import WEIGHTED

# Classifiers of torchvision's networks that are used in training only.
AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
_COUNTER = "num_batches_tracked"
_NAMES_SHOWN = 3


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Load a state_dict into a model, which stays unchanged if an error is raised.

    Names and shapes must agree, with three exceptions: a last layer for another number of classes
    keeps its random values; ``num_batches_tracked`` may be missing; auxiliary classifiers of
    pre-trained networks are ignored where the model has none.

    Returns the names of the tensors that keep their random values: those of a last layer for
    another number of classes. An `InputError` calls the state ``source``, for example its file.
    """
    own = model.state_dict()
    given = {name: t for name, t in state.items() if name in own or not name.startswith(AUXILIARY)}
    last = _last_layer(model)
    new_classes = any(name in given and _other_classes(given[name], own[name]) for name in last)
    kept = last if new_classes else []
    _check(own, given, kept, source)
    with torch.no_grad():
        for name in given.keys() - set(kept):
            own[name].copy_(given[name])
    return kept


def _last_layer(model: nn.Module) -> list[str]:
    """Names of the tensors of the last registered layer with weights (`ecqx.modules.WEIGHTED`)."""
    layers = [
        prefix
        for prefix, module in model.named_modules()
        if isinstance(module, WEIGHTED) and not prefix.startswith(AUXILIARY)
    ]
    return [n for n in model.state_dict() if layers and n.rpartition(".")[0] == layers[-1]]


def _other_classes(given: Tensor, own: Tensor) -> bool:
    """Whether the shapes differ in their first dimension alone, the number of classes."""
    return given.ndim == own.ndim and given.shape != own.shape and given.shape[1:] == own.shape[1:]


def _check(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], kept: Sequence[str], source: str
) -> None:
    """Raise `InputError` unless the tensors given are the model's own, except those kept."""
    problems = []
    if missing := [n for n in own if n not in given and not n.endswith(_COUNTER)]:
        problems.append(f"the model needs {_listed(missing)}, which it lacks")
    if unknown := [n for n in given if n not in own]:
        problems.append(f"it has {_listed(unknown)}, which the model does not know")
    resized = [n for n in given if n in own and given[n].shape != own[n].shape and n not in kept]
    if resized:
        shape, needed = list(given[resized[0]].shape), list(own[resized[0]].shape)
        problems.append(f"{resized[0]} has shape {shape}, where the model needs {needed}")
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(problems)}")


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
