"""Quantization-aware training with straight-through gradients: LSQ, pruning, torchao."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.coding.quantized import Quantized, QuantizedTensor
from ecqx.modules import HALF, Inputs, state_of
from ecqx.quantizers.latent import LatentWeights


class StraightThrough(LatentWeights):
    """Quantized weights ``w = f(v, s)`` of latent weights v and trained numbers s of each layer.

    A subclass writes f as a differentiable function (`quantized`), with its own surrogate for the
    gradient of rounding; v and s get f's vector-Jacobian product with the gradient of w.

    Attributes
    ----------
    numbers : dict of str to Parameter
        The s by name of the weight; empty if a method has none.
    """

    def __init__(
        self, model: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> None:
        super().__init__(model, exclude, include)
        self.numbers: dict[str, nn.Parameter] = {}
        self._graphs: dict[str, Tensor] = {}
        self._written: dict[str, Tensor] = {}

    @abstractmethod
    def quantized(self, name: str) -> Tensor:
        """f: the weights of a layer, differentiable in its latent weights and its numbers."""

    def project(self) -> None:
        """Put f of the present latent weights into the model, and keep its graph."""
        with torch.enable_grad():
            self._graphs = {name: self.quantized(name) for name in self.latent}
        with torch.no_grad():
            for name in self.weights:
                self._write(name, self._graphs[name])

    @torch.no_grad()
    def _write(self, name: str, values: Tensor) -> None:
        super()._write(name, values)
        self._written[name] = values.detach().to(self.weights[name].dtype)

    def _take_over(self, name: str, values: Tensor, moved: Tensor) -> None:
        # The kept graph is one of the earlier latent weights.
        with torch.enable_grad():
            self._graphs[name] = self.quantized(name)

    def _present(self, name: str) -> Tensor:
        written = self._written[name]
        return written.float() if written.dtype in HALF else written

    def _centroids(self, name: str) -> Tensor:
        values: Tensor = torch.unique(self._present(name))
        return values

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of the base class, and the numbers, without weight decay."""
        groups = super().parameter_groups(weight_decay)
        return [*groups, {"params": list(self.numbers.values()), "weight_decay": 0.0}]

    def transfer_gradients(self) -> None:
        self._begin_transfer()
        self.reconcile(values=False, wait=False)
        for name, weight in self.weights.items():
            trained = [self.latent[name]]
            if name in self.numbers:
                trained.append(self.numbers[name])
            gradients: tuple[Tensor | None, ...] = (None,) * len(trained)
            given, graph = self._gradient(name), self._graphs[name]
            if given is not None:
                given = given.to(graph.dtype)
                gradients = torch.autograd.grad(graph, trained, given, retain_graph=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                self._give(parameter, gradient)
            # The optimizer does not hold these weights and would not reset their gradients.
            weight.grad = None

    def update(self, inputs: Inputs, targets: Tensor) -> None:
        self.reconcile(wait=False)
        self._forget_gradients()
        self.project()

    def rewrite(self) -> None:
        # The unfinished step may have moved latent weights and numbers.
        self._forget_gradients()
        self.project()

    def _rest_of_state(self) -> dict[str, Tensor]:
        """``numbers.*``."""
        return {f"numbers.{name}": number.detach() for name, number in self.numbers.items()}

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        for name, number in self.numbers.items():
            number.copy_(state[f"numbers.{name}"])
        self.project()


class IntegerWeights(StraightThrough):
    """Weights ``k * step`` on an equidistant grid, which `ecqx.save` codes like those of ECQ."""

    bits: int

    @abstractmethod
    def step(self, name: str) -> Tensor:
        """Distance of neighbouring centroids of a layer, float32, without gradient."""

    @torch.no_grad()
    def coded_state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Quantized]]:
        """What `ecqx.save` writes: the model's state_dict, and which tensors are integers."""
        self.reconcile()
        coded: dict[str, Quantized] = {}
        for name, weight in self.weights.items():
            step = self.step(name)
            integers = (weight.to(step.dtype) / step).round().to(torch.int16)
            coded[name] = QuantizedTensor(integers, float(step), self.bits)
        return state_of(self.model), self._by_every_name(coded)


def rounded(values: Tensor) -> Tensor:
    """Rounding with the gradient of the identity."""
    return values + (values.round() - values).detach()
