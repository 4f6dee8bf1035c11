"""All methods by name. A method's module is imported when the method is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from ecqx.methods.interface import Method

# Module and class of each method, in the order in which results list them.
METHODS: dict[str, str] = {
    "ECQ": "ecqx.methods.ecq:ECQ",
    "ECQx": "ecqx.methods.ecq:ECQx",
    "EC2T": "ecqx.methods.trained_centroids:EC2T",
    "EC2Tx": "ecqx.methods.trained_centroids:EC2Tx",
    "FantastIC4": "ecqx.methods.trained_centroids:FantastIC4",
    "FantastIC4x": "ecqx.methods.trained_centroids:FantastIC4x",
    "NNCodec uniform": "ecqx.methods.after_training:NNCodecUniform",
    "NNCodec dependent": "ecqx.methods.after_training:NNCodecDependent",
    "pruning": "ecqx.methods.pruning:Pruning",
    "LSQ": "ecqx.methods.lsq:LSQ",
    "torchao": "ecqx.methods.torchao:TorchaoWeights",
    "fp16": "ecqx.methods.after_training:Float16",
    "int8": "ecqx.methods.after_training:Integer8",
}
# Modules that a method's own module imports late and this method never runs: LRP, without
# relevance. Fingerprints leave them out.
NEVER_RUN: dict[str, str] = {
    "ECQ": "ecqx.relevance.weights",
    "EC2T": "ecqx.relevance.weights",
    "FantastIC4": "ecqx.relevance.weights",
}


def method_class(name: str) -> type[Method]:
    """The class of a method; ``ValueError`` if there is no method of this name."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {name!r}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def check_names(name: str, settings: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first setting that a method does not have."""
    takes = method_class(name).takes()
    for setting in settings:
        if setting not in takes:
            close = get_close_matches(setting, takes, n=1)
            right = f"did you mean {close[0]!r}?" if close else f"only {', '.join(takes) or 'none'}"
            raise ValueError(f"{name} has no setting {setting!r}, {right}")


def build_method(name: str, settings: Mapping[str, Any]) -> Method:
    """A method with the settings of one run, by the names of `Method.takes`.

    ``ValueError`` if there is no such method or setting, or a setting is missing or out of range.
    """
    check_names(name, settings)
    try:
        return method_class(name).build(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
