"""Weights ``k * step`` with straight-through training, as LSQ and pruning have them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from ecqx.coding.quantized import Quantized, QuantizedTensor
from ecqx.quantizers.straight_through import StraightThrough


class IntegerWeights(StraightThrough):
    """Weights on an equidistant grid, which `ecqx.save` codes with NNCodec's engine as ECQ's."""

    bits: int

    @abstractmethod
    def step(self, name: str) -> Tensor:
        """Distance of neighbouring centroids of a layer, float32, without gradient."""

    @torch.no_grad()
    def coded_state(self) -> tuple[Mapping[str, Tensor], Mapping[str, Quantized]]:
        """What `ecqx.save` writes: the model's state_dict, and which tensors are integers."""
        coded: dict[str, Quantized] = {}
        for name, weight in self.weights.items():
            step = self.step(name)
            integers = (weight.to(step.dtype) / step).round().to(torch.int16)
            coded[name] = QuantizedTensor(integers, float(step), self.bits)
        return self.model.state_dict(), self._by_every_name(coded)
