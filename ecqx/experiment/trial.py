"""One trial of a search: a quantized training, its file, and what that loses on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ecqx.coding import bitstream
from ecqx.data.tensors import Split, TensorData
from ecqx.experiment.prepare import constrain
from ecqx.experiment.search_settings import SearchSettings
from ecqx.methods.ecq import EntropyConstrained
from ecqx.methods.registry import build_method, method_class
from ecqx.modules import copied
from ecqx.training.evaluation import scores_and_correct
from ecqx.training.settings import steps_per_epoch
from ecqx.training.trainer import Epoch, Trainer

# The state after each epoch, until the file is written.
PROGRESS = "epoch.pt"
CONFIDENCE = 0.95
RESAMPLES = 10_000


def run_trial(
    path: Path,
    network: nn.Module,
    data: TensorData,
    setting: Mapping[str, Any],
    settings: SearchSettings,
    metadata: Mapping[str, Any],
    on_epoch: Callable[[Sequence[Epoch]], object],
) -> tuple[dict[str, Any], list[Epoch]]:
    """Quantize a full-precision network by one setting, and write the file.

    An interrupted training is resumed from the file's folder.

    Parameters
    ----------
    path : Path
        Of the file.
    network : Module
        On the device of the data; it is not changed.
    setting : mapping
        ``method``, ``lam``, ``lr`` and, where these are a setting, ``bits``.
    metadata : mapping
        Of the file.
    on_epoch : callable
        Called with all epochs so far after each; what it raises ends the training.

    Returns
    -------
    result : dict
        ``bytes``, ``accuracy_validation`` (of the network decoded from the file), ``drop`` and
        ``bound`` as of `drop_with_bound`, ``sparsity`` and ``epochs``.
    history : list of Epoch
    """
    model = copied(network)
    fit = settings.training(setting["lr"])
    steps = fit.epochs * steps_per_epoch(len(data.train), fit)
    quantizer = constrain(method_of(setting, settings), model, steps)
    trainer = Trainer(model, data.train, data.validation, fit, settings.seed, quantizer)
    trainer.fit(
        progress=True,
        resume=path.with_name(PROGRESS),
        on_epoch=lambda _: on_epoch(trainer.history),
    )
    size = bitstream.save(path, quantizer, metadata=metadata)
    decoded = copied(network)
    decoded.load_state_dict(bitstream.load(path))
    before, after = (classified_correctly(one, data.validation) for one in (network, decoded))
    result = {
        "bytes": size.total,
        "accuracy_validation": float(after.mean()),
        **drop_with_bound(before, after),
        "sparsity": quantizer.sparsity(),
        "epochs": len(trainer.history),
    }
    return result, trainer.history


def method_of(setting: Mapping[str, Any], settings: SearchSettings) -> EntropyConstrained:
    """The method of a trial's setting; ``ValueError`` if one is out of range."""
    name = setting["method"]
    takes = method_class(name).takes()
    given = {"p": settings.p, "exclude": settings.exclude, "include": settings.include, **setting}
    method = build_method(name, {key: value for key, value in given.items() if key in takes})
    assert isinstance(method, EntropyConstrained)
    return method


def classified_correctly(model: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Whether each sample of a split that has a label is classified correctly, shape (N,)."""
    _, correct = scores_and_correct(model, split)
    assert correct is not None
    found: NDArray[np.bool_] = correct.numpy()
    return found


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
