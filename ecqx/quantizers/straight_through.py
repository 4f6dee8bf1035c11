"""Quantization-aware training with straight-through gradients, as the baselines have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.quantizers.latent import LatentWeights


class StraightThrough(LatentWeights):
    """Weights that are a function of latent weights, and of numbers trained beside them.

    The model holds ``w = f(v, s)``, with the latent v of each weight and, where a method has them,
    numbers s of each layer. A subclass writes f as a differentiable function (`quantized`), with
    its own idea of the gradient of rounding; the gradients of v and s are then f's vector-Jacobian
    products with the gradient at w.

    Parameters
    ----------
    model, exclude
        As for `ecqx.quantizers.latent.LatentWeights`; the same parameters are quantized as by
        `ecqx.ECQx`.

    Attributes
    ----------
    numbers : dict of str to Parameter
        The s by name of the parameter; may be empty.
    """

    def __init__(self, model: nn.Module, exclude: Sequence[str] = ()) -> None:
        super().__init__(model, exclude)
        self.numbers: dict[str, nn.Parameter] = {}
        self._graphs: dict[str, Tensor] = {}

    @abstractmethod
    def quantized(self, name: str) -> Tensor:
        """f: the weight of a layer, differentiable in its latent weight and its numbers."""

    def project(self) -> None:
        """Put f of the present latent weights into the model, and keep its graph."""
        with torch.enable_grad():
            self._graphs = {name: self.quantized(name) for name in self.latent}
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self._graphs[name])

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of the base class, and the numbers, without weight decay."""
        groups = super().parameter_groups(weight_decay)
        return [*groups, {"params": list(self.numbers.values()), "weight_decay": 0.0}]

    def transfer_gradients(self) -> None:
        """Gradients of latent weights and numbers from those at the weights in the model."""
        for name, weight in self.weights.items():
            trained = [self.latent[name]]
            if name in self.numbers:
                trained.append(self.numbers[name])
            gradients: tuple[Tensor | None, ...] = (None,) * len(trained)
            if weight.grad is not None:
                graph = self._graphs[name]
                gradients = torch.autograd.grad(graph, trained, weight.grad.to(graph.dtype))
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            # No optimizer holds these, so none would set them to zero for the next batch.
            weight.grad = None

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Make the model's weights of the latent ones; the batch is not used."""
        self.project()

    def _rest_of_state(self) -> dict[str, Tensor]:
        """``numbers.*``."""
        return {f"numbers.{name}": number.detach() for name, number in self.numbers.items()}

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        for name, number in self.numbers.items():
            number.copy_(state[f"numbers.{name}"])
        self.project()


def rounded(values: Tensor) -> Tensor:
    """Rounding whose gradient is that of the identity."""
    return values + (values.round() - values).detach()
