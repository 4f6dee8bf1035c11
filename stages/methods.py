"""The methods of the comparison by the names that settings and results have for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ecqx.assignment.assign import AssignmentSettings
from ecqx.methods import (
    LSQ,
    EntropyConstrained,
    Float16,
    Integer8,
    Method,
    NNCodec,
    Pruning,
    TorchaoWeights,
    family,
)
from ecqx.relevance.settings import LRP

OURS = ("ECQ", "ECQx", "EC2T", "EC2Tx", "FantastIC4", "FantastIC4x")
RIVALS: dict[str, Callable[..., Method]] = {
    "NNCodec uniform": partial(NNCodec, dependent=False),
    "NNCodec dependent": partial(NNCodec, dependent=True),
    "pruning": Pruning,
    "LSQ": LSQ,
    "torchao": TorchaoWeights,
    "fp16": Float16,
    "int8": Integer8,
}
# Methods without a setting to be tried.
SINGLE = ("fp16", "int8")
# What `ecqx.ECQx` takes beside bits, Λ and relevance.
ASSIGNMENT = {"p", "sparsity_band", "pmf", "lambda_max"}
QUANTIZER = {*ASSIGNMENT, "gradient", "exclude"}


def known_methods() -> tuple[str, ...]:
    """All names."""
    return (*OURS, *RIVALS)


def method_of(
    name: str, trial: Mapping[str, Any], common: Mapping[str, Any], relevance: LRP | None
) -> Method:
    """A method with the settings of one trial.

    Parameters
    ----------
    name : str
    trial : mapping
        Settings of the method; of the entropy-constrained ones also those of `ecqx.ECQx`, which
        then replace the common ones.
    common : mapping
        What the entropy-constrained methods are told in all trials.
    relevance : LRP, optional
        For those with relevance.

    Raises
    ------
    TypeError, ValueError
        If the method has no such setting, or not that value.
    """
    if name not in OURS:
        return RIVALS[name](**trial)
    own = {key: trial[key] for key in ("bits", "lam") if key in trial}
    told = {**common, **{key: value for key, value in trial.items() if key not in own}}
    if unknown := told.keys() - QUANTIZER:
        raise ValueError(f"{min(unknown)} is no setting of a quantizer")
    if "lam" not in own or ("bits" in own) != (family.fixed_bits(name) is None):
        raise ValueError("needs lam, and bits unless the method has a width of its own")
    AssignmentSettings(own["lam"], **{key: told[key] for key in ASSIGNMENT & told.keys()})
    relevant = relevance if family.is_relevant(name) else None
    return EntropyConstrained(name, **own, relevance=relevant, settings=told)


def bits_of(name: str, trial: Mapping[str, Any]) -> int | None:
    """Bit width of a trial, where it has one."""
    fixed: dict[str, int | None] = {"fp16": 16, "int8": 8}
    return trial.get("bits") or fixed.get(name) or family.fixed_bits(name)
