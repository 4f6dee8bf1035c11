"""What the report shows and compares by. Imports nothing that computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.settings.base import Bits, Lam, Positive, Settings, Share


class LayerSettings(Settings):
    """The run whose layers are shown one by one; a task without such a run shows none."""

    bits: Bits
    lam: Lam
    seed: int


class Evaluate(Settings):
    """The section ``evaluate``."""

    layers: LayerSettings


class PublishedSetup(Settings):
    """The setting of a task that the published code has as its default, a row of its own."""

    task: str
    bits: Bits
    lam: Lam


class Yardstick(Settings):
    """A result of the published algorithm that a task is held against."""

    task: str
    method: Literal["ECQ", "ECQx"]
    bits: Bits
    lam: Lam
    accuracy: Share
    sparsity: Share
    bytes: Positive


class TaskComparison(Settings):
    """What the methods are compared by on one task.

    Attributes
    ----------
    trials : int
        Settings that every method which has any is tried at.
    ratios : list of two floats
        Compression ratios between which the area under the curve is taken.
    """

    trials: Positive
    ratios: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _is_a_range(self) -> TaskComparison:
        if not self.ratios[0] < self.ratios[1]:
            raise ValueError("ratios must be [low, high], low below high")
        return self


class Comparison(Settings):
    """What the methods of the sweeps ``comparison`` are compared by.

    Attributes
    ----------
    loss : float
        How much accuracy a file may lose, a fraction of one.
    """

    loss: Share
    tasks: Annotated[dict[str, TaskComparison], Field(min_length=1)]


class Report(Settings):
    """The section ``report``: words for people, and the rules of comparison."""

    titles: dict[str, str]
    published: list[PublishedSetup] = Field(default_factory=list)
    yardsticks: list[Yardstick] = Field(default_factory=list)
    comparison: Comparison | None = None


class ReportSettings(Settings):
    """What the stage report reads."""

    evaluate: Evaluate
    report: Report
