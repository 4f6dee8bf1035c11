"""The tasks of a suite, networks on data sets, and their training in full precision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ecqx.training.settings import FitSettings
from stages.settings.base import Positive, Settings


def _all_different(values: list[int]) -> list[int]:
    if len(set(values)) != len(values):
        raise ValueError("the values must differ")
    return values


# The same seed twice would be two runs of one name.
Seeds = Annotated[list[int], Field(min_length=1), AfterValidator(_all_different)]
Device = Literal["cpu", "auto"]


class Start(Settings):
    """The checkpoint that a task's pre-training starts from: a file, or ``imagenet``.

    A file lies below the data root, in its ``models/`` or in the ``models/`` beside it. If it is
    not ``required`` and not there, training starts from random weights.
    """

    checkpoint: str
    required: bool = True


class TaskSettings(Settings):
    """A network on the suite's data.

    ``model`` holds what `ecqx.models.build` takes, ``seeds`` are the task's own in place of the
    suite's.
    """

    data: str
    model: dict[str, Any]
    enlarge: Positive = 1
    start: Start | None = None
    seeds: Seeds | None = None

    @property
    def network(self) -> dict[str, Any]:
        """What a training depends on: everything but the seeds."""
        return self.model_dump(exclude={"seeds"})

    @model_validator(mode="after")
    def _names_a_model(self) -> TaskSettings:
        if not isinstance(self.model.get("name"), str):
            raise ValueError("model needs the name of a network")
        return self


Tasks = Annotated[dict[str, TaskSettings], Field(min_length=1)]


class PretrainSettings(Settings):
    """What the stage pretrain reads."""

    seeds: Seeds
    device: Device
    tasks: Tasks
    pretrain: dict[str, FitSettings]
