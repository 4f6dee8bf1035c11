"""Settings of a training in params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ecqx.training.settings import FitSettings
from stages.data_settings import Positive, Settings


class Fit(Settings):
    """`ecqx.training.trainer.FitSettings`."""

    epochs: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Positive = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_batches: Positive | None = None
    patience: Positive | None = None
    min_delta: Annotated[float, Field(ge=0)] = 0.001
    selection: Literal["best", "last"] = "best"

    def build(self) -> FitSettings:
        """The library's own settings."""
        return FitSettings(**self.model_dump())
