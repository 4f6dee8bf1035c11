"""Gradual magnitude pruning with uniform quantization-aware training.

Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression",
2017, arXiv:1710.01878, with thresholds over all layers together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ecqx.assignment.centroids import CentroidGrid, check_bits
from ecqx.methods.interface import Method
from ecqx.quantizers.integer_weights import IntegerWeights
from ecqx.quantizers.straight_through import rounded
from ecqx.training.settings import Selection

# Share of the training in which the sparsity rises; the rest is left for recovery.
RAMP = 0.5


class PrunedUniform(IntegerWeights):
    """Weights on ECQ's grid, the smallest of all layers set to zero, more of them in each step.

    After step t of T the share ``s·(1 − (1 − t/(RAMP·T))³)`` of all weights is pruned (paper,
    equation 1, from no sparsity), s from ``RAMP·T`` on. The threshold is a magnitude, the same in
    all layers. The others go to the nearest centroid of the grid that ECQ has, fitted once;
    gradients pass straight through it, those of pruned weights are zero.

    Parameters
    ----------
    model : Module
        Changed in place.
    bits : int
        Bit width, 2 to 8.
    sparsity : float
        s, in [0, 1).
    steps : int
        T.
    exclude : sequence of str
        Parameters whose name contains one of these stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int,
        sparsity: float,
        steps: int,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(model, exclude)
        self.bits, self.final_sparsity, self.steps = bits, sparsity, steps
        self.grids = {n: CentroidGrid.fit(c.detach(), bits) for n, c in self.latent.items()}
        self.done = 0
        self.threshold = 0.0
        self.project()

    def pruned_share(self) -> float:
        """Share of all weights that is pruned after the steps done so far."""
        ramp = max(1.0, RAMP * self.steps)
        return self.final_sparsity * (1 - (1 - min(1.0, self.done / ramp)) ** 3)

    def quantized(self, name: str) -> Tensor:
        """The weights of a layer."""
        copy, grid = self.latent[name], self.grids[name]
        lowest, highest = -grid.zero, len(grid.values) - 1 - grid.zero
        kept = copy.detach().abs() > self.threshold
        k = rounded(copy / grid.step)
        k = k + (k.clamp(lowest, highest) - k).detach()
        return k * self.step(name) * kept

    def step(self, name: str) -> Tensor:
        """The step of a layer's grid."""
        return torch.tensor(self.grids[name].step, device=self.latent[name].device)

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """After the optimizer's step: the next threshold, then the model's weights."""
        self.done += 1
        self.threshold = self._threshold()
        super().update(inputs, targets)

    @torch.no_grad()
    def _threshold(self) -> float:
        """The largest magnitude that is pruned; 0 where none is."""
        magnitudes = torch.cat([copy.abs().flatten() for copy in self.latent.values()])
        count = int(self.pruned_share() * magnitudes.numel())
        return float(magnitudes.kthvalue(count).values) if count else 0.0

    def _rest_of_state(self) -> dict[str, Tensor]:
        """As of the base class, and the steps done."""
        return {**super()._rest_of_state(), "done": torch.tensor(self.done)}

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])
        self.threshold = self._threshold()
        super()._restore_rest(state)


@dataclass(frozen=True)
class Pruning(Method):
    """Gradual magnitude pruning at one bit width.

    Attributes
    ----------
    bits : int
        2 to 8.
    sparsity : float
        Share of weights that are pruned in the end, in [0, 1).
    exclude : tuple of str
        Parameters whose name contains one of these stay as they are.
    """

    bits: int
    sparsity: float
    exclude: tuple[str, ...] = ()
    form: ClassVar[str] = "ecqx"
    # An early epoch would be one of less sparsity than was asked for.
    selection: ClassVar[Selection] = "last"

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), not {self.sparsity}")

    def constrain(self, model: nn.Module, steps: int) -> PrunedUniform:
        """Attach pruning and grid."""
        return PrunedUniform(model, self.bits, self.sparsity, steps, self.exclude)
