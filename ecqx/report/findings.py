"""What the parts of a claim say, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ecqx.report.formats import Column
from ecqx.report.statistics import Estimate
from ecqx.report.verdicts import Part, Verdict, combine

POINTS = Column("", "", "interval", 2, 100)


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
    without = "one seed, no interval" if value.n == 1 else "no interval"
    note = f" ({without})" if value.low is None else ""
    return f"{POINTS.text(value)} points{note}"
