"""Settings of what the report shows. Imports nothing that computes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecqx.report.rules import Rules
from stages.settings.base import Bits, Evaluate, Lam, Positive, Settings, Share


class PublishedSetup(Settings):
    """A task's default setting in the published code, shown in a row of its own."""

    task: str
    bits: Bits
    lam: Lam


class Yardstick(Settings):
    """A result of the published code that a task is compared with."""

    task: str
    method: Literal["ECQ", "ECQx"]
    bits: Bits
    lam: Lam
    accuracy: Share
    sparsity: Share
    bytes: Positive


class Report(Settings):
    """The section ``report``: words for people, and the rules of comparison.

    The tasks of ``paper`` are experiments of the paper and decide its claims; others are shown
    beside. Without one all tasks decide.
    """

    titles: dict[str, str]
    paper: list[str] = Field(default_factory=list)
    published: list[PublishedSetup] = Field(default_factory=list)
    yardsticks: list[Yardstick] = Field(default_factory=list)
    comparison: Rules | None = None


class ReportSettings(Settings):
    """What the stage report reads."""

    evaluate: Evaluate
    report: Report
