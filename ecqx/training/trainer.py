"""Fit and evaluate loops, with quantization and without."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ecqx.data.tensors import Split
from ecqx.errors import InputError
from ecqx.files import write_atomically
from ecqx.modules import evaluation_mode, main_output
from ecqx.quantizers.base import Quantizer
from ecqx.training.distributed import Replicas, is_connected, is_first
from ecqx.training.objectives import Scores, objective_of

# What torch.load raises on a file that is none of its own, or is cut off.
UNREADABLE = (RuntimeError, EOFError, OSError, pickle.UnpicklingError)
# What the inputs of one batch of an evaluation may hold, in elements.
EVALUATED_AT_ONCE = 2**24


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Attributes
    ----------
    epochs : int
        At least 0.
    lr : float
        Initial learning rate.
    batch_size : int
    optimizer : {"adam", "sgd"}
        SGD has momentum 0.9.
    schedule : {"constant", "cosine"}
        Of the learning rate, per epoch.
    weight_decay : float
        On the parameters that are not quantized.
    max_batches : int, optional
        Batches per epoch at most.
    patience : int, optional
        End when validation accuracy has not risen by ``min_delta`` for this many epochs.
    min_delta : float
        Fraction of one.
    selection : {"best", "last"}
        Epoch whose state is kept: the best on the validation split (the later of equal ones, since
        sparsity has had more time to settle), or the last.
    """

    epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.0
    max_batches: int | None = None
    patience: int | None = None
    min_delta: float = 0.001
    selection: Literal["best", "last"] = "best"


@dataclass
class Epoch:
    """What one epoch gave: mean training loss, accuracy on the validation split, sparsity."""

    loss: float
    accuracy: float
    sparsity: float
    steps: int


class Constraint(Protocol):
    """What holds a model's weights to a form while it is trained: a quantizer, a baseline."""

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer; decay for what is not constrained."""

    def start_epoch(self) -> None:
        """Called before the first batch of each epoch."""

    def transfer_gradients(self) -> None:
        """Called between the backward pass and the optimizer's step."""

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Called with the batch after the optimizer's step."""

    def sparsity(self) -> float:
        """Share of constrained weights that are zero, in [0, 1]."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, the model's own state included."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave; ``ValueError`` if it is another one's."""


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> float:
    """The metric that the split's targets ask for: of `scores`, the first.

    Parameters
    ----------
    model : Module
        Evaluated in eval mode, its modules' modes are restored.
    split : Split
    batch_size : int
        At most; images that are large go through in smaller batches.

    Returns
    -------
    float
        Fraction of one.
    """
    return scores(model, split, batch_size)[objective_of(split.targets).metric]


@torch.no_grad()
def scores(model: nn.Module, split: Split, batch_size: int = 512) -> Scores:
    """All metrics that the split's targets ask for, by name; parameters as for `evaluate`."""
    elements = split.inputs[0].numel()
    batches = split.batches(max(1, min(batch_size, EVALUATED_AT_ONCE // elements)))
    with evaluation_mode(model):
        return objective_of(split.targets).score((main_output(model(x)), y) for x, y in batches)


class Trainer:
    """Trains a model, quantized or not, and can be stopped and resumed at any epoch.

    Parameters
    ----------
    model : Module
    train, validation : Split
    settings : FitSettings
    seed : int
        Of the order of the samples.
    quantizer : Constraint, optional
        The model's quantizer, or another constraint on its weights; None trains in full precision.

    Notes
    -----
    Among several processes (`ecqx.training.distributed`) each computes on its part of a batch, and
    the first one writes.
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
        self.objective = objective_of(train.targets)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = self._build_optimizer()
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        relevant = quantizer if isinstance(quantizer, Quantizer) else None
        self.replicas = Replicas(model, relevant) if is_connected() else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
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
        """Train to the end of the settings' epochs.

        Parameters
        ----------
        progress : bool
            Show a progress bar (silent where the output is no terminal).
        resume : Path, optional
            File that holds the state after each epoch. If it exists, training goes on from there.
        on_epoch : callable, optional
            Told each epoch that was trained, after its state was saved.

        Returns
        -------
        list of Epoch
            One record an epoch; the model is left in the state that `FitSettings.selection` asks
            for.
        """
        if resume is not None and resume.exists():
            self.load(resume)
        bar = tqdm(
            total=self.settings.epochs,
            initial=len(self.history),
            unit="epoch",
            disable=None if progress else True,
        )
        while len(self.history) < self.settings.epochs and not self._has_stalled():
            epoch = self.run_epoch()
            bar.update()
            bar.set_postfix(accuracy=f"{epoch.accuracy:.2%}", sparsity=f"{epoch.sparsity:.1%}")
            if resume is not None and is_first():
                self.save(resume)
            if on_epoch is not None:
                on_epoch(epoch)
        bar.close()
        if self.settings.selection == "best" and self.best is not None:
            self._restore(self.best)
        return self.history

    def run_epoch(self) -> Epoch:
        """Train one epoch, record it, and remember its state if it is the best so far."""
        self._set_learning_rate()
        self.model.train()
        if self.quantizer is not None:
            self.quantizer.start_epoch()
        # The sum stays on the device: to ask it for a number in each step would wait for it.
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        samples, steps = 0, 0
        for x, y in self.train.batches(self.settings.batch_size, self.generator):
            if steps == self.settings.max_batches:
                break
            if len(y) == 1 and steps:
                break  # BatchNorm cannot be trained on the one sample that is left over
            total += self.step(x, y) * len(y)
            samples, steps = samples + len(y), steps + 1
        if self.replicas is not None:
            self.replicas.take_buffers_of_the_first()
        accuracy = evaluate(self.model, self.validation)
        if self.replicas is not None:
            # What one process would find a hair better must not part it from the others.
            accuracy = self.replicas.that_of_the_first(accuracy)
        sparsity = self.quantizer.sparsity() if self.quantizer is not None else 0.0
        epoch = Epoch(float(total) / max(samples, 1), accuracy, sparsity, steps)
        if accuracy >= max((past.accuracy for past in self.history), default=0.0):
            self.best = {name: tensor.clone() for name, tensor in self._state().items()}
        self.history.append(epoch)
        return epoch

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One training step on one batch; returns the loss, a scalar in float64."""
        self.optimizer.zero_grad()
        if self.replicas is None:
            loss = self.objective.loss(main_output(self.model(x)), y)
        else:
            x, y, weight = self.replicas.share(x, y)
            loss = weight * self.objective.loss(self.replicas.forward(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.quantizer is not None:
            self.quantizer.transfer_gradients()
        self.optimizer.step()
        if self.quantizer is not None:
            self.quantizer.update(x, y)
        return (loss.detach() if self.replicas is None else self.replicas.mean(loss)).double()

    def _set_learning_rate(self) -> None:
        settings = self.settings
        lr = settings.lr
        if settings.schedule == "cosine":
            passed = torch.tensor(len(self.history) / settings.epochs * torch.pi)
            lr = settings.lr * 0.5 * float(1 + torch.cos(passed))
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _has_stalled(self) -> bool:
        patience = self.settings.patience
        if patience is None or len(self.history) <= patience:
            return False
        accuracies = [epoch.accuracy for epoch in self.history]
        return max(accuracies[-patience:]) < max(accuracies[:-patience]) + self.settings.min_delta

    def _state(self) -> dict[str, Tensor]:
        return (self.quantizer or self.model).state_dict()

    def _restore(self, state: dict[str, Tensor]) -> None:
        (self.quantizer or self.model).load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write everything that the remaining epochs depend on."""
        state = {
            "state": self._state(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        write_atomically(path, lambda p: torch.save(state, p))

    def load(self, path: Path) -> None:
        """Restore what `save` wrote.

        Raises
        ------
        InputError
            If the file is damaged or not of this training.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._restore(state["state"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            self.history = [Epoch(**epoch) for epoch in state["history"]]
            self.best = state["best"]
        except (*UNREADABLE, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged, or the progress of another training; delete it to begin anew"
            ) from error
