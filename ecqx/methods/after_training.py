"""Methods that compress a network after training in full precision, when its file is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import nn

from ecqx.methods.interface import Method


@dataclass(frozen=True)
class AfterTraining(Method):
    """A method that does not constrain training; its form of file takes its settings."""

    constrains_training: ClassVar[bool] = False

    def constrain(self, model: nn.Module, steps: int) -> None:
        return None

    def form_settings(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class NNCodecUniform(AfterTraining):
    """NNCodec with uniform quantization; the step doubles when ``qp`` grows by 4."""

    qp: int
    form: ClassVar[str] = "nnc"
    dependent: ClassVar[bool] = False

    def form_settings(self) -> dict[str, Any]:
        return {"qp": self.qp, "dependent": self.dependent}


@dataclass(frozen=True)
class NNCodecDependent(NNCodecUniform):
    """NNCodec with dependent (trellis-coded) quantization."""

    dependent: ClassVar[bool] = True


class Float16(AfterTraining):
    """Every floating-point tensor in half precision."""

    form = "float16"
    width = 16


class Integer8(AfterTraining):
    """Weights rounded to 8 bit, with one step a tensor."""

    form = "integer8"
    width = 8
