"""The sweeps of a suite: which methods are tried on a task, at which settings."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model, model_validator

from ecqx.methods.interface import Method
from ecqx.methods.registry import build_method, method_class
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP
from ecqx.training.settings import FitSettings
from stages.settings.base import Settings, checked
from stages.settings.tasks import Device, Seeds, Tasks

SweepName = Literal["grid", "p", "ablation", "trained", "comparison"]
Floats = Literal["raw", "published"]

# Settings whose single value is a list already: a list of lists is tried value by value.
_LISTS = ("sparsity_band", "exclude")
# The bands that follow p, published code and paper, by the way they are written.
_BANDS = {"[-p, 0]": (-1.0, 0.0), "[0, p]": (0.0, 1.0)}
# What tells runs apart in columns of their own, not in words.
_COLUMNS = ("bits", "lam", "p")


class Sweep(Settings):
    """Methods at all combinations of the listed values of their settings.

    Every other name is a setting of the methods, or ``lr``, the learning rate of this sweep; one
    value holds for all runs, a list is tried value by value. ``variants`` (name → settings that
    are replaced) multiplies the runs once more.
    """

    model_config = ConfigDict(extra="allow")

    sweep: SweepName
    method: str | Annotated[list[str], Field(min_length=1)]
    floats: Floats = "raw"
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] | None = None

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return [self.method] if isinstance(self.method, str) else self.method

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the listed values, in order, with the fixed ones in each."""
        given = self.model_extra or {}
        values = [value if _is_listed(name, value) else [value] for name, value in given.items()]
        return [dict(zip(given, combined, strict=True)) for combined in product(*values)]

    def words(self, combination: dict[str, Any]) -> str | None:
        """What tells a combination from the others of its sweep, beside bits, Λ and p."""
        given = self.model_extra or {}
        tried = [k for k, v in given.items() if _is_listed(k, v) and k not in _COLUMNS]
        words = [f"{name} {_word(combination[name])}" for name in tried]
        return ", ".join(words) or None


def _is_listed(name: str, value: Any) -> bool:
    """Whether a setting is tried at several values."""
    if not isinstance(value, list):
        return False
    if name in _LISTS:
        return any(isinstance(item, list) or item in _BANDS for item in value)
    return True


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


class TaskSweeps(Settings):
    """How a task is trained further, in full precision and by every method, and its sweeps."""

    fit: FitSettings
    sweeps: Annotated[list[Sweep], Field(min_length=1)]


class Quantize(Settings):
    """The section ``quantize``: what holds for all methods that have such a setting, and the tasks.

    A setting of ``quantizer`` or ``relevance`` is the default of every method that takes it; bits
    and Λ are never defaults.
    """

    quantizer: QuantizerSettings
    relevance: LRP
    tasks: dict[str, TaskSweeps]

    def method(self, name: str, given: dict[str, Any]) -> Method:
        """A method with the defaults and the given settings; ``ValueError`` if one is wrong."""
        takes = method_class(name).takes()
        defaults = {k: v for k, v in asdict(self.quantizer).items() if k not in ("bits", "lam")}
        defaults |= asdict(self.relevance)
        settings = {k: v for k, v in defaults.items() if k in takes} | given
        if "sparsity_band" in settings:
            settings["sparsity_band"] = _band(settings["sparsity_band"], settings.get("p", 0.0))
        if isinstance(settings.get("exclude"), list):
            settings["exclude"] = tuple(settings["exclude"])
        method = build_method(name, settings)
        _check_types(method)
        return method


def _band(written: Any, p: float) -> tuple[float, float]:
    """A sparsity band as a pair; none given is [-p, 0]."""
    if written is None:
        written = "[-p, 0]"
    if isinstance(written, str):
        if written not in _BANDS:
            raise ValueError(f"sparsity_band must be {' or '.join(_BANDS)}, or two numbers")
        low, high = _BANDS[written]
        return (low * p, high * p)
    if len(written) != 2:
        raise ValueError("sparsity_band must be [low, high]")
    return (written[0], written[1])


def _check_types(method: Method) -> None:
    """Raise ``ValueError`` for a setting of the wrong kind, which a dataclass takes as it comes."""
    model = create_model("Checked", __base__=Settings, method=(type(method), ...))
    checked(model, {"method": asdict(method)})  # type: ignore[call-overload]


class QuantizeSettings(Settings):
    """What the stage quantize reads."""

    seeds: Seeds
    device: Device
    tasks: Tasks
    quantize: Quantize

    @model_validator(mode="after")
    def _names_the_same_tasks(self) -> QuantizeSettings:
        if set(self.quantize.tasks) != set(self.tasks):
            raise ValueError(f"quantize.tasks must name the tasks {', '.join(self.tasks)}")
        return self
