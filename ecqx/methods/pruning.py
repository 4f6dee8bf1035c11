"""Gradual magnitude pruning with uniform quantization-aware training.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression",
2017, arXiv:1710.01878, with one threshold for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ecqx.assignment.bits import check_bits
from ecqx.assignment.centroids import CentroidGrid
from ecqx.methods.interface import OfNamedWeights
from ecqx.modules import Inputs
from ecqx.quantizers.parameters import shared_lists
from ecqx.quantizers.straight_through import IntegerWeights, rounded
from ecqx.training.settings import Selection

# Share of the training in which the sparsity rises; the rest is left for recovery.
RAMP = 0.5


class PrunedUniform(IntegerWeights):
    """Weights on ECQ's grid, with the smallest magnitudes of all layers pruned step by step.

    After step t of T = ``steps`` the share ``s·(1 − (1 − t/(RAMP·T))³)`` of all weights is zero
    (paper, equation 1, with initial sparsity 0), and s after step ``RAMP·T``. The others go to the
    nearest centroid of ECQ's grid, which is fitted once, before training. Gradients pass straight
    through rounding and clamping; those of pruned weights are zero.
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int,
        sparsity: float,
        steps: int,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
    ) -> None:
        super().__init__(model, exclude, include)
        self.bits, self.final_sparsity, self.steps = bits, sparsity, steps
        self.grids = {n: CentroidGrid.fit(v.detach(), bits) for n, v in self.latent.items()}
        self.done = 0
        self.threshold = 0.0
        self.project()

    def pruned_share(self) -> float:
        """Share of all weights that is pruned after the steps done so far."""
        ramp = max(1.0, RAMP * self.steps)
        return self.final_sparsity * (1 - (1 - min(1.0, self.done / ramp)) ** 3)

    def quantized(self, name: str) -> Tensor:
        latent, grid = self.latent[name], self.grids[name]
        lowest, highest = -grid.zero, len(grid.values) - 1 - grid.zero
        kept = latent.detach().abs() > self.threshold
        k = rounded(latent / grid.step)
        k = k + (k.clamp(lowest, highest) - k).detach()  # the gradient of the identity
        return k * self.step(name) * kept

    def step(self, name: str) -> Tensor:
        step, device = self.grids[name].step, self.latent[name].device
        return torch.tensor(step, dtype=torch.float32, device=device)

    def update(self, inputs: Inputs, targets: Tensor) -> None:
        """Raise the threshold, then quantize; call it after the optimizer's step."""
        self.done += 1
        self.threshold = self._threshold()
        super().update(inputs, targets)

    @torch.no_grad()
    def _threshold(self) -> float:
        """The magnitude up to which weights are pruned now; 0 where none is."""
        magnitudes = torch.cat([latent.abs().flatten() for latent in self.latent.values()])
        count = int(self.pruned_share() * magnitudes.numel())
        return float(magnitudes.kthvalue(count).values) if count else 0.0

    def _rest_of_state(self) -> dict[str, Tensor]:
        return {**super()._rest_of_state(), "done": torch.tensor(self.done, device="cpu")}

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])
        self.threshold = self._threshold()
        super()._restore_rest(state)


@dataclass(frozen=True)
class Pruning(OfNamedWeights):
    """Gradual magnitude pruning to a sparsity in [0, 1) at one bit width, 2 to 8."""

    bits: int
    sparsity: float
    form: ClassVar[str] = "ecqx"
    # The best epoch may be one of the ramp, where the sparsity of the settings is not yet reached.
    selection: ClassVar[Selection] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self.bits)
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), not {self.sparsity}")

    def constrain(self, model: nn.Module, steps: int) -> PrunedUniform:
        with shared_lists():
            return PrunedUniform(model, self.bits, self.sparsity, steps, self.exclude, self.include)
