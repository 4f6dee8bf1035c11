"""A trainer whose dropout can be resumed, with a bar over the batches of each epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecqx.data.tensors import TensorData
from ecqx.quantizers.base import Quantizer
from ecqx.training.distributed import is_first
from ecqx.training.trainer import Epoch, FitSettings, Trainer


class SeededTrainer(Trainer):
    """Draws dropout anew from the number of the epoch.

    So a training that was interrupted ends as if it had not been.

    Parameters
    ----------
    model : Module
    loaded : TensorData
    settings : FitSettings
    seed : int
    quantizer : Quantizer, optional
    """

    def __init__(
        self,
        model: nn.Module,
        loaded: TensorData,
        settings: FitSettings,
        seed: int,
        quantizer: Quantizer | None,
    ) -> None:
        super().__init__(model, loaded.train, loaded.validation, settings, seed, quantizer)
        self.seed = seed
        self.bar = tqdm(disable=True)

    def run_epoch(self) -> Epoch:
        """Train one epoch."""
        number = len(self.history) + 1
        # Each process drops other units of its own part of a batch.
        rank = 0 if self.replicas is None else self.replicas.rank
        torch.manual_seed(self.seed + number + rank * 1_000_003)
        batches = math.ceil(len(self.train) / self.settings.batch_size)
        total = min(batches, self.settings.max_batches or batches)
        with tqdm(
            total=total,
            unit="batch",
            desc=f"epoch {number} of {self.settings.epochs}",
            leave=False,
            disable=None if is_first() else True,
        ) as self.bar:
            return super().run_epoch()

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One training step on one batch; returns the loss."""
        loss = super().step(x, y)
        self.bar.update()
        return loss
