"""What all runs of a task share in the lists of results."""

from __future__ import annotations

from typing import Any

from ecqx.training.objectives import objective_of
from stages import paths
from stages.parallel import checksum, key_of
from stages.settings import Suite
from stages.tasks import load_data


def about(suite: str, wanted: Suite, name: str) -> dict[str, Any]:
    """A task's data, network and metric."""
    task = wanted.tasks[name]
    data = load_data(suite, task)
    return {
        "dataset": data.label,
        "model": task.model["name"],
        "train_samples": len(data.train),
        "data_checksum": checksum(paths.data(suite, task.data)),
        "metric": objective_of(data.test.targets).metric,
    }


def start_of(suite: str, wanted: Suite, task: str, seed: int) -> str:
    """What a run started from: a pre-training by its settings, whose bits vary by machine."""
    pretraining = "pretrain " + key_of(
        task=wanted.tasks[task].model_dump(), fit=wanted.pretrain[task].model_dump(), seed=seed
    )
    given = paths.start(suite, task)
    return f"{pretraining} of {checksum(given)}" if given.exists() else pretraining
