"""The training loop, with quantization and without."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecqx.data.tensors import Split
from ecqx.errors import InputError
from ecqx.files import write_atomically
from ecqx.modules import copied
from ecqx.training.constraint import Constraint
from ecqx.training.distributed import Replicas, is_first
from ecqx.training.evaluation import evaluate
from ecqx.training.objectives import check_fit, objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch

# Raised by torch.load for a file in another format, or a truncated one.
UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError)


@dataclass
class Epoch:
    """Mean training loss, sparsity and steps of one epoch.

    ``accuracy`` is the task's first metric (`Objective.metrics`) on the validation split.
    """

    loss: float
    accuracy: float
    sparsity: float
    steps: int


class Trainer:
    """Trains a model, quantized or not, and can be stopped and resumed after any epoch.

    With several processes (`ecqx.training.distributed`) each computes on its part of a batch, and
    the first one writes.

    Parameters
    ----------
    model : Module
    train, validation : Split
    settings : FitSettings
    seed : int
        Of the order of the samples, their augmentation, and dropout.
    quantizer : Constraint, optional
        The model's quantizer, or another constraint on its weights; None trains in full precision.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Split,
        validation: Split,
        settings: FitSettings,
        seed: int = 0,
        quantizer: Constraint | None = None,
    ) -> None:
        self.model, self.train, self.validation = model, train, validation
        self.settings, self.quantizer = settings, quantizer
        # What has the state that training changes.
        self.trained: Constraint | nn.Module = quantizer or model
        self.objective = objective_of(train.targets)
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.shows_progress = False
        # Whether the targets are known to fit what the network returns.
        self.fits = False
        self.optimizer = self._build_optimizer()
        self.history: list[Epoch] = []
        # State after the best epoch so far, of equal ones the last.
        self.best: dict[str, Tensor] | None = None
        self.replicas = Replicas(model)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def _build_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        groups: list[dict[str, Any]]
        if self.quantizer is not None:
            groups = self.quantizer.parameter_groups(settings.weight_decay)
        else:
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            groups = [{"params": parameters, "weight_decay": settings.weight_decay}]
        if settings.optimizer == "adam":
            return torch.optim.Adam(groups, lr=settings.lr)
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)

    def fit(
        self,
        progress: bool = False,
        resume: Path | None = None,
        on_epoch: Callable[[Epoch], object] | None = None,
    ) -> list[Epoch]:
        """Train to the end of the settings' epochs; returns one record an epoch.

        The model is left in the state that `FitSettings.selection` names.

        Parameters
        ----------
        progress : bool
            Show a bar over the batches of each epoch, on a terminal.
        resume : Path, optional
            File for the state after each epoch. If it exists, training resumes from it.
        on_epoch : callable, optional
            Called after each epoch, once its state is saved.

        Raises
        ------
        InputError
            If the file of ``resume`` belongs to another training, or ``batch_size`` is 1, which the
            network's BatchNorm cannot be trained on.
        """
        self.shows_progress = progress
        if resume is not None and resume.exists():
            self.load(resume)
        if self.settings.batch_size == 1:
            self._check_single_samples()
        while len(self.history) < self.settings.epochs and not self._has_stalled():
            epoch = self.run_epoch()
            if resume is not None and is_first():
                self.save(resume)
            if on_epoch is not None:
                on_epoch(epoch)
        if self.settings.selection == "best" and self.best is not None:
            self.trained.load_state_dict(self.best)
        return self.history

    def run_epoch(self) -> Epoch:
        """Train one epoch, record it, and keep its state if it is the best so far."""
        self._set_learning_rate()
        self.model.train()
        if self.quantizer is not None:
            self.quantizer.start_epoch()
        # The sum stays on the device: reading it in each step would synchronize with a GPU.
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        samples, steps = 0, 0
        with self._seeded():
            for x, y in self._batches():
                total += self.step(x, y) * len(y)
                samples, steps = samples + len(y), steps + 1
        self.replicas.take_buffers_of_first()
        # A rounding difference must not make the processes keep different epochs.
        accuracy = self.replicas.value_of_first(evaluate(self.model, self.validation))
        sparsity = self.quantizer.sparsity() if self.quantizer is not None else 0.0
        epoch = Epoch(float(total) / max(samples, 1), accuracy, sparsity, steps)
        if accuracy >= max((past.accuracy for past in self.history), default=0.0):
            self.best = {name: tensor.clone() for name, tensor in self.trained.state_dict().items()}
        self.history.append(epoch)
        return epoch

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One training step on one batch; returns the loss before it, a scalar in float64."""
        self.optimizer.zero_grad()
        x, y, weight = self.replicas.share(x, y)
        logits = self.replicas.forward(x)
        if not self.fits:
            check_fit(logits.detach(), y, (self.train.targets, self.validation.targets))
            self.fits = True
        loss = weight * self.objective.loss(logits, y)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.quantizer is not None:
            self.quantizer.transfer_gradients()
        self.optimizer.step()
        if self.quantizer is not None:
            self.quantizer.update(x, y)
        return self.replicas.mean(loss).double()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, with a progress bar."""
        steps = steps_per_epoch(len(self.train), self.settings)
        batches = self.train.batches(self.settings.batch_size, self.generator)
        # A batch left over is drawn before the end is noticed. Its random numbers count: those of
        # the next epoch follow them.
        for batch, _ in tqdm(
            zip(batches, range(steps), strict=False),
            total=steps,
            unit="batch",
            desc=f"epoch {len(self.history) + 1} of {self.settings.epochs}",
            leave=False,
            disable=None if self.shows_progress and is_first() else True,
        ):
            yield batch

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Seed dropout by seed, epoch and process; afterwards torch's generators are restored.

        A resumed training therefore ends like an uninterrupted one.
        """
        # numpy takes no negative seeds.
        entropy = (self.seed % 2**64, len(self.history), self.replicas.rank)
        drawn = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):
            torch.manual_seed(int(drawn[0]))
            yield

    def _check_single_samples(self) -> None:
        """Raise ``InputError`` if the network cannot be trained on one sample at a time."""
        x, _ = next(self.train.batches(1))
        try:
            with self._seeded(), torch.no_grad():
                copied(self.model).train()(x)
        except ValueError as error:
            raise InputError(
                f"batch_size: 1, but BatchNorm needs more samples ({error}); 2 or more would work"
            ) from error

    def _set_learning_rate(self) -> None:
        """Set the epoch's learning rate, from its number alone: there is no state to resume."""
        lr = self.settings.lr
        if self.settings.schedule == "cosine":
            share = len(self.history) / self.settings.epochs
            passed = torch.tensor(share * torch.pi, dtype=torch.float32, device="cpu")
            lr = lr * 0.5 * float(1 + torch.cos(passed))
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _has_stalled(self) -> bool:
        """Whether the last ``patience`` epochs stay below the best before, plus ``min_delta``."""
        patience = self.settings.patience
        if patience is None or len(self.history) <= patience:
            return False
        accuracies = [epoch.accuracy for epoch in self.history]
        return max(accuracies[-patience:]) < max(accuracies[:-patience]) + self.settings.min_delta

    def save(self, path: Path) -> None:
        """Write everything that the remaining epochs depend on."""
        state = {
            "state": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seed": self.seed,
            "generator": self.generator.get_state(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        write_atomically(path, lambda p: torch.save(state, p))

    def load(self, path: Path) -> None:
        """Restore what `save` wrote; ``InputError`` if it is damaged or of another training."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.trained.load_state_dict(state["state"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.seed = state["seed"]
            self.generator.set_state(state["generator"])
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self.best = state["best"]
        except (*UNREADABLE, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged, or the progress of another training; delete it to begin anew"
            ) from error
