"""The verdict of the comparison: where ECQx wins, ties and loses, task by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecqx.report.columns import RATIO, SIZE, row, table
from ecqx.report.comparison import Comparison, Kept, area_terms, kept
from ecqx.report.contrasts import Contrast, contrast, intervals
from ecqx.report.formats import Column, Table, markdown_body
from ecqx.report.records import PAPER_METHOD, Record
from ecqx.report.rules import LOSSES, Rules, loss_in_words
from ecqx.report.selection import by_seed
from ecqx.report.statistics import Estimate
from ecqx.report.verdicts import Verdict, judge_against

# What stands before the names of the methods.
RELATIONS = {
    Verdict.WINS: "wins against",
    Verdict.TIES: "ties with",
    Verdict.LOSES: "loses to",
    Verdict.OPEN: "is inconclusive against",
}
# The same of the sizes of files.
SIZES = {
    Verdict.WINS: "smaller than those of",
    Verdict.TIES: "neither clearly smaller nor clearly larger than those of",
    Verdict.LOSES: "larger than those of",
    Verdict.OPEN: "not comparable, for lack of a file or of a spread over seeds, with those of",
}


# In a tie the interval reaches no further, a fraction: the largest loss that a user may allow.
TIE = LOSSES[-1]
# Methods are compared over at least this share of the ratios, on the logarithmic scale.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class Duel:
    """ECQx against one other method; differences are paired per seed.

    Attributes
    ----------
    area : Estimate or None
        Area under the curve of ECQx minus that of the other, a fraction of one, over the
        compression ratios up to ``ratio`` that both reach with every seed; None if these are too
        few.
    ratio : float
    factor : Estimate or None
        Smallest file within the loss of the other over that of ECQx: geometric mean over seeds.
        None where some seed of either has no such file; ``coverage`` says how many have.
    """

    rival: str
    area: Estimate | None
    ratio: float
    factor: Estimate | None
    coverage: str

    @property
    def verdict(self) -> Verdict:
        """By the interval of the difference of areas."""
        return judge_against(self.area, 0, -TIE, TIE)

    @property
    def size_verdict(self) -> Verdict:
        """How ECQx does by the size of files within the loss: by the interval of the factor."""
        return judge_against(self.factor, 1)


@dataclass(frozen=True)
class Judgement:
    """The verdict on one task.

    ``duels`` is empty where ECQx, or anything else, was not measured; ``smallest`` names the
    methods of the smallest files within the loss.
    """

    task: str
    title: str
    duels: tuple[Duel, ...]
    smallest: str

    def rivals(self, verdict: Verdict) -> list[str]:
        """Methods that have this verdict."""
        return [duel.rival for duel in self.duels if duel.verdict is verdict]

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if not self.duels:
            return f"{self.title}: there is nothing to compare {PAPER_METHOD} with."
        words = _relations(RELATIONS, [(duel.rival, duel.verdict) for duel in self.duels])
        return f"{self.title}: {PAPER_METHOD} {words}."

    @property
    def size_sentence(self) -> str:
        """The same about the files within the loss; empty where there is nothing to compare."""
        words = _relations(SIZES, [(duel.rival, duel.size_verdict) for duel in self.duels])
        return f"{PAPER_METHOD}’s files there are {words}." if words else ""


def _relations(words: Mapping[Verdict, str], verdicts: Sequence[tuple[str, Verdict]]) -> str:
    """Each verdict that occurs, in words, with the methods that have it."""
    named = {v: [rival for rival, own in verdicts if own is v] for v in words}
    return "; ".join(f"{words[v]} {', '.join(rivals)}" for v, rivals in named.items() if rivals)


def judge(comparison: Comparison) -> list[Judgement]:
    """The verdict on every task."""
    return [_judgement(comparison, task) for task in comparison.tasks]


def _judgement(comparison: Comparison, task: str) -> Judgement:
    files = {method: comparison.records(task, method) for method in comparison.methods(task)}
    within = {method: kept(own, comparison.rules.loss) for method, own in files.items()}
    smallest = _smallest_in_words(within)
    duels: tuple[Duel, ...] = ()
    if PAPER_METHOD in files:
        duels = _duels(files, within, comparison.rules.tasks[task].ratios)
    return Judgement(task, comparison.tasks[task], duels, smallest)


def _duels(
    files: Mapping[str, Sequence[Record]], within: Mapping[str, Kept], ratios: tuple[float, float]
) -> tuple[Duel, ...]:
    ours, rivals = within[PAPER_METHOD], [method for method in files if method != PAPER_METHOD]
    low, high = ratios

    def reached(method: str) -> float:
        """The ratio that the method reaches with every seed."""
        seeds = by_seed(files[method]).values()
        return min(max(file.compression_ratio for file in own) for own in seeds)

    def of_areas(rival: str, most: float) -> Contrast | None:
        """ECQx's area minus the other's; None over too short a range."""
        if math.log(most / low) < LEAST_SHARE * math.log(high / low):
            return None
        own, theirs = (by_seed(files[method]) for method in (PAPER_METHOD, rival))
        return contrast(
            {
                seed: [
                    *((w, file.network) for w, file in area_terms(own[seed], (low, most))),
                    *((-w, file.network) for w, file in area_terms(theirs[seed], (low, most))),
                ]
                for seed in own
                if seed in theirs
            }
        )

    def log_factor(rival: str) -> Contrast | None:
        """Logarithm of how many times larger the other's files are."""
        theirs = within[rival]
        if not (ours.complete and theirs.complete):
            return None
        pairs = [(theirs.files[seed].bytes, ours.files[seed].bytes) for seed in ours.files]
        return Contrast(tuple(math.log(size / own) for size, own in pairs))

    most = {rival: min(high, reached(rival), reached(PAPER_METHOD)) for rival in rivals}
    areas = intervals([of_areas(rival, most[rival]) for rival in rivals])
    factors = intervals([log_factor(rival) for rival in rivals])
    counts = [len(ours.files.keys() & within[rival].files.keys()) for rival in rivals]
    return tuple(
        Duel(
            *(rival, area and area.value, most[rival]),
            *(_exponential(factor and factor.value), f"{count} of {ours.seeds}"),
        )
        for rival, area, factor, count in zip(rivals, areas, factors, counts, strict=True)
    )


def _exponential(logs: Estimate | None) -> Estimate | None:
    if logs is None:
        return None
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Estimate(math.exp(logs.mean), None, logs.n, low, high)


def _smallest_in_words(within: Mapping[str, Kept]) -> str:
    """Which methods have the smallest and the second smallest files within the loss."""
    sizes: list[tuple[float, str]] = []
    for method, found in within.items():
        size, ratio = found.mean("bytes"), found.mean("compression_ratio")
        if size and ratio:
            words = f"{method}, {SIZE.text(size)} kB (ratio {RATIO.text(ratio)})"
            sizes.append((size.mean, words))
    if not sizes:
        return "no method has such a file with every seed"
    return "; then ".join(words for _, words in sorted(sizes, key=lambda pair: pair[0])[:2])


def rule(comparison: Comparison) -> str:
    """How the verdict follows from the numbers."""
    return (
        "Each other method is judged by the area under the curve of test accuracy over file size, "
        f"at compression ratios {comparison.ranges_in_words()}, as far as both methods reach with "
        f"every seed, but over no less than {100 * LEAST_SHARE:g} % of that range. At each size "
        "the file of highest validation accuracy that fits is taken; sizes are weighted evenly on "
        f"a logarithmic scale. {PAPER_METHOD} wins where the 95 % interval of the difference of "
        "areas, paired per seed, lies above 0, loses where it lies below, and ties where it holds "
        f"0 and lies within {loss_in_words(TIE)}. Otherwise, without a common range, or with one "
        "seed, the comparison is inconclusive. Intervals cover other seeds and other test samples; "
        "they are not corrected for multiple comparisons. A tie means that these runs show no "
        "difference, not that the methods are equal."
    )


def smallest_rule(rules: Rules) -> str:
    """What the smallest files are."""
    loss = rules.loss_in_words
    return (
        f"Smallest within {loss}: the smallest file of each seed whose validation accuracy is at "
        f"most {loss} below that of the same checkpoint trained as long in full precision, of the "
        "methods that have such a file with every seed. They are compared by the 95 % interval of "
        "the mean logarithm of the two sizes’ ratio."
    )


def duel_table(comparison: Comparison, judgements: Sequence[Judgement]) -> Table:
    """The numbers of all duels."""
    loss = comparison.rules.loss_in_words
    columns = (
        *(Column("rival", "other method"), Column("verdict", PAPER_METHOD)),
        Column("area_points", "difference of areas (points)", "interval", 2, 100),
        Column("ratio", "up to ratio", "number", 1),
        Column("factor", f"other file over ours within {loss} (times)", "interval", 2),
        Column("seeds_both", "seeds with both files"),
    )
    rows = [
        row(
            [r for m in (PAPER_METHOD, duel.rival) for r in comparison.records(judgement.task, m)],
            *(duel.rival, duel.verdict.value, duel.area, duel.ratio, duel.factor, duel.coverage),
        )
        for judgement in judgements
        for duel in judgement.duels
    ]
    caption = (
        f"Area of {PAPER_METHOD} minus that of the other method, over the ratios that both reach "
        "with every seed, and the size of the other’s smallest file within "
        f"{loss} of full precision over ours (above 1: ours is smaller); means with 95 % intervals."
    )
    title = f"{PAPER_METHOD} against each other method"
    return table(comparison.evidence, "verdict", title, caption, columns, rows)


def comparison_markdown(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    """The verdict as a section of a Markdown document."""
    duels = duel_table(comparison, judgements)
    lines = [
        f"## {PAPER_METHOD} beside other methods",
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
