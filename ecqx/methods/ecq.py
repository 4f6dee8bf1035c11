"""ECQ and ECQx as methods, and what all entropy-constrained quantizers have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from torch import distributed, nn

from ecqx.methods.interface import Method
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.ecqx import ECQx as ECQxQuantizer
from ecqx.quantizers.parameters import shared_lists
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP

_RELEVANCE = tuple(field.name for field in fields(LRP))
_QUANTIZER = tuple(field.name for field in fields(QuantizerSettings))
# Settings of a grid, which trained centroids do not have.
_GRID: tuple[str, ...] = ("bits", "step")
# Settings of the quantizer without effect unless there is relevance.
_RELEVANCE_BAND = ("p", "sparsity_band")


@dataclass(frozen=True)
class EntropyConstrained(Method):
    """A quantizer whose assignment weighs distance against information.

    Attributes
    ----------
    quantizer_class : callable
        Takes model, settings and relevance.
    defaults : mapping
        Defaults that differ from those of `QuantizerSettings`.
    is_relevant : bool
        Whether the zero cluster's cost depends on relevance: the x in a method's name.
    """

    quantizer: QuantizerSettings
    relevance: LRP | None
    form: ClassVar[str] = "ecqx"
    quantizer_class: ClassVar[Callable[..., Quantizer]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    is_relevant: ClassVar[bool] = False

    @classmethod
    def takes(cls) -> tuple[str, ...]:
        left_out = () if cls.width is None else _GRID
        if not cls.is_relevant:
            left_out += _RELEVANCE_BAND
        own = tuple(name for name in _QUANTIZER if name not in left_out)
        return own + (_RELEVANCE if cls.is_relevant else ())

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> Self:
        settings = {**cls.defaults, **settings}
        if cls.width is not None:
            settings["bits"] = cls.width
        for name in ("bits", "lam"):
            if name not in settings:
                raise ValueError(f"{name} is missing")
        quantizer = {name: value for name, value in settings.items() if name in _QUANTIZER}
        relevance = {name: value for name, value in settings.items() if name in _RELEVANCE}
        return cls(QuantizerSettings(**quantizer), LRP(**relevance) if cls.is_relevant else None)

    def settings(self) -> dict[str, Any]:
        relevance = {} if self.relevance is None else asdict(self.relevance)
        known = asdict(self.quantizer) | relevance
        return {name: known[name] for name in self.takes()}

    @property
    def bit_width(self) -> int | None:
        """None for mixed precision."""
        return self.quantizer.bits if isinstance(self.quantizer.bits, int) else None

    def constrain(self, model: nn.Module, steps: int) -> Quantizer:
        settings = asdict(self.quantizer)
        if self.width is not None:
            del settings["bits"]
        # Each process of a training has a replica, which it has not wrapped yet.
        group = distributed.group.WORLD if distributed.is_available() else None
        with shared_lists():
            return type(self).quantizer_class(
                model, relevance=self.relevance, process_group=group, **settings
            )


class ECQ(EntropyConstrained):
    """ECQ: an equidistant grid, without relevance."""

    quantizer_class = ECQxQuantizer


class ECQx(ECQ):
    """ECQx: an equidistant grid, with relevance."""

    is_relevant = True
