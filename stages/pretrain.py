"""Second stage: full-precision networks to start from, ``python -m stages.pretrain SUITE``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ecqx.checkpoint import write_tensors
from ecqx.training import FitSettings, Trainer
from stages import paths, settings
from stages.command import run_command_line, suite_of
from stages.parallel import key_of, progress_folder, run_all
from stages.settings import TaskSettings
from stages.tasks import load_data, network, training_inputs


@dataclass(frozen=True)
class Job:
    """One network to train."""

    suite: str
    name: str
    task: TaskSettings
    fit: FitSettings
    seed: int
    key: str


def main(arguments: Sequence[str]) -> int:
    """Write checkpoints/SUITE/TASK-SEED.safetensors."""
    suite = suite_of(arguments)
    wanted = settings.load(suite)
    common = training_inputs(suite)
    jobs = []
    for name, task in wanted.tasks.items():
        fit = wanted.pretrain[name].build()
        for seed in wanted.seeds:
            key = key_of(task=task.model_dump(), fit=asdict(fit), seed=seed, common=common)
            jobs.append(Job(suite, name, task, fit, seed, key))
    run_all(train, jobs, "pretrain")
    return 0


def train(job: Job) -> None:
    """Train one network, or finish it from saved progress, and write its checkpoint."""
    model = network(job.task, job.seed)
    data = load_data(job.suite, job.task)
    trainer = Trainer(model, data.train, data.validation, job.fit, job.seed)
    trainer.fit(resume=progress_folder("pretrain", job.key) / "epoch.pt")
    write_tensors(paths.checkpoint(job.suite, job.name, job.seed), model.state_dict())


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
