"""One trial of a search: a quantized training, its file, and what that loses on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecqx.coding import bitstream
from ecqx.data.tensors import Split, TensorData
from ecqx.experiment.prepare import constrain
from ecqx.experiment.search_settings import SearchSettings
from ecqx.labels import is_labelled
from ecqx.methods.ecq import EntropyConstrained
from ecqx.methods.registry import build_method, method_class
from ecqx.modules import copied, evaluation_mode, main_output
from ecqx.training.evaluation import batches_to_evaluate
from ecqx.training.settings import steps_per_epoch
from ecqx.training.trainer import Epoch, Trainer

FILE = "network.ecqx"
CONFIDENCE = 0.95
RESAMPLES = 10_000
# Finished trials that hopeless ones are known by, at least.
ENOUGH = 5


@dataclass(frozen=True)
class Trial:
    """A job (`ecqx.experiment.jobs.Job`): quantize a full-precision network by one setting.

    Attributes
    ----------
    network : Module
        In full precision, on the device of the data; it is not changed.
    correct : ndarray of bool
        Which validation samples it classifies correctly.
    setting : mapping
        ``method``, ``lam``, ``lr`` and, where these are a setting, ``bits``.
    on_epoch : callable
        Called with all epochs so far after each; what it raises ends the training.
    """

    network: nn.Module
    data: TensorData
    correct: NDArray[np.bool_]
    setting: Mapping[str, Any]
    settings: SearchSettings
    key: str
    on_epoch: Callable[[Sequence[Epoch]], None]

    def run(self, folder: Path, progress: Path) -> dict[str, Any]:
        """Train, write the file, and compare the network decoded from it sample by sample."""
        model, data = copied(self.network), self.data
        fit = self.settings.training(self.setting["lr"])
        steps = fit.epochs * steps_per_epoch(len(data.train), fit)
        quantizer = constrain(method_of(self.setting, self.settings), model, steps)
        seed = self.settings.seed
        trainer = Trainer(model, data.train, data.validation, fit, seed, quantizer)
        history = trainer.fit(
            progress=True, resume=progress, on_epoch=lambda _: self.on_epoch(trainer.history)
        )
        bitstream.save(folder / FILE, quantizer)
        decoded = copied(self.network)
        decoded.load_state_dict(bitstream.load(folder / FILE))
        correct = classified_correctly(decoded, self.data.validation)
        return {
            "setting": dict(self.setting),
            "bytes": (folder / FILE).stat().st_size,
            "accuracy_validation": float(correct.mean()),
            **drop_with_bound(self.correct, correct),
            "sparsity": quantizer.sparsity(),
            "history": [asdict(epoch) for epoch in history],
        }


def method_of(setting: Mapping[str, Any], settings: SearchSettings) -> EntropyConstrained:
    """The method of a trial's setting; ``ValueError`` if one is out of range."""
    name = setting["method"]
    takes = method_class(name).takes()
    given = {"p": settings.p, "exclude": settings.exclude, "include": settings.include, **setting}
    method = build_method(name, {key: value for key, value in given.items() if key in takes})
    assert isinstance(method, EntropyConstrained)
    return method


@torch.no_grad()
def classified_correctly(model: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Whether each sample of a split that has a label is classified correctly, shape (N,)."""
    found = []
    with evaluation_mode(model):
        for x, y in batches_to_evaluate(split):
            logits = main_output(model(x))
            found.append((logits.argmax(1) == y)[is_labelled(y, logits.shape[1])])
    correct: NDArray[np.bool_] = torch.cat(found).cpu().numpy()
    return correct


def drop_with_bound(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, float]:
    """How much accuracy is lost, and the upper bound of the loss, in points.

    The bound is the 95th percentile of a paired bootstrap: the loss when as many samples are drawn
    with replacement, each with what it is before and after. Only how many samples are lost and won
    counts, so that drawing samples is drawing from a multinomial distribution.

    Parameters
    ----------
    before, after : ndarray of bool, shape (N,)
        Whether each sample is classified correctly, in full precision and by the file.
    """
    n = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    shares = np.array([lost, won, n - lost - won]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, RESAMPLES)
    losses = (drawn[:, 0] - drawn[:, 1]) * (100 / n)
    # The percentile is one of the losses that occur, not a number between two of them.
    bound = float(np.quantile(losses, CONFIDENCE, method="higher"))
    return {"drop": 100 * (lost - won) / n, "bound": bound}


def losses_by_epoch(history: Sequence[Epoch], accuracy: float) -> list[float]:
    """The smallest loss of validation accuracy up to each epoch, in points."""
    losses, least = [], float("inf")
    for epoch in history:
        least = min(least, 100 * (accuracy - epoch.accuracy))
        losses.append(least)
    return losses


def is_hopeless(
    losses: Sequence[float], finished: Sequence[Mapping[int, float]], max_drop: float
) -> bool:
    """Whether a trial will lose more than allowed, even if it gains as much as others did.

    That is the largest gain that any finished trial made from this epoch on, in points.

    Parameters
    ----------
    losses : sequence of float
        `losses_by_epoch` of the trial so far.
    finished : sequence of mapping
        Those of the finished trials, by epoch from 0.
    """
    if len(finished) < ENOUGH:
        return False
    last = len(losses) - 1
    # A training may have ended before this epoch.
    gains = [one[min(last, max(one))] - one[max(one)] for one in finished]
    return losses[last] - max(gains) > max_drop
