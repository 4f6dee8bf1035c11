"""From a checkpoint to a small file and its accuracy: train, quantize, encode, decode, evaluate."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from ecqx.coding import bitstream
from ecqx.coding.ecqx_file import EcqxFile
from ecqx.data.tensors import SPLITS
from ecqx.experiment import tracking
from ecqx.experiment.prepare import Prepared, constrain, new_folders_removed, prepare
from ecqx.experiment.result import Result
from ecqx.experiment.score import score_file
from ecqx.experiment.settings import EXCLUDED, RunSettings
from ecqx.files import write_text
from ecqx.modules import copied
from ecqx.progress import announced
from ecqx.quantizers.base import Quantizer
from ecqx.relevance.settings import RelevanceWarning
from ecqx.training.distributed import is_first, wait_for_all
from ecqx.training.evaluation import scores
from ecqx.training.objectives import Scores, objective_of
from ecqx.training.settings import FitSettings, steps_per_epoch
from ecqx.training.trainer import Epoch, Trainer
from ecqx.version import __version__

Say = Callable[[str], None]


def run(settings: RunSettings, say: Say, warn: Say) -> Result:
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
        logs = [stack.enter_context(tracker) for tracker in _trackers(prepared)]
        for remark in prepared.remarks:
            warn(remark)
        return _Experiment(prepared, logs, say, warn).measure()


def _trackers(prepared: Prepared) -> Iterator[AbstractContextManager[tracking.Log]]:
    """The trackers of the settings; none but in the first process."""
    settings, shown = prepared.settings, prepared.settings.result_settings
    if not settings.trackers or not is_first():
        return
    folder = settings.results
    resume = any(file.exists() for file in _progress_files(prepared))
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
    logs: Sequence[tracking.Log]
    say: Say
    warn: Say

    def measure(self) -> Result:
        """Train, encode, decode, evaluate, and write the result."""
        settings, data, model = self.prepared.settings, self.prepared.data, self.prepared.model
        before, during = _progress_files(self.prepared)
        scored = {"start": self._scores()}
        if settings.pretrain_epochs:
            self._train("pre-training", settings.pretraining, None, before)
            scored["pre-trained"] = self._scores()
        fit = settings.training
        steps = fit.epochs * steps_per_epoch(len(data.train), fit)
        quantizer = constrain(self.prepared.method, model, steps)
        history = self._train("quantized training", fit, quantizer, during)
        scored["quantized"] = self._scores()
        if is_first():
            bitstream.save(settings.model_file, quantizer, progress=True)
        wait_for_all()
        decoded = copied(model)
        with announced("evaluating the decoded file"):
            file = score_file(settings.model_file, EcqxFile(), decoded, data, EXCLUDED)
        metric = objective_of(data.test.targets).metric
        scored["decoded file"] = {metric: file["accuracy"], **file["other_metrics"]}
        # ``kept``: why a parameter is not quantized. One dimension is no exclusion.
        excluded = [p.name for p in quantizer.survey if p.kept and p.tensor.ndim > 1]
        result = Result(self.prepared, scored, history, excluded, file)
        if is_first():
            write_text(settings.record_file, json.dumps(result.record, indent=1) + "\n")
            for progress in (before, during):
                progress.unlink(missing_ok=True)
        for log in self.logs:
            log(result.numbers, settings.pretrain_epochs + len(history))
        return result

    def _train(
        self, phase: str, fit: FitSettings, quantizer: Quantizer | None, progress: Path
    ) -> list[Epoch]:
        """Train, or go on from the file ``progress``, which has the state after each epoch."""
        settings, data = self.prepared.settings, self.prepared.data
        epochs_before = 0 if quantizer is None else settings.pretrain_epochs
        metric = f"validation {objective_of(data.train.targets).metric}"

        def report(epoch: Epoch) -> None:
            numbers = {"loss": epoch.loss, metric: epoch.accuracy, "sparsity": epoch.sparsity}
            named = {f"{phase}/{name}": value for name, value in numbers.items()}
            for log in self.logs:
                log(named, epochs_before + len(trainer.history))
            if settings.verbose:
                self.say(
                    f"{phase}, epoch {len(trainer.history)} of {fit.epochs}: "
                    f"loss {epoch.loss:.4f}, {metric} {epoch.accuracy:.2%}, "
                    f"sparsity {epoch.sparsity:.2%}"
                )

        if progress.exists():
            self.warn(f"{phase} goes on after its last finished epoch")
        trainer = Trainer(
            self.prepared.model, data.train, data.validation, fit, settings.seed, quantizer
        )
        with warnings.catch_warnings():
            # One of the remarks says it already.
            warnings.simplefilter("ignore", RelevanceWarning)
            return trainer.fit(progress=True, resume=progress, on_epoch=report)

    def _scores(self) -> Scores:
        """All metrics on the test split."""
        with announced("evaluating on the test split"):
            return scores(self.prepared.model, self.prepared.data.test)


def _progress_files(prepared: Prepared) -> list[Path]:
    """Files for the state of pre-training and training, named by a hash of what these depend on.

    That includes the weights to start from: call it before training.
    """
    settings = prepared.settings.result_settings | {"device": prepared.device.type}
    digest = hashlib.sha256(json.dumps([__version__, settings]).encode())
    splits = [getattr(prepared.data, split) for split in SPLITS]
    tensors = [tensor for split in splits for tensor in (split.inputs, split.targets)]
    for tensor in (*tensors, *prepared.model.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    start = f".{prepared.settings.name}.{digest.hexdigest()[:16]}"
    folder = prepared.settings.results
    return [folder / f"{start}.{phase}.pt" for phase in ("pre-training", "training")]
