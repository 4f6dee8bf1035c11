"""The verdict of the comparison: where ECQx wins, ties and loses, task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ecqx.report.columns import TASK, table
from ecqx.report.comparison import CHAMPION, Comparison, Rules
from ecqx.report.comparison_curves import Kept, areas, by_seed, kept
from ecqx.report.formats import Column, Row, Table, markdown_body
from ecqx.report.records import Record
from ecqx.report.sources import source_of
from ecqx.report.statistics import Estimate, paired_difference, with_pooled_spread


class Outcome(StrEnum):
    """How ECQx does against another method."""

    WINS = "wins"
    TIES = "ties"
    LOSES = "loses"
    MIXED = "depends on the size"
    OPEN = "inconclusive"

    @classmethod
    def of(cls, value: Estimate, neutral: float) -> Outcome:
        """By the 95 % interval of a value that is above ``neutral`` where ECQx is better."""
        if value.low is None:
            return cls.OPEN
        if value.lies_above(neutral):
            return cls.WINS
        return cls.LOSES if value.lies_below(neutral) else cls.TIES


# What stands before the names of the methods.
RELATIONS = {
    Outcome.WINS: "wins against",
    Outcome.TIES: "ties with",
    Outcome.LOSES: "loses to",
    Outcome.MIXED: "wins or loses, depending on the size, against",
    Outcome.OPEN: "is inconclusive against",
}
# The same of the sizes of files.
SIZES = {
    Outcome.WINS: "smaller than those of",
    Outcome.TIES: "neither clearly smaller nor clearly larger than those of",
    Outcome.LOSES: "larger than those of",
    Outcome.OPEN: "not comparable, for lack of a file or of a spread over seeds, with those of",
}


@dataclass(frozen=True)
class Duel:
    """ECQx against one other method.

    Attributes
    ----------
    rival : str
    area : Estimate
        Area under the curve of ECQx minus that of the other, paired per seed, a fraction of one.
        Its interval, like those below, has the pooled deviation of the task's duels where all
        seeds agree.
    common : Estimate or None
        The same over the part of the range where both have a file with every seed; None where
        there is no such part.
    factor : Estimate or None
        Smallest file within the loss of the other over that of ECQx: the geometric mean over seeds
        with its interval, above one where ECQx is smaller. None where some seed of either has no
        such file.
    coverage : str
        How many of the seeds have such a file of both.
    """

    rival: str
    area: Estimate
    common: Estimate | None
    factor: Estimate | None
    coverage: str

    @property
    def outcome(self) -> Outcome:
        """By the interval of the difference, unless it is the other way round at common sizes."""
        whole = Outcome.of(self.area, 0)
        part = whole if self.common is None else Outcome.of(self.common, 0)
        return Outcome.MIXED if {whole, part} == {Outcome.WINS, Outcome.LOSES} else whole

    @property
    def size_outcome(self) -> Outcome:
        """How ECQx does by the size of files within the loss: by the interval of the factor."""
        return Outcome.OPEN if self.factor is None else Outcome.of(self.factor, 1)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one task.

    Attributes
    ----------
    task, title : str
    duels : tuple of Duel
        In the order of the methods; empty where ECQx, or anything else, was not measured.
    smallest : str
        The methods of the smallest files within the loss, in words.
    """

    task: str
    title: str
    duels: tuple[Duel, ...]
    smallest: str

    def rivals(self, outcome: Outcome) -> list[str]:
        """Methods against which ECQx does so."""
        return [duel.rival for duel in self.duels if duel.outcome is outcome]

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if not self.duels:
            return f"{self.title}: there is nothing to compare {CHAMPION} with."
        parts = [f"{RELATIONS[o]} {', '.join(r)}" for o in Outcome if (r := self.rivals(o))]
        return f"{self.title}: {CHAMPION} {'; '.join(parts)}."

    @property
    def size_sentence(self) -> str:
        """The same about the files within the loss; empty where there is nothing to compare."""
        rivals = {o: [d.rival for d in self.duels if d.size_outcome is o] for o in Outcome}
        parts = [f"{SIZES[o]} {', '.join(named)}" for o, named in rivals.items() if named]
        return f"{CHAMPION}’s files there are {'; '.join(parts)}." if parts else ""


def judge(comparison: Comparison) -> list[Judgement]:
    """The verdict on every task."""
    return [
        Judgement(task, title, _duels(comparison, task), _smallest_in_words(comparison, task))
        for task, title in comparison.tasks.items()
    ]


def _duels(comparison: Comparison, task: str) -> tuple[Duel, ...]:
    methods = comparison.methods(task)
    if CHAMPION not in methods:
        return ()
    rivals = [method for method in methods if method != CHAMPION]
    loss, ratios = comparison.rules.loss, comparison.fairness(task).ratios
    own, ours = comparison.records(task, CHAMPION), kept(comparison.records(task, CHAMPION), loss)
    files = {rival: comparison.records(task, rival) for rival in rivals}
    others = {rival: kept(files[rival], loss) for rival in rivals}
    measured = zip(
        *(
            with_pooled_spread(values)
            for values in (
                [_difference(own, files[rival], ratios) for rival in rivals],
                [_common_difference(own, files[rival], ratios) for rival in rivals],
                [_log_factor(ours, others[rival]) for rival in rivals],
            )
        ),
        strict=True,
    )
    return tuple(
        Duel(rival, area, common, factor and _exponential(factor), _coverage(ours, others[rival]))
        for rival, (area, common, factor) in zip(rivals, measured, strict=True)
        if area
    )


def _difference(
    own: Sequence[Record], theirs: Sequence[Record], ratios: tuple[float, float]
) -> Estimate:
    return paired_difference(areas(own, ratios), areas(theirs, ratios))


def _common_difference(
    own: Sequence[Record], theirs: Sequence[Record], ratios: tuple[float, float]
) -> Estimate | None:
    """Difference of areas where both have files: up to the ratio that both reach with any seed."""
    low, high = ratios
    reached = [
        max(file.compression_ratio for file in files)
        for method in (own, theirs)
        for files in by_seed(method).values()
    ]
    common = (low, min(high, *reached))
    return _difference(own, theirs, common) if common[1] > low else None


def _log_factor(ours: Kept, other: Kept) -> Estimate | None:
    """Logarithm of how many times larger the other's files are; None where some seed lacks one."""
    if not (ours.complete and other.complete):
        return None
    return paired_difference(
        {seed: math.log(file.bytes) for seed, file in other.files.items()},
        {seed: math.log(file.bytes) for seed, file in ours.files.items()},
    )


def _exponential(logs: Estimate) -> Estimate:
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Estimate(math.exp(logs.mean), None, logs.n, low, high)


def _coverage(ours: Kept, other: Kept) -> str:
    return f"{len(ours.files.keys() & other.files.keys())} of {ours.seeds}"


def _smallest_in_words(comparison: Comparison, task: str) -> str:
    """Who has the smallest files within the loss, and who comes next."""
    sizes: list[tuple[float, str]] = []
    for method in comparison.methods(task):
        found = kept(comparison.records(task, method), comparison.rules.loss)
        size, ratio = found.mean("bytes"), found.mean("compression_ratio")
        if size and ratio:
            words = f"{method}, {SIZE.text(size)} kB (ratio {RATIO.text(ratio)})"
            sizes.append((size.mean, words))
    if not sizes:
        return "no method has such a file with every seed"
    return "; then ".join(words for _, words in sorted(sizes, key=lambda pair: pair[0])[:2])


SIZE = Column("size_kb", "size (kB)", "spread", 1, 1e-3)
RATIO = Column("ratio", "ratio", "spread", 1)


def rule(comparison: Comparison) -> str:
    """How the verdict follows from the numbers."""
    return (
        "Each method is judged by the area under its curve: at every file size that a compression "
        f"ratio {comparison.ranges_in_words()} allows, the file of highest validation accuracy "
        "that fits is taken, and the test accuracies of these files are averaged, evenly over the "
        "logarithm of the ratio. Where none fits, accuracy counts as 0: how small its files get "
        "counts for a method, too, and one whose files are all larger has an area of 0. "
        f"{CHAMPION} wins where the 95 % "
        "interval of the difference of areas, paired per seed (Student’s t), lies above 0, loses "
        "where it lies below, and ties otherwise. Where the same difference, taken only up to the "
        "ratio that both methods reach with every seed, points the other way, the verdict is that "
        "it depends on the size. Where all seeds agree exactly, the deviation of the differences "
        "is that of the task’s other methods, pooled; where none has any, or with one seed, the "
        "comparison is inconclusive. Every interval stands for its own comparison; none is widened "
        "for there being many, so some of the many may miss the truth by chance. A tie means that "
        "these seeds show no difference, not that the methods are equal."
    )


def smallest_rule(rules: Rules) -> str:
    """What the smallest files are."""
    return (
        f"Smallest within {rules.loss_in_words}: the smallest file of each seed whose validation "
        f"accuracy is at most {rules.loss_in_words} below that of the same checkpoint trained as "
        "long in full precision, of the methods that have one with every seed. They are compared "
        "by the 95 % interval of the mean logarithm of the two sizes’ ratio."
    )


def duel_table(comparison: Comparison, judgements: Sequence[Judgement]) -> Table:
    """The numbers of all duels."""
    loss = comparison.rules.loss_in_words
    columns = (
        *(TASK, Column("rival", "other method"), Column("outcome", CHAMPION)),
        Column("area_points", "difference of areas (points)", "interval", 2, 100),
        Column("common_points", "the same where both have files (points)", "interval", 2, 100),
        Column("factor", f"other file over ours within {loss} (times)", "interval", 2),
        Column("seeds_both", "seeds with both files"),
    )
    rows = [
        Row(
            judgement.task,
            (
                *(judgement.title, duel.rival, duel.outcome.value),
                *(duel.area, duel.common, duel.factor, duel.coverage),
            ),
            source_of(
                record
                for method in (CHAMPION, duel.rival)
                for record in comparison.records(judgement.task, method)
            ),
        )
        for judgement in judgements
        for duel in judgement.duels
    ]
    caption = (
        f"Area of {CHAMPION} minus that of the other method, over the whole range and over the "
        "part of it where both have files with every seed, and the size of the other’s smallest "
        f"file within {loss} of full precision over ours (above 1: ours is smaller), as means with "
        "95 % intervals over seeds."
    )
    title = f"{CHAMPION} against each other method"
    return table(comparison.evidence, "verdict", title, caption, columns, rows)


def comparison_markdown(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    """The verdict as a section of a Markdown document."""
    duels = duel_table(comparison, judgements)
    lines = [
        f"## {CHAMPION} beside other methods",
        "",
        *(f"- {judgement.sentence}" for judgement in judgements),
        "",
        smallest_rule(comparison.rules),
        "",
        *(f"- {j.title}: {j.smallest}. {j.size_sentence}".rstrip() for j in judgements),
        "",
        f"Rule: {rule(comparison)}",
    ]
    if duels.rows:
        lines += ["", f"### {duels.title}", "", duels.caption, "", markdown_body(duels)]
    return "\n".join(lines) + "\n"
