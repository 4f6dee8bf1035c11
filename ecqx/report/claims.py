"""The paper's four claims, judged from the runs of the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from ecqx.report import columns as col
from ecqx.report.columns import gain_cells, row, table
from ecqx.report.correlations import Correlation
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Row
from ecqx.report.records import GRID, GRID_METHODS, PAPER_METHOD, Setting
from ecqx.report.selection import flat, gain_at_equal_sparsity, most_accurate, smallest_file
from ecqx.report.statistics import Estimate, grouped, with_pooled_spread
from ecqx.report.tables import RELEVANCE, relevance_row
from ecqx.report.verdicts import (
    MARGIN_TEXT,
    Claim,
    Part,
    Verdict,
    combine,
    judge_below,
    judge_gain,
)

PAPER_RATIO = 103
PAPER_BITS = range(2, 6)

RANK_BOUND = 0.9

DROP = Column("drop_points", "drop (points)", "interval", 2, 100)
VERDICT = Column("verdict", "verdict")
EVIDENCE = ("Evidence", "")

DROP_TEXT = (
    "The drop is the accuracy (the task's metric) of the same checkpoint trained as long in full "
    "precision, accuracy_fp32, minus that of the decoded model, paired per seed. Where all seeds "
    "agree exactly, the deviation is that of the task’s settings, pooled; where none of them has "
    "any, or with one seed only, the row is inconclusive."
)


def build_claims(evidence: Evidence, correlations: Sequence[Correlation]) -> list[Claim]:
    """All claims of the paper, judged."""
    return [
        file_size(evidence),
        low_bit_width(evidence),
        equal_sparsity(evidence),
        not_magnitude(evidence, correlations),
    ]


class Judged(NamedTuple):
    """A setting of the grid, the drop and the verdict on whether it keeps the accuracy."""

    setting: Setting
    drop: Estimate
    verdict: Verdict

    @property
    def ratio(self) -> Estimate:
        """Compression ratio over seeds."""
        return self.setting.mean("compression_ratio")


def _judged(evidence: Evidence, task: str, method: str) -> list[Judged]:
    """A method's grid; settings whose drop is the same in all seeds take the pooled deviation."""
    settings = evidence.of(task)
    drops = with_pooled_spread([setting.mean("drop") for setting in settings])
    pairs = zip(settings, drops, strict=True)
    return [Judged(s, drop, judge_below(drop)) for s, drop in pairs if drop and s.method == method]


def file_size(evidence: Evidence) -> Claim:
    """Claim 1: how small a file may be while the accuracy is kept."""
    own = [one for task in evidence.tasks for one in _judged(evidence, task, PAPER_METHOD)]
    rows = [
        row
        for task in evidence.tasks
        for method in GRID_METHODS
        for row in _ratio_rows(_judged(evidence, task, method))
    ]
    columns = (
        *(col.METHOD, Column("chosen", "setting"), col.BITS, col.LABEL[-1], col.RATIO, DROP),
        Column("overhead_percent", "not weights (% of file)", "number", 1, 100),
    )
    return Claim(
        key="file-size",
        title=f"Files are up to {PAPER_RATIO} times smaller without loss of accuracy.",
        verdict=_ratio_verdict(own),
        findings=tuple(_ratio_findings(evidence, own)),
        rule=(
            "A setting keeps the accuracy if the 95 % interval of its drop lies below "
            f"{MARGIN_TEXT}. {DROP_TEXT} The claim holds if an ECQx setting with "
            f"a mean ratio of at least {PAPER_RATIO} keeps the accuracy. It does not hold if every "
            "ECQx setting has the interval of its ratio wholly below that or the interval of its "
            "drop wholly above the margin. The largest ratio is chosen by test accuracy; the rows "
            "by validation show a choice without it. The ratio depends on the size of the "
            "network: names, step sizes, biases and BatchNorm do not shrink with the weights."
        ),
        table=table(evidence, "claim_file_size", *EVIDENCE, columns, rows),
    )


def _kept(settings: Sequence[Judged]) -> list[Judged]:
    return [one for one in settings if one.verdict is Verdict.HOLDS]


def _largest(settings: Sequence[Judged]) -> Judged | None:
    """The setting of largest mean ratio."""
    return max(settings, key=lambda one: one.ratio.mean, default=None)


def _ratio_verdict(settings: Sequence[Judged]) -> Verdict:
    if any(one.ratio.mean >= PAPER_RATIO for one in _kept(settings)):
        return Verdict.HOLDS
    possible = [one for one in settings if one.verdict is not Verdict.FAILS]
    too_large = [one.ratio.lies_below(PAPER_RATIO) for one in possible]
    return Verdict.FAILS if settings and all(too_large) else Verdict.OPEN


def _ratio_findings(evidence: Evidence, settings: Sequence[Judged]) -> Iterator[str]:
    if not settings:
        yield "No ECQx runs were measured."
        return
    kept = "Largest ratio of ECQx with the accuracy kept"
    tasks = grouped(settings, lambda one: one.setting.task)
    yield f"{kept}: {_ratio_text(evidence, _kept(settings))}"
    yield f"Largest ratio of ECQx at any accuracy: {_ratio_text(evidence, settings)}"
    for task, own in tasks.items() if len(tasks) > 1 else ():
        yield f"{kept}, {evidence.tasks[task]}: {_ratio_text(evidence, _kept(own))}"


def _ratio_text(evidence: Evidence, settings: Sequence[Judged]) -> str:
    best = _largest(settings)
    if best is None:
        return f"no setting is certain to lose less than {MARGIN_TEXT}."
    where = f"{evidence.name(best.setting.task)}, {best.setting.bits} bit, Λ {best.setting.lam:g}"
    return f"{col.RATIO.text(best.ratio)} ({where}), drop {in_points(best.drop)}."


def _ratio_rows(settings: Sequence[Judged]) -> Iterator[Row]:
    if not settings:
        return
    smallest = smallest_file([one.setting for one in settings])
    choices = {
        "largest ratio, accuracy kept": _largest(_kept(settings)),
        "smallest file by validation": next(o for o in settings if o.setting is smallest),
        "largest ratio, any accuracy": _largest(settings),
    }
    records = flat(one.setting for one in settings)
    for words, one in choices.items():
        numbers: tuple[Cell, ...] = ("none", None, None, None, None)
        if one is not None:
            label = (one.setting.bits, one.setting.lam_in_words)
            overhead = one.setting.mean("bytes_other").mean / one.setting.mean("bytes").mean
            numbers = (*label, one.ratio, one.drop, overhead)
        yield row(records, smallest.method, words, *numbers)


def low_bit_width(evidence: Evidence) -> Claim:
    """Claim 2: whether accuracy is kept at each bit width."""
    rows, parts = [], []
    for task in evidence.tasks:
        judged = [one for method in GRID_METHODS for one in _judged(evidence, task, method)]
        in_order = sorted(judged, key=lambda one: one.setting.bits or 0)
        of_kind = grouped(in_order, lambda one: (one.setting.bits, one.setting.method))
        for (bits, method), own in of_kind.items():
            if bits in PAPER_BITS:
                chosen = most_accurate([one.setting for one in own])
                best = next(one for one in own if one.setting is chosen)
                rows.append((chosen, {DROP.key: best.drop, VERDICT.key: best.verdict.value}))
                if method == PAPER_METHOD:
                    case = f"{bits} bit"
                    parts.append(Part(evidence.name(task), case, best.drop, best.verdict))
    columns = (*col.LABEL, col.FULL_PRECISION, col.ACCURACY, DROP, VERDICT)
    return Claim(
        key="bit-width",
        title="Weights of 2 to 5 bit cost no accuracy.",
        verdict=combine(parts),
        findings=(
            tally(parts, "tasks and bit widths with ECQx"),
            *extreme(parts, max, "Largest drop of ECQx", in_points),
            *by_task(parts, "Drop of ECQx"),
        ),
        rule=(
            "Per task, bit width and method the setting of highest mean validation accuracy is "
            "taken. The row holds if the 95 % interval of its drop lies below "
            f"{MARGIN_TEXT}, and does not hold if the interval lies wholly above. {DROP_TEXT} "
            "Only the rows of ECQx count: the claim holds if all of them do, and "
            "does not hold if one does not."
        ),
        table=table(evidence, "claim_bit_width", *EVIDENCE, columns, rows),
    )


def equal_sparsity(evidence: Evidence) -> Claim:
    """Claim 3: ECQx against ECQ at equal sparsity."""
    rows, parts = [], []
    for task in evidence.tasks:
        pairs = {
            bits: [evidence.of(task, GRID, method, bits) for method in GRID_METHODS]
            for bits in evidence.bits(task)
            if bits in PAPER_BITS
        }
        pairs = {bits: pair for bits, pair in pairs.items() if all(pair)}
        gains = [gain_at_equal_sparsity(ecqx, ecq) for ecq, ecqx in pairs.values()]
        differences = with_pooled_spread([gain.difference for gain in gains])
        for bits, gain, difference in zip(pairs, gains, differences, strict=True):
            verdict = judge_gain(difference)
            parts.append(Part(evidence.name(task), f"{bits} bit", difference, verdict))
            shown = gain_cells(replace(gain, difference=difference))
            compared = f"{gain.compared} of {gain.seeds}"
            rows.append(row(flat(chain(*pairs[bits])), bits, *shown, compared, verdict.value))
    columns = (col.BITS, col.GAIN, col.SHARED_RANGE, Column("compared", "seeds compared"), VERDICT)
    return Claim(
        key="equal-sparsity",
        title="ECQx is at least as accurate as ECQ at equal sparsity.",
        verdict=combine(parts),
        findings=tuple(_gain_findings(parts)),
        rule=(
            "Per task, bit width and seed, accuracy (the task's metric) is interpolated linearly "
            "over sparsity along Λ, and the difference ECQx − ECQ is averaged over the range of "
            "sparsity that both methods cover. A row holds if the 95 % interval over seeds lies "
            f"above −{MARGIN_TEXT}, and does not hold if it lies wholly below. Without a common "
            "range it is inconclusive. Where all seeds agree exactly, the deviation is that of the "
            "task’s bit widths, pooled; where none of them has any, or with one seed only, the row "
            "is inconclusive. The claim holds if all rows do, and does not hold if one does not."
        ),
        table=table(evidence, "claim_equal_sparsity", *EVIDENCE, columns, rows),
    )


def _gain_findings(parts: Sequence[Part]) -> Iterator[str]:
    yield tally(parts, "tasks and bit widths")
    yield from extreme(parts, min, "Smallest difference ECQx − ECQ", in_points)
    yield from extreme(parts, max, "Largest difference ECQx − ECQ", in_points)
    better = [part for part in parts if part.value and part.value.lies_above(0.0)]
    if parts:
        yield f"ECQx is more accurate, with an interval above 0, in {len(better)} of {len(parts)}."
    apart = [part.name for part in parts if part.value is None]
    if apart:
        yield f"Without a common range of sparsity: {'; '.join(apart)}."
    yield from by_task(parts, "ECQx − ECQ")


def not_magnitude(evidence: Evidence, correlations: Sequence[Correlation]) -> Claim:
    """Claim 4: relevance ranks weights otherwise than magnitude does."""
    ranks = [(evidence.name(found.task), found.layer, found.spearman) for found in correlations]
    parts = [Part(*rank, judge_below(rank[-1], RANK_BOUND)) for rank in ranks]
    rows = [
        relevance_row(evidence, found, part.verdict.value)
        for found, part in zip(correlations, parts, strict=True)
    ]
    known = [part for part in parts if part.value and part.value.high is not None]
    highest = extreme(known, max, "Highest rank correlation", Column("", "", "interval", 3).text)
    return Claim(
        key="relevance-is-not-magnitude",
        title="The relevance of a weight is not its magnitude.",
        verdict=combine(parts),
        findings=(tally(parts, "layers"), *highest),
        rule=(
            "Rank correlation of |w| and |r| in the first and the last layer of each network, with "
            "a 95 % bootstrap interval over weights. A layer holds if the upper end stays below "
            f"{RANK_BOUND}, and does not hold if the lower end lies above. The claim holds if all "
            "layers do, and does not hold if one does not."
        ),
        table=table(evidence, "claim_not_magnitude", *EVIDENCE, (*RELEVANCE, VERDICT), rows),
    )


# -- findings in words -----------------------------------------------------------------------------

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
    without = "one seed" if value.n == 1 else "equal in all seeds"
    note = f" ({without}, no interval)" if value.low is None else ""
    return f"{POINTS.text(value)} points{note}"
