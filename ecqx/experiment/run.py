"""From a checkpoint to a small file and its accuracy: train, quantize, encode, decode, evaluate."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecqx.coding import bitstream
from ecqx.experiment import tracking
from ecqx.experiment.kept import Kept
from ecqx.experiment.metadata import metadata_of
from ecqx.experiment.prepare import Prepared, constrain, new_folders_removed, prepare
from ecqx.experiment.remarks import interruption_explained, remark, remark_on_chance
from ecqx.experiment.result import Result
from ecqx.experiment.score import score_file
from ecqx.experiment.settings import RunSettings
from ecqx.files import write_atomically, write_text
from ecqx.modules import copied
from ecqx.progress import announced
from ecqx.quantizers.base import Quantizer
from ecqx.relevance.settings import RelevanceWarning
from ecqx.training.distributed import is_first, wait_for_all
from ecqx.training.evaluation import scores
from ecqx.training.objectives import Scores, objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch
from ecqx.training.trainer import Epoch, Trainer

Say = Callable[[str], None]
# What an interruption ends with.
GOES_ON = "the same command goes on after the last finished epoch"


def run(settings: RunSettings, say: Say) -> Result:
    """Run one experiment and write its model and its record to the folder of results.

    An interrupted experiment resumes after its last finished epoch when it is run again with the
    same settings, data and weights. Of several processes (`ecqx.training.distributed`) the first
    one writes. ``InputError``, before anything is trained or written, if settings, data, network
    and weights are not available or do not fit.
    """
    with ExitStack() as stack:
        for folder in (settings.results, settings.data_path):
            stack.enter_context(new_folders_removed(folder))
        prepared = prepare(settings)
        kept = Kept.of(prepared)
        logs = [stack.enter_context(tracker) for tracker in _trackers(prepared, kept)]
        for line in prepared.remarks:
            remark(line)
        experiment = _Experiment(prepared, kept, logs, say)
        if is_first():
            stack.callback(experiment.unnamed.unlink, missing_ok=True)
        stack.enter_context(interruption_explained(GOES_ON))
        return experiment.measure()


def _trackers(prepared: Prepared, kept: Kept) -> Iterator[AbstractContextManager[tracking.Log]]:
    """The trackers of the settings; none but in the first process."""
    settings, shown = prepared.settings, prepared.settings.result_settings
    if not settings.trackers or not is_first():
        return
    folder = settings.results
    resume = kept.is_progress
    for tracker in settings.trackers:
        if tracker == "wandb":
            yield tracking.wandb(folder, settings.wandb_run_name, settings.wandb_key, shown)
        elif tracker == "dvclive":
            yield tracking.dvclive(folder, settings.name, shown, resume)
        else:
            yield tracking.tensorboard(folder, settings.name, shown, resume)


@dataclass(frozen=True)
class _Experiment:
    """The steps of an experiment, and where their numbers are sent."""

    prepared: Prepared
    kept: Kept
    logs: Sequence[tracking.Log]
    say: Say

    def measure(self) -> Result:
        """Train, encode, decode, evaluate, and write the result."""
        settings, data, model = self.prepared.settings, self.prepared.data, self.prepared.model
        scored = {"start": self._scores()}
        if settings.pretrain_epochs:
            self._pretrain()
            scored["pre-trained"] = self._scores()
        fit = settings.training
        steps = fit.epochs * steps_per_epoch(len(data.train), fit)
        quantizer = constrain(self.prepared.method, model, steps)
        history = self._train("quantized training", fit, quantizer, self.kept.training)
        scored["quantized"] = self._scores()
        file = self._coded(quantizer)
        metric = objective_of(data.test.targets).metric
        scored["decoded file"] = {metric: file["accuracy"], **file["other_metrics"]}
        # ``kept``: why a parameter is not quantized. One dimension is no exclusion.
        excluded = [p.name for p in quantizer.survey if p.kept and p.tensor.ndim > 1]
        remarks = self.prepared.remarks
        advice = "check labels, learning rate and start, or lower --Lambda"
        chance = remark_on_chance(file["accuracy"], data.test, "test", len(data.classes), advice)
        if chance is not None:
            remark(chance)
            remarks += (chance,)
        result = Result(self.prepared, scored, history, excluded, file, remarks)
        self._write(result)
        for log in self.logs:
            log(result.numbers, settings.pretrain_epochs + len(history))
        return result

    @property
    def unnamed(self) -> Path:
        """The coded model until its record is written; without that nobody knows its settings."""
        file = self.prepared.settings.model_file
        return file.with_name(f".{file.name}")

    def _coded(self, quantizer: Quantizer) -> dict[str, Any]:
        """Write the model to a file, and measure the network that is decoded from it."""
        settings, data = self.prepared.settings, self.prepared.data
        if is_first():
            metadata = metadata_of(data, settings.names)
            bitstream.save(self.unnamed, quantizer, progress=True, metadata=metadata)
        wait_for_all()
        decoded, names = copied(self.prepared.model), (settings.exclude, settings.include)
        with announced("evaluating the decoded file"):
            file, _ = score_file(self.unnamed, bitstream.EcqxFile(), decoded, data, *names)
        wait_for_all()
        return file

    def _write(self, result: Result) -> None:
        """Write the record, give the file its name, and forget the progress."""
        settings = self.prepared.settings
        if is_first():
            write_text(settings.record_file, json.dumps(result.record, indent=1) + "\n")
            write_atomically(settings.model_file, lambda p: shutil.copyfile(self.unnamed, p))
            self.kept.forget_progress()

    def _pretrain(self) -> None:
        """Pre-train, or load the network that another run would have to train again."""
        kept, model, phase = self.kept, self.prepared.model, "pre-training"
        if kept.pretrained.exists():
            remark(f"{phase} is not repeated: {kept.pretrained} has its network")
            history = kept.load_pretrained(model)
            # A run that goes on has sent them already.
            for number, epoch in enumerate([] if kept.is_progress else history, 1):
                self._log(phase, epoch, number)
            return
        fit = self.prepared.settings.pretraining
        history = self._train(phase, fit, None, kept.pretraining)
        if is_first():
            kept.save_pretrained(model, history)

    def _train(
        self, phase: str, fit: FitSettings, quantizer: Quantizer | None, progress: Path
    ) -> list[Epoch]:
        """Train, or go on from the file ``progress``, which has the state after each epoch."""
        settings, data = self.prepared.settings, self.prepared.data
        epochs_before = 0 if quantizer is None else settings.pretrain_epochs

        def report(epoch: Epoch) -> None:
            self._log(phase, epoch, epochs_before + len(trainer.history))
            if settings.verbose:
                self.say(
                    f"{phase}, epoch {len(trainer.history)} of {fit.epochs}: "
                    f"loss {epoch.loss:.4f}, {self._metric} {epoch.accuracy:.2%}, "
                    f"sparsity {epoch.sparsity:.2%}"
                )

        if progress.exists():
            remark(f"{phase} goes on after its last finished epoch")
        trainer = Trainer(
            self.prepared.model, data.train, data.validation, fit, settings.seed, quantizer
        )
        with warnings.catch_warnings():
            # One of the remarks says it already.
            warnings.simplefilter("ignore", RelevanceWarning)
            return trainer.fit(progress=True, resume=progress, on_epoch=report)

    def _log(self, phase: str, epoch: Epoch, number: int) -> None:
        """Send the numbers of an epoch, the ``number``-th of all, to the trackers."""
        numbers = {"loss": epoch.loss, self._metric: epoch.accuracy, "sparsity": epoch.sparsity}
        for log in self.logs:
            log({f"{phase}/{name}": value for name, value in numbers.items()}, number)

    @property
    def _metric(self) -> str:
        return f"validation {objective_of(self.prepared.data.train.targets).metric}"

    def _scores(self) -> Scores:
        """All metrics on the test split."""
        with announced("evaluating on the test split"):
            return scores(self.prepared.model, self.prepared.data.test)
