"""How claims and methods are judged: by intervals against a bound, and claims over all parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ecqx.report.formats import Column, Table, markdown_body
from ecqx.report.statistics import Estimate

MARGIN = 0.005
MARGIN_TEXT = "0.5 points"
NO_SPREAD_TEXT = (
    "Where all seeds agree exactly, the deviation is that of the task’s settings, pooled; where "
    "none of them has any, or with one seed only, the row is inconclusive."
)
RANK_BOUND = 0.9
POINTS = Column("", "", "interval", 2, 100)


class Verdict(StrEnum):
    """What the records say about a claim, or about ECQx against another method."""

    HOLDS = "holds"
    FAILS = "does not hold"
    WINS = "wins"
    TIES = "ties"
    LOSES = "loses"
    MIXED = "depends on the size"
    OPEN = "inconclusive"


@dataclass(frozen=True)
class Part:
    """One case that a claim is judged by: a bit width, or a layer, of a task.

    The verdict is based on ``value``, which is None where nothing could be compared.
    """

    task: str
    case: str
    value: Estimate | None
    verdict: Verdict

    @property
    def name(self) -> str:
        """Task and case."""
        return f"{self.task}, {self.case}"


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict, the numbers behind it in sentences, and how the one follows.

    ``key`` is its anchor on the page; ``table`` has the parts that it was judged by.
    """

    key: str
    title: str
    verdict: Verdict
    findings: tuple[str, ...]
    rule: str
    table: Table

    @property
    def where(self) -> str:
        """The data of the verdict, to be put after it; empty where nothing was judged."""
        return f", on {self.table.data()}" if self.table.rows else ""


def judge_below(value: Estimate | None, bound: float) -> Verdict:
    """Verdict that a value lies below a bound, by its whole interval."""
    if value is None:
        return Verdict.OPEN
    if value.lies_below(bound):
        return Verdict.HOLDS
    return Verdict.FAILS if value.lies_above(bound) else Verdict.OPEN


def judge_drop(drop: Estimate) -> Verdict:
    """Whether accuracy is kept: its drop lies below the margin."""
    return judge_below(drop, MARGIN)


def judge_gain(gain: Estimate | None) -> Verdict:
    """Whether a method is at least as accurate: it does not lose more than the margin."""
    return judge_below(None if gain is None else gain.negated(), MARGIN)


def judge_against(value: Estimate | None, neutral: float) -> Verdict:
    """Verdict by the interval of a value that is above ``neutral`` where ECQx is better."""
    if value is None or value.low is None:
        return Verdict.OPEN
    if value.lies_above(neutral):
        return Verdict.WINS
    return Verdict.LOSES if value.lies_below(neutral) else Verdict.TIES


def combine(parts: Sequence[Part]) -> Verdict:
    """Verdict over all parts: it fails with one of them, and holds only with all of them."""
    verdicts = {part.verdict for part in parts}
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.OPEN


def tally(parts: Sequence[Part], what: str) -> str:
    """How many parts have which verdict, in words."""
    if not parts:
        return f"No {what} were measured."
    verdicts = [part.verdict for part in parts]
    counts = [f"{v.value} in {verdicts.count(v)}" for v in Verdict if v in verdicts]
    text = f"{', '.join(counts)} of {len(parts)} {what}."
    return text[0].upper() + text[1:]


def extreme(
    parts: Sequence[Part], choose: Callable[..., Part], what: str, words: Callable[[Estimate], str]
) -> Iterator[str]:
    """The smallest or largest value, by ``choose`` (min or max), in words, where there is one."""
    known = [part for part in parts if part.value]
    if known:
        part = choose(known, key=lambda part: part.value.mean if part.value else 0.0)
        yield f"{what}: {words(part.value) if part.value else ''} ({part.name})."


def by_task(parts: Sequence[Part], what: str) -> Iterator[str]:
    """Verdict and values of each task, in words; ``what`` names the value."""
    for task in dict.fromkeys(part.task for part in parts):
        own = [part for part in parts if part.task == task]
        values = ", ".join(f"{part.case} {POINTS.text(part.value)}" for part in own)
        yield f"{task}: {combine(own).value}. {what} (points): {values}."


def in_points(value: Estimate) -> str:
    """A difference of accuracies in words."""
    without = "one seed" if value.n == 1 else "equal in all seeds"
    note = f" ({without}, no interval)" if value.low is None else ""
    return f"{POINTS.text(value)} points{note}"


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
