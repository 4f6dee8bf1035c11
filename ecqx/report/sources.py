"""What numbers were measured on, in words: metric, data, how much of it, start and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ecqx.report.records import MISSING, Record
from ecqx.report.statistics import grouped

# What a number was measured on: column of CSV → attribute of the records.
LABELS = {
    **{"data": "dataset", "metric": "metric", "train_samples": "train_samples"},
    **{"samples_seen": "samples_seen", "epochs": "epochs", "seeds": "seed"},
    "start": "start_in_words",
}
# Label → distinct values of the records; empty where it does not apply.
Source = Mapping[str, set[Any]]
# More numbers than this are given as a range.
LISTED = 5


def source_of(records: Iterable[Record], trained: bool = True) -> Source:
    """What records of one task were measured on, or, if not ``trained``, their start was."""
    every = list(records)
    # Not every method trains.
    steps = [record for record in every if record.steps > 0]
    of = {"samples_seen": steps, "epochs": steps, "seeds": every}
    if not trained:
        of = {label: [] for label in of}
    return {
        label: {getattr(record, name) for record in of.get(label, every)}
        for label, name in LABELS.items()
    }


def join(values: Iterable[Any]) -> str:
    """Distinct values, ascending; many numbers as their range; a dash for none."""
    known = sorted({value for value in values if value is not None})
    if len(known) > LISTED and not isinstance(known[0], str):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(str(value) for value in known) or MISSING


def coverage(source: Source) -> str:
    """How much of the training split a run has seen; a dash where nothing was trained."""
    seen, available = source["samples_seen"], source["train_samples"]
    if not seen:
        return MISSING
    # Every epoch draws anew, so parts of the split may overlap.
    overlap = min(seen) < max(available) and max(source["epochs"]) > 1
    return f"{'at most ' if overlap else ''}{join(seen)} of {join(available)}"


def describe(measured: Iterable[tuple[str, Source]], with_start: bool = True) -> list[str]:
    """What tasks, named by their titles, were measured on; one sentence for all measured alike.

    The start, which may be named by a checksum, is left out if not asked for.
    """
    by_title = grouped(measured, lambda pair: pair[0])
    texts = {
        title: _sentence([source for _, source in pairs], with_start)
        for title, pairs in by_title.items()
    }
    by_text = grouped(texts, texts.__getitem__)
    return [f"{', '.join(titles)}: {text}." for text, titles in by_text.items()]


def _sentence(sources: Iterable[Source], with_start: bool) -> str:
    alike = list(sources)
    of = {label: set().union(*(source[label] for source in alike)) for label in LABELS}
    parts = [f"{join(of['metric'])} on {join(of['data'])}"]
    if of["samples_seen"]:
        epochs = f"{join(of['epochs'])} epoch" + ("" if of["epochs"] == {1} else "s")
        parts.append(f"trained on {coverage(of)} training samples per run, {epochs}")
    else:
        parts.append(f"{join(of['train_samples'])} training samples")
    if of["seeds"]:
        parts.append(f"seed{'s' if len(of['seeds']) > 1 else ''} {join(of['seeds'])}")
    if with_start:
        parts.append(f"start: stage pretrain, from {join(of['start'])}")
    return "; ".join(parts)
