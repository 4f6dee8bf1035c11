"""Second stage: full-precision networks to start from, ``python -m stages.pretrain SUITE``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.models.weights import load_weights
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.parallel import checksum, key_of, progress_folder, run_all
from stages.settings import Suite, TaskSettings
from stages.tasks import device, load_data, network, training_inputs


@dataclass(frozen=True)
class Job:
    """One network to train."""

    suite: str
    wanted: Suite
    name: str
    task: TaskSettings
    fit: FitSettings
    seed: int
    key: str


def main(arguments: Sequence[str]) -> int:
    """Write checkpoints/SUITE/TASK-SEED.safetensors."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    jobs = []
    for name, task in wanted.tasks.items():
        fit = wanted.pretrain[name].build()
        inputs = training_inputs(suite, wanted, name, quantized=False)
        common = {**inputs, "start": _start(suite, name)}
        for seed in wanted.seeds:
            key = key_of(task=task.model_dump(), fit=asdict(fit), seed=seed, common=common)
            jobs.append(Job(suite, wanted, name, task, fit, seed, key))
    shutil.rmtree(paths.checkpoints(suite), ignore_errors=True)
    run_all(train, jobs, "pretrain")
    return 0


def _start(suite: str, task: str) -> str | None:
    """Checksum of the weights that a task starts from; None for random ones."""
    path = paths.start(suite, task)
    return checksum(path) if path.exists() else None


def train(job: Job) -> None:
    """Train one network, or finish it from saved progress, and write its checkpoint."""
    model = network(job.task, job.seed)
    start = paths.start(job.suite, job.name)
    if start.exists():
        load_weights(model, read_tensors(start)[0], str(start))
    where = device(job.wanted)
    data = load_data(job.suite, job.task)
    train_split, validation = data.train.to(where), data.validation.to(where)
    trainer = Trainer(model.to(where), train_split, validation, job.fit, job.seed)
    trainer.fit(resume=progress_folder("pretrain", job.key) / "epoch.pt")
    write_tensors(paths.checkpoint(job.suite, job.name, job.seed), model.state_dict())


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
