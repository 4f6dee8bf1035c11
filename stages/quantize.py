"""Third stage: quantized training of all runs, ``python -m stages.quantize SUITE``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.files import link_or_copy, write_text
from ecqx.training.trainer import Trainer
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.parallel import checksum, key_of, progress_folder, run_all
from stages.runs import Run, all_runs, run_id
from stages.settings import Suite, TaskSettings
from stages.tasks import device, load_data, network, training_inputs

RESULT, HISTORY, EPOCH = "result.safetensors", "history.json", "epoch.pt"


@dataclass(frozen=True)
class Job:
    """One run to train, with the hash of all it depends on."""

    suite: str
    wanted: Suite
    task: TaskSettings
    run: Run
    run_id: str
    key: str


def main(arguments: Sequence[str]) -> int:
    """Write quantized/SUITE/RUN_ID.safetensors and runs.json."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    common = {n: training_inputs(suite, wanted, n, quantized=True) for n in wanted.tasks}
    jobs = []
    for run in all_runs(wanted):
        start = checksum(paths.checkpoint(suite, run.task, run.seed))
        task = wanted.tasks[run.task]
        key = key_of(run=run.record, task=task.model_dump(), start=start, common=common[run.task])
        jobs.append(Job(suite, wanted, task, run, run_id(run, wanted), key))
    folders = run_all(train, sorted(jobs, key=_expected_cost, reverse=True), "quantize")
    _collect(suite, jobs, {folder.name: folder for folder in folders})
    return 0


def _expected_cost(job: Job) -> tuple[bool, bool]:
    """Long runs come first, so that no process waits long for the last one."""
    return job.run.relevance is not None, job.task.model["name"] != "mlp_gsc"


def train(job: Job) -> Path:
    """Train one run, or finish it from saved progress; returns the folder of its result."""
    folder = progress_folder("quantize", job.key)
    if _is_finished(folder):
        return folder
    model = network(job.task)
    state, _ = read_tensors(paths.checkpoint(job.suite, job.run.task, job.run.seed))
    model.load_state_dict(state)
    where = device(job.wanted)
    model.to(where)
    data = load_data(job.suite, job.task)
    train_split, validation = data.train.to(where), data.validation.to(where)
    quantizer = None if job.run.method == "fp32" else job.run.build_quantizer(model)
    trainer = Trainer(
        model, train_split, validation, job.run.fit, job.run.seed, quantizer=quantizer
    )
    history = trainer.fit(resume=folder / EPOCH)
    if quantizer is None:
        write_tensors(folder / RESULT, model.state_dict())
    else:
        quantizer.save_checkpoint(folder / RESULT)
    # The history is written last: where it stands, the result is whole.
    write_text(folder / HISTORY, json.dumps([asdict(epoch) for epoch in history]))
    (folder / EPOCH).unlink(missing_ok=True)
    return folder


def _is_finished(folder: Path) -> bool:
    """Whether the result of a run is there, and whole; a damaged one is trained again."""
    try:
        json.loads((folder / HISTORY).read_text())
        read_tensors(folder / RESULT)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _collect(suite: str, jobs: Sequence[Job], folders: dict[str, Path]) -> None:
    """Put the results of all runs into the stage's output."""
    out = paths.quantized(suite)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    records = []
    for job in jobs:
        link_or_copy(folders[job.key] / RESULT, out / f"{job.run_id}.safetensors")
        history = json.loads((folders[job.key] / HISTORY).read_text())
        records.append({"run_id": job.run_id, **job.run.record, "history": history})
    write_text(out / "runs.json", json.dumps(records, indent=1) + "\n")


def load_runs(suite: str) -> list[dict[str, Any]]:
    """The records that this stage wrote."""
    records: list[dict[str, Any]] = json.loads((paths.quantized(suite) / "runs.json").read_text())
    return records


def load_full_precision(suite: str, task: TaskSettings, path: Path) -> nn.Module:
    """A network with the weights of a checkpoint."""
    model = network(task)
    model.load_state_dict(read_tensors(path)[0])
    return model


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
