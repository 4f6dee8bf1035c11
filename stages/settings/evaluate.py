"""What the stage evaluate reads."""

from __future__ import annotations

from pydantic import ConfigDict

from ecqx.relevance.settings import LRP
from stages.settings.base import Evaluate, Settings
from stages.settings.tasks import PretrainSettings


class Relevance(Settings):
    """How relevance is measured: the part of the section ``quantize`` that is needed here."""

    model_config = ConfigDict(extra="ignore")

    relevance: LRP


class EvaluateSettings(PretrainSettings):
    """What describes all runs, and which runs are shown layer by layer."""

    quantize: Relevance
    evaluate: Evaluate
