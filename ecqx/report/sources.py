"""What numbers were measured on, in words: metric, data, how much of it, start and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce
from operator import or_
from typing import Any

from ecqx.report.records import MISSING, Record
from ecqx.report.statistics import grouped

# What a number was measured on, as columns of CSV.
LABELS = ("data", "metric", "train_samples", "samples_seen", "epochs", "seeds", "start")
# More numbers than this are given as a range.
LISTED = 5


@dataclass(frozen=True)
class Source:
    """What numbers of one task were measured on, as the distinct values of their runs.

    Attributes
    ----------
    dataset, metric, start : frozenset of str
    train_samples : frozenset of int
        Size of the training split.
    seen, epochs, seeds : frozenset of int
        Samples that a run was trained on, its epochs and seed; empty where nothing was trained.
    """

    dataset: frozenset[str]
    metric: frozenset[str]
    start: frozenset[str]
    train_samples: frozenset[int]
    seen: frozenset[int] = frozenset()
    epochs: frozenset[int] = frozenset()
    seeds: frozenset[int] = frozenset()

    def __or__(self, other: Source) -> Source:
        return Source(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(Source)))

    @property
    def coverage(self) -> str:
        """How much of the training split a run has seen; a dash where nothing was trained."""
        if not self.seen:
            return MISSING
        # Every epoch draws anew, so parts of the split may overlap.
        partial = min(self.seen) < max(self.train_samples)
        words = "at most " if partial and max(self.epochs) > 1 else ""
        return f"{words}{join(self.seen)} of {join(self.train_samples)}"

    def text(self, with_start: bool = True) -> str:
        """All of it in words; the start, which may be named by a checksum, if asked for."""
        parts = [f"{join(self.metric)} on {join(self.dataset)}"]
        if self.seen:
            epochs = f"{join(self.epochs)} epoch" + ("" if self.epochs == {1} else "s")
            parts.append(f"trained on {self.coverage} training samples per run, {epochs}")
        else:
            parts.append(f"{join(self.train_samples)} training samples")
        if self.seeds:
            parts.append(f"seed{'s' if len(self.seeds) > 1 else ''} {join(self.seeds)}")
        start = [f"start: stage pretrain, from {join(self.start)}"] if with_start else []
        return "; ".join([*parts, *start])

    def record(self) -> dict[str, str]:
        """The same by `LABELS`."""
        values = (self.dataset, self.metric, self.train_samples, self.seen, self.epochs)
        return dict(zip(LABELS, map(join, (*values, self.seeds, self.start)), strict=True))


def source_of(records: Iterable[Record], trained: bool = True) -> Source:
    """What records of one task were measured on, or, if not ``trained``, their start was."""
    listed = list(records)
    # Not every method trains.
    steps = [record for record in listed if record.steps > 0]

    def values(name: str, of: Iterable[Record] = listed) -> frozenset[Any]:
        return frozenset(getattr(record, name) for record in of)

    start = (
        *(values("dataset"), values("metric")),
        *(values("start_in_words"), values("train_samples")),
    )
    if not trained:
        return Source(*start)
    return Source(*start, values("samples_seen", steps), values("epochs", steps), values("seed"))


def join(values: Iterable[Any]) -> str:
    """Distinct values, ascending; many numbers as their range; a dash for none."""
    known = sorted({value for value in values if value is not None})
    if len(known) > LISTED and not isinstance(known[0], str):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(str(value) for value in known) or MISSING


def describe(measured: Iterable[tuple[str, Source]], with_start: bool = True) -> list[str]:
    """What tasks were measured on, one sentence for all tasks that were measured alike.

    Parameters
    ----------
    measured : iterable of (str, Source)
        Title of a task and what some of its numbers were measured on; titles may repeat.
    with_start : bool
        Whether to name what stage pretrain started from.
    """
    by_title = grouped(measured, lambda pair: pair[0])
    texts = {
        title: reduce(or_, (source for _, source in pairs)).text(with_start)
        for title, pairs in by_title.items()
    }
    by_text = grouped(texts, texts.__getitem__)
    return [f"{', '.join(titles)}: {text}." for text, titles in by_text.items()]
