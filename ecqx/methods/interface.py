"""The interface of a method: how it trains, what training leaves, and the form of its file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from ecqx.coding.coded_state import write_coded_state
from ecqx.coding.quantized import CodedStateSource
from ecqx.modules import name_parts
from ecqx.training.constraint import Constraint
from ecqx.training.settings import Selection


class Method(ABC):
    """One way to make a model small; a subclass is a frozen dataclass of its settings.

    A new method is one module here, one line in `ecqx.methods.registry` and, where no form of
    file fits, one in `ecqx.coding.forms`.

    Attributes
    ----------
    form : str
        The form of its files, a name of `ecqx.coding.forms`.
    width : int, optional
        Bits a weight, where they are no setting.
    constrains_training : bool
        If not, the model is trained on in full precision for as many epochs, and compressed then.
    selection : {"best", "last"}
        The epoch to keep: "last" where only the last one meets the settings.
    """

    form: ClassVar[str]
    width: ClassVar[int | None] = None
    constrains_training: ClassVar[bool] = True
    selection: ClassVar[Selection] = "best"

    @classmethod
    def takes(cls) -> tuple[str, ...]:
        """Names of the settings that `build` takes."""
        own = sorted(fields(cls), key=lambda field: bool(field.kw_only))  # type: ignore[arg-type]
        return tuple(field.name for field in own)

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> Self:
        """The method with these settings; ``ValueError`` if one is missing or out of range."""
        return cls(**settings)

    def settings(self) -> dict[str, Any]:
        """All settings by the names that `build` takes, as plain values."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @property
    def bit_width(self) -> int | None:
        """Bits a weight; None where the method has none."""
        return getattr(self, "bits", self.width)

    @abstractmethod
    def constrain(self, model: nn.Module, steps: int) -> Constraint | None:
        """Attach the method's quantizer to a model, in place; training has ``steps`` steps.

        Returns the constraint for `ecqx.training.trainer.Trainer`; None if training has none.
        """

    def save(self, path: Path, model: nn.Module, constraint: Constraint | None) -> None:
        """Write the trained model, uncoded; the form of file codes it later."""
        if constraint is None:
            write_coded_state(path, model.state_dict(), {})
        else:
            assert isinstance(constraint, CodedStateSource)
            write_coded_state(path, *constraint.coded_state())

    def form_settings(self) -> dict[str, Any]:
        """Settings of the form of file that the method determines."""
        return {}


@dataclass(frozen=True, kw_only=True)
class OfNamedWeights(Method):
    """A method with ``exclude`` and ``include`` of `ecqx.quantizers.settings.QuantizerSettings`."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for setting in ("exclude", "include"):
            object.__setattr__(self, setting, name_parts(setting, getattr(self, setting)))
