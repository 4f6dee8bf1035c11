"""A task: a network on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecqx.data.tensors import TensorData
from ecqx.models.networks import build


@dataclass(frozen=True)
class Task:
    """A network (arguments of `ecqx.models.build`) on a data set (a file of `TensorData`).

    Each pixel is repeated ``enlarge`` times in both directions.
    """

    network: Mapping[str, Any]
    data: Path
    enlarge: int = 1

    def build(self, seed: int = 0) -> nn.Module:
        """The network with random weights drawn from ``seed``."""
        torch.manual_seed(seed)
        return build(**self.network)

    def load_data(self, device: torch.device) -> TensorData:
        """The enlarged data, on the device."""
        return TensorData.load(self.data).enlarged(self.enlarge).to(device)
