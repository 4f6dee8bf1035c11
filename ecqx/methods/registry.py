"""All methods by name. A method's module is imported when the method is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ecqx.methods.interface import Method


@dataclass(frozen=True)
class Home:
    """Where a method is.

    Attributes
    ----------
    module, name : str
        Of its class.
    without : tuple of str
        Modules that `module` can reach and this method never uses.
    """

    module: str
    name: str
    without: tuple[str, ...] = ()


# What ECQ without relevance never runs.
_LRP = ("ecqx.relevance.weights",)

# In the order in which results list them.
METHODS: dict[str, Home] = {
    "ECQ": Home("ecqx.methods.ecq", "ECQ", _LRP),
    "ECQx": Home("ecqx.methods.ecq", "ECQx"),
    "EC2T": Home("ecqx.methods.trained_centroids", "EC2T", _LRP),
    "EC2Tx": Home("ecqx.methods.trained_centroids", "EC2Tx"),
    "FantastIC4": Home("ecqx.methods.trained_centroids", "FantastIC4", _LRP),
    "FantastIC4x": Home("ecqx.methods.trained_centroids", "FantastIC4x"),
    "NNCodec uniform": Home("ecqx.methods.after_training", "NNCodecUniform"),
    "NNCodec dependent": Home("ecqx.methods.after_training", "NNCodecDependent"),
    "pruning": Home("ecqx.methods.pruning", "Pruning"),
    "LSQ": Home("ecqx.methods.lsq", "LSQ"),
    "torchao": Home("ecqx.methods.torchao", "TorchaoWeights"),
    "fp16": Home("ecqx.methods.after_training", "Float16"),
    "int8": Home("ecqx.methods.after_training", "Integer8"),
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises
    ------
    ValueError
        If there is no method of this name.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {name!r}")
    home = METHODS[name]
    found: type[Method] = getattr(import_module(home.module), home.name)
    return found


def build_method(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with the settings of one run.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    settings : mapping of str to value
        By the names of `Method.takes`.

    Raises
    ------
    ValueError
        If there is no such method or setting, or a setting is missing or out of range.
    """
    found = method_class(name)
    if unknown := settings.keys() - set(found.takes()):
        raise ValueError(
            f"{name} has no setting {min(unknown)!r}, it takes {', '.join(found.takes()) or 'none'}"
        )
    try:
        return found.build(settings)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
