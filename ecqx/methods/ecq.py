"""ECQ and ECQx as methods, and what the family of entropy-constrained quantizers shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from torch import nn

from ecqx.methods.interface import Method
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.ecqx import ECQx as ECQxQuantizer
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP

_RELEVANCE = tuple(field.name for field in fields(LRP))
_QUANTIZER = tuple(field.name for field in fields(QuantizerSettings))
# Settings that only relevance gives a meaning.
_RELEVANCE_BAND = ("p", "sparsity_band")


@dataclass(frozen=True)
class EntropyConstrained(Method):
    """A quantizer whose assignment weighs distance against information.

    Attributes
    ----------
    quantizer : QuantizerSettings
    relevance : LRP, optional
        None for a method without relevance.
    """

    quantizer: QuantizerSettings
    relevance: LRP | None
    form: ClassVar[str] = "ecqx"
    # Whether the zero cluster's cost depends on relevance: the x in a method's name.
    is_relevant: ClassVar[bool] = False
    # Bit width of a method that has one of its own.
    width: ClassVar[int | None] = None

    @classmethod
    def takes(cls) -> tuple[str, ...]:
        """Settings of the quantizer and, with relevance, of LRP."""
        left_out: tuple[str, ...] = () if cls.width is None else ("bits",)
        if not cls.is_relevant:
            left_out += _RELEVANCE_BAND
        own = tuple(name for name in _QUANTIZER if name not in left_out)
        return own + (_RELEVANCE if cls.is_relevant else ())

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> Self:
        """The method with these settings, flat."""
        if cls.width is not None:
            settings = {**settings, "bits": cls.width}
        for name in ("bits", "lam"):
            if name not in settings:
                raise ValueError(f"{name} is missing")
        quantizer = {name: value for name, value in settings.items() if name in _QUANTIZER}
        relevance = {name: value for name, value in settings.items() if name in _RELEVANCE}
        return cls(QuantizerSettings(**quantizer), LRP(**relevance) if cls.is_relevant else None)

    def settings(self) -> dict[str, Any]:
        """All settings, flat."""
        relevance = {} if self.relevance is None else asdict(self.relevance)
        known = asdict(self.quantizer) | relevance
        return {name: known[name] for name in self.takes()}

    @property
    def bit_width(self) -> int:
        """Bits a weight."""
        return self.quantizer.bits

    @abstractmethod
    def constrain(self, model: nn.Module, steps: int) -> Quantizer:
        """Attach the quantizer."""


class ECQ(EntropyConstrained):
    """ECQ: an equidistant grid, without relevance."""

    def constrain(self, model: nn.Module, steps: int) -> Quantizer:
        """Attach the quantizer."""
        return ECQxQuantizer(model, relevance=self.relevance, **asdict(self.quantizer))


class ECQx(ECQ):
    """ECQx: an equidistant grid, with relevance."""

    is_relevant = True
