"""What the stage pretrain reads."""

from __future__ import annotations

from ecqx.training.settings import FitSettings
from stages.settings.base import Settings
from stages.settings.tasks import Device, Seeds, Tasks


class PretrainSettings(Settings):
    """How each task's network is trained in full precision, before everything else."""

    seeds: Seeds
    device: Device
    tasks: Tasks
    pretrain: dict[str, FitSettings]
