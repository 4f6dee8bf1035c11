"""What the stage evaluate reads."""

from __future__ import annotations

from pydantic import ConfigDict

from ecqx.relevance.settings import LRP
from ecqx.training.settings import FitSettings
from stages.settings.base import Settings
from stages.settings.report import Evaluate
from stages.settings.tasks import Device, Seeds, Tasks


class Relevance(Settings):
    """How relevance is measured: of the section ``quantize`` the part that is needed here."""

    model_config = ConfigDict(extra="ignore")

    relevance: LRP


class EvaluateSettings(Settings):
    """Which runs are looked at more closely, and what all runs are described by."""

    seeds: Seeds
    device: Device
    tasks: Tasks
    pretrain: dict[str, FitSettings]
    quantize: Relevance
    evaluate: Evaluate
