"""Methods that compress a network after it was trained in full precision: the file does it all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import nn

from ecqx.methods.interface import Method


@dataclass(frozen=True)
class AfterTraining(Method):
    """A method without a constraint in training."""

    is_trained: ClassVar[bool] = False

    def constrain(self, model: nn.Module, steps: int) -> None:
        """Nothing is constrained."""

    def form_settings(self) -> dict[str, Any]:
        """All settings are the file's."""
        return asdict(self)


@dataclass(frozen=True)
class NNCodecUniform(AfterTraining):
    """NNCodec with uniform quantization.

    Attributes
    ----------
    qp : int
        Quantization parameter; the step doubles every 4.
    """

    qp: int
    form: ClassVar[str] = "nnc"

    def form_settings(self) -> dict[str, Any]:
        """The quantization parameter, and which quantization."""
        return {"qp": self.qp, "dependent": False}


@dataclass(frozen=True)
class NNCodecDependent(NNCodecUniform):
    """NNCodec with dependent (trellis-coded) quantization."""

    def form_settings(self) -> dict[str, Any]:
        """The quantization parameter, and which quantization."""
        return {"qp": self.qp, "dependent": True}


@dataclass(frozen=True)
class Float16(AfterTraining):
    """Every floating-point tensor in half precision."""

    form: ClassVar[str] = "float16"

    @property
    def bit_width(self) -> int:
        """Bits a value."""
        return 16


@dataclass(frozen=True)
class Integer8(AfterTraining):
    """Weights rounded to 8 bit, with one step a tensor."""

    form: ClassVar[str] = "integer8"

    @property
    def bit_width(self) -> int:
        """Bits a weight."""
        return 8
