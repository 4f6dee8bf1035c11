"""Third stage: full-precision networks to start from, checkpoints/SUITE/TASK-SEED.safetensors."""

from __future__ import annotations

from ecqx.experiment.jobs import run_jobs
from ecqx.experiment.train import RESULT
from ecqx.files import link_or_copy
from stages import paths
from stages.command import command, run_command_line, suite_argument
from stages.manifests import REFERENCE, read_fingerprint
from stages.settings.base import load
from stages.settings.tasks import PretrainSettings
from stages.tasks import task_of
from stages.trainings import training_of


@command
@suite_argument
def main(suite: str) -> None:
    """Train the networks that have not been trained yet."""
    settings = load(suite, PretrainSettings)
    code = read_fingerprint(suite, "pretrain")["methods"][REFERENCE]
    trainings = {}
    for name, task in settings.tasks.items():
        start = paths.start(suite, name)
        for seed in task.seeds or settings.seeds:
            trainings[name, seed] = training_of(
                task_of(suite, task),
                settings.pretrain[name],
                seed,
                start if start.exists() else None,
                settings.device,
                code,
            )
    folders = run_jobs("pretrain", suite, list(trainings.values()))
    paths.emptied(paths.checkpoints(suite))
    for (name, seed), training in trainings.items():
        link_or_copy(folders[training.key] / RESULT, paths.checkpoint(suite, name, seed))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
