"""How claims and methods are judged: by intervals against a bound, and claims over all parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ecqx.report.formats import Table, markdown_body
from ecqx.report.statistics import Estimate

MARGIN = 0.005
MARGIN_TEXT = "0.5 points"


class Verdict(StrEnum):
    """What the records say about a claim, or about ECQx against another method."""

    HOLDS = "holds"
    FAILS = "does not hold"
    WINS = "wins"
    TIES = "ties"
    LOSES = "loses"
    OPEN = "inconclusive"
    ABSENT = "not measured"


@dataclass(frozen=True)
class Part:
    """One case that a claim is judged by: a bit width, or a layer, of a task.

    ``value`` is None where nothing could be compared. A part that does not decide the claim is
    shown beside those that do.
    """

    task: str
    case: str
    value: Estimate | None
    verdict: Verdict
    decides: bool

    @property
    def name(self) -> str:
        """Task and case."""
        return f"{self.task}, {self.case}"


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict, the numbers behind it in sentences, and how the one follows.

    ``key`` is its anchor on the page; ``table`` has the parts that it was judged by, those of the
    tasks ``deciding``, and the others beside.
    """

    key: str
    title: str
    verdict: Verdict
    findings: tuple[str, ...]
    rule: str
    table: Table
    deciding: Sequence[str]

    @property
    def where(self) -> str:
        """The data of the verdict, to be put after it; empty where nothing was judged."""
        data = self.table.data(self.deciding)
        beside = any(row.task not in self.deciding for row in self.table.rows)
        return f", on {data}{'; other tasks are shown beside' if beside else ''}" if data else ""


def judge_below(value: Estimate | None, bound: float = MARGIN) -> Verdict:
    """Verdict that a value, such as a drop of accuracy, lies below a bound, by its interval."""
    if value is None:
        return Verdict.OPEN
    if value.lies_below(bound):
        return Verdict.HOLDS
    return Verdict.FAILS if value.lies_above(bound) else Verdict.OPEN


def judge_gain(gain: Estimate | None) -> Verdict:
    """Whether a method is at least as accurate: it does not lose more than the margin."""
    return judge_below(gain and gain.scaled(-1))


def judge_against(
    value: Estimate | None, neutral: float, low: float = -math.inf, high: float = math.inf
) -> Verdict:
    """Verdict by the interval of a value that is above ``neutral`` where ECQx is better.

    It is a tie where the interval holds ``neutral`` and lies between ``low`` and ``high``.
    """
    if value is None or value.low is None:
        return Verdict.OPEN
    if value.lies_above(neutral):
        return Verdict.WINS
    if value.lies_below(neutral):
        return Verdict.LOSES
    is_narrow = value.lies_above(low) and value.lies_below(high)
    return Verdict.TIES if is_narrow else Verdict.OPEN


def in_words(verdict: Verdict, gain: Estimate | None) -> str:
    """A verdict, and whether the method is worse for all that.

    ``gain`` is above 0 where the method is better.
    """
    if gain is None or not gain.lies_below(0.0) or verdict is Verdict.FAILS:
        return verdict.value
    perhaps = "" if verdict is Verdict.HOLDS else "perhaps "
    return f"{verdict.value}: worse, {perhaps}within the margin"


def decisive(parts: Sequence[Part]) -> list[Part]:
    """The parts that decide a claim."""
    return [part for part in parts if part.decides]


def combine(parts: Sequence[Part]) -> Verdict:
    """Verdict over all parts: it fails with one of them, and holds only with all of them."""
    if not parts:
        return Verdict.ABSENT
    verdicts = {part.verdict for part in parts}
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.OPEN


def claims_markdown(claims: Sequence[Claim], suite: str) -> str:
    """The claims as one Markdown document."""
    lines = [
        f"# Claims of the paper, judged from suite {suite}",
        "",
        "| claim | verdict |",
        "|:--|:--|",
        *(f"| {claim.title} | **{claim.verdict.value}** |" for claim in claims),
    ]
    for number, claim in enumerate(claims, 1):
        verdict = f"Verdict: **{claim.verdict.value}**{claim.where}"
        lines += ["", f"## {number}. {claim.title}", "", verdict, ""]
        lines += [f"- {finding}" for finding in claim.findings]
        lines += ["", f"Rule: {claim.rule}"]
        if claim.table.rows:
            lines += ["", markdown_body(claim.table)]
    return "\n".join(lines) + "\n"
