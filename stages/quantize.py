"""Third stage: the trainings of all runs, ``python -m stages.quantize SUITE``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecqx.experiment.jobs import read_record, run_jobs
from ecqx.experiment.train import RESULT, Training
from ecqx.files import link_or_copy, write_text
from stages import paths
from stages.command import run_command_line, suite_of
from stages.manifests import REFERENCE
from stages.settings.base import load
from stages.settings.quantize import QuantizeSettings
from stages.sweeps import Run, all_runs
from stages.tasks import task_of
from stages.trainings import FULL_PRECISION, cost_of, fingerprint, training_of


def main(arguments: Sequence[str]) -> int:
    """Write quantized/SUITE/TRAINING_ID.safetensors and runs.json."""
    suite = suite_of(arguments)
    settings = load(suite, QuantizeSettings)
    runs = all_runs(settings.quantize, settings.tasks, settings.seeds)
    codes = fingerprint(suite, "quantize")
    trainings: dict[str, Training] = {}
    for run in runs:
        if run.training_id not in trainings:
            trainings[run.training_id] = _training(suite, settings, run, codes)
    longest_first = sorted(trainings.values(), key=_expected_cost, reverse=True)
    folders = run_jobs("quantize", suite, longest_first)
    costs = _costs(suite, runs, trainings, codes["costs"])
    _collect(suite, runs, {name: folders[job.key] for name, job in trainings.items()}, costs)
    return 0


def _training(
    suite: str, settings: QuantizeSettings, run: Run, codes: Mapping[str, Any]
) -> Training:
    is_trained = run.training is not None
    return training_of(
        task_of(suite, settings.tasks[run.task]),
        run.fit,
        run.seed,
        paths.checkpoint(suite, run.task, run.seed),
        settings.device,
        codes["methods"][run.method_name if is_trained else FULL_PRECISION],
        run.training,
        run.method_name if is_trained else REFERENCE,
    )


def _expected_cost(training: Training) -> tuple[bool, bool]:
    """Long trainings come first, so that no process waits long for the last one."""
    settings = {} if training.method is None else training.method.settings()
    return "composite" in settings, training.task.network["name"] != "mlp_gsc"


def _costs(
    suite: str, runs: Sequence[Run], trainings: Mapping[str, Training], codes: Mapping[str, str]
) -> dict[str, float]:
    """Work of a training step over that of a step in full precision, by training."""
    jobs = {
        run.training_id: cost_of(
            trainings[run.training_id], codes[run.method_name], run.method_name
        )
        for run in runs
        if run.training is not None
    }
    folders = run_jobs("cost", suite, list(jobs.values()))
    counted = {name: read_record(folders[job.key])["cost"] for name, job in jobs.items()}
    return dict.fromkeys(trainings, 1.0) | counted


def _collect(
    suite: str,
    runs: Sequence[Run],
    folders: Mapping[str, Path],
    costs: Mapping[str, float],
) -> None:
    """Put the results of all trainings, and the runs that need them, into the stage's output."""
    out = paths.quantized(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for training_id, folder in folders.items():
        link_or_copy(folder / RESULT, paths.trained(suite, training_id))
    records = [
        run.record | read_record(folders[run.training_id]) | {"cost": costs[run.training_id]}
        for run in runs
    ]
    write_text(out / "runs.json", json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
