"""The quantizers by name: ECQ, EC2T, FantastIC4, and each with relevance, marked by an x."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.ecqx import ECQx
from ecqx.quantizers.trained_centroids import EC2T, FantastIC4, TrainedQuantizer
from ecqx.relevance.settings import LRP

Trained = Literal["EC2T", "EC2Tx", "FantastIC4", "FantastIC4x"]
TRAINED: dict[str, type[TrainedQuantizer]] = {"EC2T": EC2T, "FantastIC4": FantastIC4}


def is_relevant(method: str) -> bool:
    """Whether a method's assignment takes relevance into account."""
    return method.endswith("x")


def fixed_bits(method: str) -> int | None:
    """Bit width of a method that has one of its own."""
    trained = TRAINED.get(method.removesuffix("x"))
    return None if trained is None else trained.width()


def build(
    method: str, model: nn.Module, bits: int, relevance: LRP | None, **settings: Any
) -> Quantizer:
    """Attach a quantizer to a model.

    Parameters
    ----------
    method : str
        ``ECQ``, ``EC2T`` or ``FantastIC4``, with an x behind it if there is relevance.
    model : Module
    bits : int
        Not looked at where the method has a width of its own.
    relevance : LRP, optional
    **settings
        The others of `ecqx.ECQx`.

    Raises
    ------
    ValueError
        If there is no such method, relevance and method contradict each other, or the quantizer
        refuses the model or a setting.
    """
    name = method.removesuffix("x")
    if name not in ("ECQ", *TRAINED):
        known = ", ".join(("ECQ", *TRAINED))
        raise ValueError(f"method must be one of {known}, with or without an x, not {method!r}")
    if is_relevant(method) != (relevance is not None):
        raise ValueError(f"{name}x is {name} with relevance, {name} is without")
    if name == "ECQ":
        return ECQx(model, bits=bits, relevance=relevance, **settings)
    return TRAINED[name](model, relevance=relevance, **settings)
