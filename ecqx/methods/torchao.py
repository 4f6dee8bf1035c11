"""torchao's weight-only integers, trained with its fake quantizer, packed and compressed.

torchao (github.com/pytorch/ao), `IntxWeightOnlyConfig` and its quantization-aware training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecqx.coding.tensor_files import write_tensors
from ecqx.methods.interface import OfNamedWeights
from ecqx.quantizers.parameters import shared_lists
from ecqx.quantizers.straight_through import StraightThrough
from ecqx.training.constraint import Constraint


class FakeQuantized(StraightThrough):
    """Weights that torchao's fake quantizer computes from the latent weights, with its gradients.

    `torchao.quantization.qat` itself replaces linear layers only. Its quantizer takes any matrix;
    here each weight is one, with a row for each output, so that convolutions are quantized, too.
    """

    def __init__(
        self,
        model: nn.Module,
        bits: int,
        group: int,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
    ) -> None:
        super().__init__(model, exclude, include)
        # Silences a warning of torch about torchao's own code.
        logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
        from torchao.quantization import PerAxis, PerGroup
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        self.bits, self.group = bits, group
        self._quantizers = {}
        for name, latent in self.latent.items():
            size = group_size(latent, group)
            granularity = PerGroup(size) if size < latent[0].numel() else PerAxis(0)
            dtype = getattr(torch, f"int{bits}")
            config = IntxFakeQuantizeConfig(dtype, granularity=granularity, is_symmetric=True)
            self._quantizers[name] = IntxFakeQuantizer(config)
        self.project()

    def quantized(self, name: str) -> Tensor:
        latent = self.latent[name]
        quantized: Tensor = self._quantizers[name](latent.flatten(1)).view_as(latent)
        return quantized


def group_size(weight: Tensor, group: int) -> int:
    """Weights of a row that share a scale."""
    row = weight[0].numel()
    return group if group and row % group == 0 else row


@dataclass(frozen=True)
class TorchaoWeights(OfNamedWeights):
    """Symmetric integers with a scale a group, two of 4 bit in a byte, then zstd.

    ``bits`` is 4 or 8, ``group`` the number of weights that share a scale, 0 for a row. A row that
    is no multiple of it is one group.
    """

    bits: int
    group: int
    form: ClassVar[str] = "packed_integers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, not {self.bits}")
        if self.group < 0:
            raise ValueError(f"group must be at least 0, not {self.group}")

    def constrain(self, model: nn.Module, steps: int) -> FakeQuantized:
        with shared_lists():
            return FakeQuantized(model, self.bits, self.group, self.exclude, self.include)

    def save(self, path: Path, model: nn.Module, constraint: Constraint | None) -> None:
        """Write torchao's integers and scales of the latent weights, and the rest unchanged."""
        assert isinstance(constraint, FakeQuantized)
        from torchao.quantization import IntxUnpackedToInt8Tensor

        tensors = {}
        for name, tensor in model.state_dict().items():
            if name not in constraint.latent:
                tensors[f"kept.{name}"] = tensor
                continue
            latent = constraint.latent[name].detach()
            size = group_size(latent, self.group)
            integers = IntxUnpackedToInt8Tensor.from_hp(
                latent.flatten(1), (1, size), getattr(torch, f"int{self.bits}")
            )
            tensors[f"integers.{name}"] = integers.qdata
            tensors[f"scale.{name}"] = integers.scale
            tensors[f"shape.{name}"] = torch.tensor(tensor.shape, device="cpu")
        write_tensors(path, tensors)

    def form_settings(self) -> dict[str, Any]:
        return {"bits": self.bits}
