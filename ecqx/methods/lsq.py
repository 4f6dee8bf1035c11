"""Learned step size quantization.

Esser, McKinstry, Bablani, Appuswamy, Modha: "Learned Step Size Quantization", ICLR 2020,
arXiv:1902.08153. Weights only, as everywhere in this suite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ecqx.assignment.bits import check_bits
from ecqx.methods.interface import OfNamedWeights
from ecqx.modules import Inputs
from ecqx.quantizers.parameters import shared_lists
from ecqx.quantizers.straight_through import IntegerWeights, rounded

SMALLEST_STEP = 1e-8


class LearnedSteps(IntegerWeights):
    """Weights ``round(clip(v/s, Q_N, Q_P))·s`` whose step s is trained, one a layer.

    Paper, equations 1 to 3 and section 2.2: the gradient of s is that of this formula with
    straight-through rounding, times 1/√(n·Q_P) with n the layer's weights; training starts from
    s = 2·mean|v|/√Q_P. Q_N = -2^(b-1), Q_P = 2^(b-1) - 1 with b = ``bits``, 2 to 8.
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
    ) -> None:
        super().__init__(model, exclude, include)
        self.bits = bits
        self.lowest, self.highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        for name, latent in self.latent.items():
            first = 2 * latent.detach().abs().mean() / math.sqrt(self.highest)
            self.numbers[name] = nn.Parameter(first.clamp(min=SMALLEST_STEP))
        self.project()

    def quantized(self, name: str) -> Tensor:
        latent, step = self.latent[name], self.numbers[name]
        scale = 1 / math.sqrt(latent.numel() * self.highest)
        # The step itself, with `scale` times its gradient.
        scaled = step.detach() + (step - step.detach()) * scale
        return rounded((latent / scaled).clamp(self.lowest, self.highest)) * scaled

    def step(self, name: str) -> Tensor:
        return self.numbers[name].detach()

    def update(self, inputs: Inputs, targets: Tensor) -> None:
        """Clamp steps to positive values, then quantize; call it after the optimizer's step."""
        with torch.no_grad():
            for step in self.numbers.values():
                step.clamp_(min=SMALLEST_STEP)
        super().update(inputs, targets)


@dataclass(frozen=True)
class LSQ(OfNamedWeights):
    """Learned step size at one bit width, 2 to 8."""

    bits: int
    form: ClassVar[str] = "ecqx"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)

    def constrain(self, model: nn.Module, steps: int) -> LearnedSteps:
        with shared_lists():
            return LearnedSteps(model, self.bits, self.exclude, self.include)
