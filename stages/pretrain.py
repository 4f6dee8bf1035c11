"""Second stage: full-precision networks to start from, ``python -m stages.pretrain SUITE``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from ecqx.experiment.jobs import run_jobs
from ecqx.experiment.train import RESULT
from ecqx.files import link_or_copy
from stages import paths
from stages.command import run_command_line, suite_of
from stages.settings.base import load
from stages.settings.pretrain import PretrainSettings
from stages.tasks import task_of
from stages.trainings import FULL_PRECISION, fingerprint, training_of


def main(arguments: Sequence[str]) -> int:
    """Write checkpoints/SUITE/TASK-SEED.safetensors."""
    suite = suite_of(arguments)
    settings = load(suite, PretrainSettings)
    code = fingerprint(suite, "pretrain")["methods"][FULL_PRECISION]
    trainings = {}
    for name, task in settings.tasks.items():
        start = paths.start(suite, name)
        for seed in settings.seeds:
            trainings[name, seed] = training_of(
                task_of(suite, task),
                settings.pretrain[name],
                seed,
                start if start.exists() else None,
                settings.device,
                code,
            )
    folders = run_jobs("pretrain", suite, list(trainings.values()))
    shutil.rmtree(paths.checkpoints(suite), ignore_errors=True)
    paths.checkpoints(suite).mkdir(parents=True)
    for (name, seed), training in trainings.items():
        link_or_copy(folders[training.key] / RESULT, paths.checkpoint(suite, name, seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
