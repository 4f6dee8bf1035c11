"""The tasks of a suite as the library has them."""

from __future__ import annotations

from ecqx.experiment.task import Task
from stages import paths
from stages.settings.tasks import TaskSettings


def task_of(suite: str, settings: TaskSettings) -> Task:
    """A task with the place of its data."""
    return Task(settings.model, paths.data(suite, settings.data), settings.enlarge)
