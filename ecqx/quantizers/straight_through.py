"""Quantization-aware training with straight-through gradients, as the baselines have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.coding.tensor_files import section
from ecqx.modules import unwrapped
from ecqx.quantizers.parameters import survey


class StraightThrough(ABC):
    """Weights that are a function of full-precision copies, and of numbers trained beside them.

    The model holds ``w = f(v, s)``, with a copy v of each weight and, where a method has them,
    numbers s of each layer. A subclass writes f as a differentiable function (`quantized`), with
    its own idea of the gradient of rounding; the gradients of v and s are then f's vector-Jacobian
    products with the gradient at w.

    Parameters
    ----------
    model : Module
        Changed in place. The same parameters are quantized as by `ecqx.ECQx`.

    Attributes
    ----------
    weights, copies, numbers : dict of str to Parameter
        By name of the parameter: w in the model, v and s; ``numbers`` may be empty.

    Raises
    ------
    ValueError
        If nothing is left to quantize.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrapped(model)
        quantized = [p for p in survey(self.model, ()) if not (p.kept or p.shared_with)]
        self.weights = {parameter.name: parameter.tensor for parameter in quantized}
        self.copies = {n: nn.Parameter(w.detach().clone()) for n, w in self.weights.items()}
        self.numbers: dict[str, nn.Parameter] = {}
        self._graphs: dict[str, Tensor] = {}

    @abstractmethod
    def quantized(self, name: str) -> Tensor:
        """f: the weight of a layer, differentiable in its copy and its numbers."""

    def project(self) -> None:
        """Put f of the present copies into the model, and keep its graph for the gradients."""
        with torch.enable_grad():
            self._graphs = {name: self.quantized(name) for name in self.copies}
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self._graphs[name])

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Copies and numbers, without weight decay, and what is not quantized."""
        held = {id(weight) for weight in self.weights.values()}
        rest = [p for p in self.model.parameters() if id(p) not in held and p.requires_grad]
        return [
            {"params": [*self.copies.values(), *self.numbers.values()], "weight_decay": 0.0},
            {"params": rest, "weight_decay": weight_decay},
        ]

    def start_epoch(self) -> None:  # noqa: B027  (nothing to do is what it does)
        """Nothing is kept for an epoch."""

    def transfer_gradients(self) -> None:
        """Gradients of copies and numbers from those at the weights in the model."""
        for name, weight in self.weights.items():
            trained = [self.copies[name]]
            if name in self.numbers:
                trained.append(self.numbers[name])
            gradients: tuple[Tensor | None, ...] = (None,) * len(trained)
            if weight.grad is not None:
                gradients = torch.autograd.grad(self._graphs[name], trained, weight.grad)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            # No optimizer holds these, so none would set them to zero for the next batch.
            weight.grad = None

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """After the optimizer's step: the model's weights from the copies; no look at the batch."""
        self.project()

    def sparsity(self) -> float:
        """Share of the quantized weights that are zero, in [0, 1]."""
        zeros = sum(int((weight == 0).sum()) for weight in self.weights.values())
        return zeros / sum(weight.numel() for weight in self.weights.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Flat: ``model.*``, ``copies.*`` and ``numbers.*``."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "copies": {name: copy.detach() for name, copy in self.copies.items()},
            "numbers": {name: number.detach() for name, number in self.numbers.items()},
        }
        return {f"{part}.{name}": t for part, state in parts.items() for name, t in state.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises
        ------
        ValueError
            If a tensor is missing or has another shape.
        """
        try:
            self.model.load_state_dict(section(state, "model"))
            for part, parameters in (("copies", self.copies), ("numbers", self.numbers)):
                for name, parameter in parameters.items():
                    parameter.copy_(state[f"{part}.{name}"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"the state is not one of this constraint: {error}") from error
        self.project()


def rounded(values: Tensor) -> Tensor:
    """Rounding whose gradient is that of the identity."""
    return values + (values.round() - values).detach()
