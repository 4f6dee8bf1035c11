"""A trainer that tells how it goes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecqx.data import TensorData
from ecqx.quantizer import ECQx
from ecqx.training import Epoch, FitSettings, Trainer

Report = Callable[[int, Epoch], None]


class ReportingTrainer(Trainer):
    """Reports each epoch, and draws dropout anew from the number of the epoch.

    So a training that was interrupted ends as if it had not been.

    Parameters
    ----------
    model : Module
    loaded : TensorData
    settings : FitSettings
    seed : int
    quantizer : ECQx, optional
    report : callable
        Takes the number of an epoch, from one, and its record.
    progress : bool
        Show a bar over the batches of an epoch (silent where the output is no terminal).
    """

    def __init__(
        self,
        model: nn.Module,
        loaded: TensorData,
        settings: FitSettings,
        seed: int,
        quantizer: ECQx | None,
        report: Report,
        progress: bool,
    ) -> None:
        super().__init__(model, loaded.train, loaded.validation, settings, seed, quantizer)
        self.seed, self.report = seed, report
        self.hidden = None if progress else True
        self.bar = tqdm(disable=True)

    def run_epoch(self) -> Epoch:
        """Train one epoch and report it."""
        number = len(self.history) + 1
        torch.manual_seed(self.seed + number)
        batches = math.ceil(len(self.train) / self.settings.batch_size)
        total = min(batches, self.settings.max_batches or batches)
        with tqdm(
            total=total, unit="batch", desc=f"epoch {number}", leave=False, disable=self.hidden
        ) as self.bar:
            epoch = super().run_epoch()
        self.report(number, epoch)
        return epoch

    def step(self, x: Tensor, y: Tensor) -> float:
        """One training step on one batch; returns the loss."""
        loss = super().step(x, y)
        self.bar.update()
        return loss
