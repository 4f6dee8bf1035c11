"""Fourth stage: the trainings of all runs, and what a step of each costs.

Writes quantized/SUITE/TRAINING_ID.safetensors and runs.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecqx.experiment.jobs import read_record, run_jobs
from ecqx.experiment.train import RESULT, Training
from ecqx.files import link_or_copy
from stages import paths
from stages.command import command, run_command_line, suite_argument
from stages.manifests import COUNT, read_fingerprint, write_json
from stages.settings.base import load
from stages.settings.quantize import QuantizeSettings
from stages.sweeps import Run, all_runs
from stages.tasks import task_of
from stages.trainings import cost_of, training_of


@command
@suite_argument
def main(suite: str) -> None:
    """Train what has not been trained yet; list all runs with their trainings' records."""
    settings = load(suite, QuantizeSettings)
    runs = all_runs(settings.quantize, settings.tasks, settings.seeds)
    codes = read_fingerprint(suite, "quantize")["methods"]
    # Runs that differ in their file alone share a training.
    trained = {run.training_id: run for run in runs}
    trainings = {name: _training(suite, settings, run, codes) for name, run in trained.items()}
    longest_first = sorted(trainings.values(), key=_expected_cost, reverse=True)
    folders = run_jobs("quantize", suite, longest_first)
    costs = _costs(suite, runs, trainings, codes)
    out = paths.emptied(paths.quantized(suite))
    records = {}
    for name, training in trainings.items():
        folder = folders[training.key]
        link_or_copy(folder / RESULT, paths.trained(suite, name))
        history = read_record(folder)["history"]
        steps = sum(epoch["steps"] for epoch in history)
        records[name] = {"epochs": len(history), "steps": steps, "cost": costs[name]}
    write_json(out / "runs.json", [run.record | records[run.training_id] for run in runs])


def _training(
    suite: str, settings: QuantizeSettings, run: Run, codes: Mapping[str, str]
) -> Training:
    return training_of(
        task_of(suite, settings.tasks[run.task]),
        run.fit,
        run.seed,
        paths.checkpoint(suite, run.task, run.seed),
        settings.device,
        codes[run.training_method_name],
        run.training_method,
        run.training_method_name,
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
            trainings[run.training_id], codes[run.method_name] + codes[COUNT], run.method_name
        )
        for run in runs
        if run.training_method is not None
    }
    folders = run_jobs("cost", suite, list(jobs.values()))
    counted = {name: read_record(folders[job.key])["cost"] for name, job in jobs.items()}
    return dict.fromkeys(trainings, 1.0) | counted


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
