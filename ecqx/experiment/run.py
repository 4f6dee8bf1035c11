"""From a checkpoint to a small file and its accuracy: train, quantize, encode, decode, evaluate."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ecqx.coding import bitstream
from ecqx.coding.ecqx_file import EcqxFile
from ecqx.data.tensors import SPLITS
from ecqx.experiment.places import new_folders_removed
from ecqx.experiment.prepare import Prepared, prepare, split_weights
from ecqx.experiment.result import Result, encoded_model, record_file, result_settings
from ecqx.experiment.score import score_file
from ecqx.experiment.settings import EXCLUDED, RunSettings
from ecqx.experiment.tracking import (
    DvcLiveTracker,
    TensorBoardTracker,
    Tracker,
    Trackers,
    WandbTracker,
)
from ecqx.files import write_text
from ecqx.progress import sign
from ecqx.quantizers.base import Quantizer
from ecqx.training.distributed import is_first, wait_for_all
from ecqx.training.evaluation import scores
from ecqx.training.objectives import Scores, objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch
from ecqx.training.trainer import Epoch, Trainer
from ecqx.version import __version__

Say = Callable[[str], None]


def run(settings: RunSettings, say: Say, warn: Say) -> Result:
    """Run one experiment; its model and its numbers are written to the folder of results.

    An experiment that was interrupted goes on after its last finished epoch when it is run again
    with the same settings, data and weights. Of several processes (`ecqx.training.distributed`)
    the first one writes.

    Parameters
    ----------
    settings : RunSettings
    say, warn : callable
        Take single lines: the course of the training, and what a person should know.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        Before anything is trained or written, if settings, data, network and weights are not
        available or do not fit.
    """
    with new_folders_removed(settings.results), new_folders_removed(settings.data_path):
        prepared = prepare(settings)
        experiment = _Experiment(prepared, _trackers(prepared), say, warn)
        try:
            for remark in prepared.remarks:
                warn(remark)
            return experiment.measure()
        finally:
            experiment.tracker.finish()


def _trackers(prepared: Prepared) -> Tracker:
    settings, shown = prepared.settings, result_settings(prepared.settings)
    if not settings.trackers or not is_first():
        return Trackers()
    resume = any(file.exists() for file in _progress_files(prepared))
    folder, name = settings.results, settings.name
    build: dict[str, Callable[[], Tracker]] = {
        "dvclive": lambda: DvcLiveTracker(folder, name, shown, resume),
        "tensorboard": lambda: TensorBoardTracker(folder, name, shown, resume),
        "wandb": lambda: WandbTracker(folder, settings.wandb_run_name, settings.wandb_key, shown),
    }
    return Trackers([build[name]() for name in settings.trackers])


@dataclass(frozen=True)
class _Experiment:
    """The course of an experiment, and where it is reported."""

    prepared: Prepared
    tracker: Tracker
    say: Say
    warn: Say

    def measure(self) -> Result:
        """Train, encode, decode, evaluate, and write what came of it."""
        settings, model = self.prepared.settings, self.prepared.model
        before, during = _progress_files(self.prepared)
        scored = {"start": self._scores(model)}
        if settings.pretrain_epochs:
            self._train("pre-training", settings.pretraining, None, before)
            scored["pre-trained"] = self._scores(model)
        fit = settings.training
        steps = fit.epochs * steps_per_epoch(len(self.prepared.loaded.train), fit)
        quantizer = self.prepared.method.constrain(model, steps)
        history = self._train("quantized training", fit, quantizer, during)
        epochs = settings.pretrain_epochs + len(history)
        scored["quantized"] = self._scores(model)
        if is_first():
            bitstream.save(encoded_model(settings), quantizer, progress=True)
        wait_for_all()
        file = self._score_file()
        scored["decoded file"] = {
            objective_of(self.prepared.loaded.test.targets).metric: file["accuracy"],
            **file["other_metrics"],
        }
        result = self._result(history, scored, file)
        if is_first():
            write_text(record_file(settings), json.dumps(result.record, indent=1) + "\n")
            for progress in (before, during):
                progress.unlink(missing_ok=True)
        self.tracker.log(result.numbers, epochs)
        return result

    def _train(
        self, phase: str, fit: FitSettings, quantizer: Quantizer | None, progress: Path
    ) -> list[Epoch]:
        """Train, or finish a training that was interrupted."""
        settings, loaded = self.prepared.settings, self.prepared.loaded
        epochs_before = 0 if quantizer is None else settings.pretrain_epochs
        metric = f"validation {objective_of(loaded.train.targets).metric}"

        def report(epoch: Epoch) -> None:
            numbers = {"loss": epoch.loss, metric: epoch.accuracy, "sparsity": epoch.sparsity}
            named = {f"{phase}/{name}": value for name, value in numbers.items()}
            self.tracker.log(named, epochs_before + len(trainer.history))
            if settings.verbose:
                self.say(
                    f"{phase}, epoch {len(trainer.history)} of {fit.epochs}: "
                    f"loss {epoch.loss:.4f}, {metric} {epoch.accuracy:.2%}, "
                    f"sparsity {epoch.sparsity:.2%}"
                )

        if progress.exists():
            self.warn(f"{phase} goes on after its last finished epoch")
        trainer = Trainer(
            self.prepared.model, loaded.train, loaded.validation, fit, settings.seed, quantizer
        )
        return trainer.fit(progress=True, resume=progress, on_epoch=report)

    def _scores(self, model: nn.Module) -> Scores:
        """All metrics on the test split."""
        with sign("evaluating on the test split"):
            return scores(model, self.prepared.loaded.test)

    def _score_file(self) -> dict[str, Any]:
        """Measures of the model that the file holds."""
        prepared = self.prepared
        path, decoded = encoded_model(prepared.settings), copy.deepcopy(prepared.model)
        with sign("evaluating the decoded file"):
            return score_file(path, EcqxFile(), decoded, prepared.loaded, EXCLUDED)

    def _result(
        self, history: list[Epoch], scored: dict[str, Scores], file: dict[str, Any]
    ) -> Result:
        prepared = self.prepared
        return Result(
            settings=prepared.settings,
            fit=prepared.settings.training,
            device=prepared.device.type,
            start=prepared.start,
            data=prepared.loaded.label,
            samples={split: len(getattr(prepared.loaded, split)) for split in SPLITS},
            scores=scored,
            history=history,
            kept=split_weights(prepared.model)[1],
            sparsity=file["sparsity"],
            entropy=file["entropy_bits_per_weight"],
            size=file["bytes"],
            compression_ratio=file["compression_ratio"],
        )


def _progress_files(prepared: Prepared) -> list[Path]:
    """Files for the progress of both trainings, named after all that these depend on."""
    settings = result_settings(prepared.settings) | {"device": prepared.device.type}
    known = [__version__, settings]
    digest = hashlib.sha256(json.dumps(known).encode())
    splits = [getattr(prepared.loaded, split) for split in SPLITS]
    tensors = [tensor for split in splits for tensor in (split.inputs, split.targets)]
    for tensor in (*tensors, *prepared.model.state_dict().values()):
        digest.update(_content(tensor))
    start = f".{prepared.settings.name}.{digest.hexdigest()[:16]}"
    folder = prepared.settings.results
    return [folder / f"{start}.{phase}.pt" for phase in ("pre-training", "training")]


def _content(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().numpy().data
