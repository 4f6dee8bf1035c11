"""The sweeps of a suite: which methods are tried on a task, at which settings."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from difflib import get_close_matches
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, create_model, model_validator

from ecqx.methods.interface import Method
from ecqx.methods.registry import build_method, check_names, method_class
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP
from ecqx.training.settings import FitSettings
from stages.settings.base import Settings, checked
from stages.settings.tasks import Device, Seeds, Tasks

SweepName = Literal["grid", "p", "ablation", "trained", "comparison"]
Floats = Literal["raw", "published"]

# Settings whose single value is a list already: several values are a list of lists or of bands.
_LISTS = ("sparsity_band", "exclude", "include")
# Sparsity bands (`ecqx.assign`) by their notation: the factors of p that are their ends. First
# that of the published code, then the paper's.
_BANDS = {"[-p, 0]": (-1.0, 0.0), "[0, p]": (0.0, 1.0)}
# Similarity (difflib) from which a name is taken for a misspelt field of `Sweep`. The names of
# methods' settings are less similar to its fields.
ALMOST_EQUAL = 0.8
# Settings that have columns of their own in results, so that the words on a run leave them out.
_NAMED_APART = ("bits", "lam", "p")


class Sweep(Settings):
    """Methods at all combinations of the listed values of their settings.

    Every name that is no field here is a setting of the methods, or ``lr``, the learning rate of
    this sweep; one value holds for all runs, a list is tried value by value. Each entry of
    ``variants`` (name → settings) is a repetition of all runs, with these settings replaced.
    ``seeds`` are some of the task's, by default all.
    """

    model_config = ConfigDict(extra="allow")

    sweep: SweepName
    method: str | Annotated[list[str], Field(min_length=1)]
    floats: Floats = "raw"
    seeds: Seeds | None = None
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] | None = None

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return [self.method] if isinstance(self.method, str) else self.method

    @property
    def _given(self) -> dict[str, Any]:
        """Settings of the methods, as written."""
        return self.model_extra or {}

    @model_validator(mode="before")
    @classmethod
    def _own_names_are_spelt_right(cls, given: Any) -> Any:
        """Extra names are allowed, so a misspelt one has to be noticed here."""
        own = list(cls.model_fields)
        for name in given if isinstance(given, dict) else ():
            close = get_close_matches(name, own, n=1, cutoff=ALMOST_EQUAL)
            if close and close != [name]:
                raise ValueError(f"{name}: no such setting, did you mean {close[0]!r}?")
        return given

    @model_validator(mode="after")
    def _lists_have_values(self) -> Sweep:
        for name, value in self._given.items():
            if value == [] and name not in _LISTS:
                raise ValueError(f"{name}: needs a value")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the listed values, in order, with the fixed ones in each."""
        values = [v if _is_listed(name, v) else [v] for name, v in self._given.items()]
        return [dict(zip(self._given, combined, strict=True)) for combined in product(*values)]

    def words(self, combination: dict[str, Any]) -> str:
        """What distinguishes a combination from the others of its sweep, beside bits, Λ and p."""
        return ", ".join(
            f"{name} {_word(combination[name])}"
            for name, value in self._given.items()
            if _is_listed(name, value) and name not in _NAMED_APART
        )


def _is_listed(name: str, value: Any) -> bool:
    """Whether a setting is tried at several values."""
    if not isinstance(value, list):
        return False
    if name in _LISTS:
        return any(isinstance(item, list) or str(item) in _BANDS for item in value)
    return True


def _word(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class TaskSweeps(Settings):
    """A task's training after stage pretrain, in full precision or by a method, and its sweeps."""

    fit: FitSettings
    sweeps: Annotated[list[Sweep], Field(min_length=1)]


class Quantize(Settings):
    """The section ``quantize``.

    A setting of ``quantizer`` or ``relevance`` is the default of every method that takes it; bits
    and Λ have no default.
    """

    quantizer: QuantizerSettings
    relevance: LRP
    tasks: dict[str, TaskSweeps]

    @model_validator(mode="after")
    def _bits_and_lam_are_no_defaults(self) -> Quantize:
        for name in ("bits", "lam"):
            if getattr(self.quantizer, name) != getattr(QuantizerSettings, name):
                raise ValueError(f"quantizer.{name}: belongs in the sweeps, not in their defaults")
        return self

    def method(self, name: str, given: dict[str, Any]) -> Method:
        """A method with the defaults and the given settings; ``ValueError`` if one is wrong."""
        check_names(name, given)
        takes = method_class(name).takes()
        defaults = asdict(self.quantizer) | asdict(self.relevance)
        settings = {k: v for k, v in defaults.items() if k in takes and k not in ("bits", "lam")}
        settings |= given
        if "sparsity_band" in takes:
            settings["sparsity_band"] = _band(settings["sparsity_band"], settings["p"])
        try:
            # A dataclass takes values as they come; here 1 becomes 1.0, and a text is an error.
            typed = checked(_schema(method_class(name)), settings)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return build_method(name, typed.model_dump(exclude_unset=True))


def _band(written: Any, p: Any) -> Any:
    """A sparsity band as a pair of numbers; without one it is [-p, 0]."""
    if written is None:
        written = "[-p, 0]"
    if not isinstance(written, str) or not _is_number(p):
        return written
    if written not in _BANDS:
        raise ValueError(f"sparsity_band must be {' or '.join(_BANDS)}, or two numbers")
    low, high = _BANDS[written]
    return (low * p, high * p)


@cache
def _schema(method: type[Method]) -> type[Settings]:
    """The settings that a method takes, with their types.

    The methods that weigh distance against information find out in `build` whether one is missing.
    """
    types = get_type_hints(QuantizerSettings) | get_type_hints(LRP) | get_type_hints(method)
    # The results of a suite are shown by bit width: no mixed precision.
    types["bits"] = int
    required = {field.name for field in fields(method) if field.default is MISSING}  # type: ignore[arg-type]
    taken: dict[str, Any] = {
        name: (types[name], ... if name in required else None) for name in method.takes()
    }
    return create_model(method.__name__, __base__=Settings, **taken)


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
