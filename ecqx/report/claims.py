"""The paper's four claims, judged from the runs of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ecqx.report import columns as col
from ecqx.report.columns import row, table
from ecqx.report.contrasts import intervals
from ecqx.report.correlations import Correlation
from ecqx.report.evidence import Evidence
from ecqx.report.findings import by_task, extreme, in_points, tally
from ecqx.report.formats import Cell, Column, Row
from ecqx.report.records import (
    GRID,
    GRID_METHODS,
    PAPER_BAND,
    PAPER_METHOD,
    PUBLISHED_BAND,
    Setting,
)
from ecqx.report.rules import COLLAPSE, LOSSES, loss_in_words
from ecqx.report.selection import (
    drop_of,
    flat,
    gain_at_equal_sparsity,
    loses_at_most,
    most_accurate,
)
from ecqx.report.statistics import Estimate, grouped
from ecqx.report.sweeps import by_p
from ecqx.report.tables import RELEVANCE, relevance_row
from ecqx.report.verdicts import (
    MARGIN,
    MARGIN_TEXT,
    Claim,
    Part,
    Verdict,
    combine,
    decisive,
    in_words,
    judge_below,
    judge_gain,
)

PAPER_RATIO = 103
PAPER_BITS = range(2, 6)

RANK_BOUND = 0.9
# Losses, by validation, beyond which settings are left out of two further columns of claim 3:
# networks that have not collapsed, and those that a user would take.
LOSS_LIMITS = (COLLAPSE, LOSSES[-1])

DROP = Column("drop_points", "drop (points)", "interval", 2, 100)
VERDICT = Column("verdict", "verdict")
NEEDED = Column("would_take", "would take", paper="no")
LIMITED_TEXT = tuple(f"where both lose at most {loss_in_words(loss)}" for loss in LOSS_LIMITS)
LIMITED_GAINS = tuple(
    Column(f"gain_within_{100 * loss:g}_points", f"{text} (points)", "interval", 2, 100)
    for loss, text in zip(LOSS_LIMITS, LIMITED_TEXT, strict=True)
)
EVIDENCE = ("Evidence", "")

DROP_TEXT = (
    "The drop is the accuracy (the task's metric) of the same checkpoint trained as long in full "
    "precision, accuracy_fp32, minus that of the decoded model, paired per seed."
)
INTERVAL_TEXT = (
    "Intervals (95 %) cover other seeds and other test samples. Deviations are pooled over the "
    "settings of a task that lose at most 2 points, or over its bit widths, where Levene’s test "
    "finds no difference between them; each is at least one test sample. With one seed there is no "
    "interval, and the row is inconclusive. Where a row is inconclusive, the last column says what "
    "would have decided a difference of this size."
)


def build_claims(evidence: Evidence, correlations: Sequence[Correlation]) -> list[Claim]:
    """All claims of the paper, judged."""
    judged = {task: _judged(evidence, task) for task in evidence.tasks}
    return [
        file_size(evidence, judged),
        low_bit_width(evidence, judged),
        equal_sparsity(evidence),
        not_magnitude(evidence, correlations),
    ]


def _part(
    evidence: Evidence, task: str, case: str, value: Estimate | None, verdict: Verdict
) -> Part:
    return Part(evidence.name(task), case, value, verdict, task in evidence.deciding)


class Judged(NamedTuple):
    """A setting of the grid, its drop, and whether it keeps the accuracy."""

    setting: Setting
    drop: Estimate
    verdict: Verdict
    would_take: str | None

    @property
    def ratio(self) -> Estimate:
        """Compression ratio over seeds."""
        return self.setting.mean("compression_ratio")

    @property
    def cells(self) -> dict[str, Cell]:
        """Cells of `DROP`, `VERDICT` and `NEEDED`."""
        return judged_cells(DROP, self.drop, self.verdict, -1, self.would_take)


# Judged settings by task and method.
ByTask = Mapping[str, Mapping[str, Sequence[Judged]]]


def _judged(evidence: Evidence, task: str) -> dict[str, list[Judged]]:
    """The settings of the grid, by method.

    Deviations are pooled over the settings of both methods that a user would take: those that lose
    no more than the largest of `LOSSES`. A network that has collapsed scatters more.
    """
    settings = evidence.of(task)
    drops = [drop_of(setting.records) for setting in settings]
    found = intervals(drops, MARGIN, lambda drop: drop.mean <= LOSSES[-1])
    judged = [
        Judged(setting, drop.value, judge_below(drop.value), drop.would_take)
        for setting, drop in zip(settings, found, strict=True)
        if drop
    ]
    return {
        method: [one for one in judged if one.setting.method == method] for method in GRID_METHODS
    }


def judged_cells(
    column: Column, value: Estimate | None, verdict: Verdict, sign: int, would_take: str | None
) -> dict[str, Cell]:
    """Cells of a value, its verdict, and what would have decided it where it is inconclusive.

    ``sign`` is that of a value that speaks for the method.
    """
    return {
        column.key: value,
        VERDICT.key: in_words(verdict, value and value.scaled(sign)),
        NEEDED.key: would_take if verdict is Verdict.OPEN else None,
    }


def file_size(evidence: Evidence, judged: ByTask) -> Claim:
    """Claim 1: how small a file may be while the accuracy is kept."""
    own = {task: methods[PAPER_METHOD] for task, methods in judged.items()}
    rows = [
        row
        for methods in judged.values()
        for settings in methods.values()
        for row in _ratio_rows(settings)
    ]
    columns = (
        *(col.METHOD, Column("chosen", "chosen by"), col.BITS, col.LABEL[-1], col.RATIO, DROP),
        VERDICT,
        Column("overhead_percent", "not weights (% of file)", "number", 1, 100),
    )
    return Claim(
        key="file-size",
        title=f"Files are up to {PAPER_RATIO} times smaller without loss of accuracy.",
        verdict=_ratio_verdict([own[task] for task in evidence.deciding if own[task]]),
        findings=tuple(_ratio_findings(evidence, own)),
        rule=(
            "A setting keeps the accuracy if the 95 % interval of its drop lies below "
            f"{MARGIN_TEXT}. {DROP_TEXT} The claim holds if an ECQx setting with "
            f"a mean ratio of at least {PAPER_RATIO} keeps the accuracy. It does not hold if every "
            "ECQx setting has the interval of its ratio wholly below that or the interval of its "
            "drop wholly above the margin, and the largest ratio of each task is among the latter, "
            "so that a still larger one would lose more. The first rows of a method are the "
            "smallest files whose mean validation accuracy is at most so much below that of full "
            "precision; the test drop stands beside. The largest ratio that keeps the accuracy is "
            f"chosen by the test drop itself. {INTERVAL_TEXT} The ratio depends on the size of the "
            "network: names, step sizes, biases and BatchNorm do not shrink with the weights."
        ),
        table=table(evidence, "claim_file_size", *EVIDENCE, columns, rows),
        deciding=evidence.deciding,
    )


def _kept(settings: Sequence[Judged]) -> list[Judged]:
    return [one for one in settings if one.verdict is Verdict.HOLDS]


def _largest(settings: Sequence[Judged]) -> Judged | None:
    """The setting of largest mean ratio."""
    return max(settings, key=lambda one: one.ratio.mean, default=None)


def _ratio_verdict(by_task: Sequence[Sequence[Judged]]) -> Verdict:
    if not by_task:
        return Verdict.ABSENT
    settings = [one for own in by_task for one in own]
    if any(one.ratio.mean >= PAPER_RATIO for one in _kept(settings)):
        return Verdict.HOLDS
    possible = [one for one in settings if one.verdict is not Verdict.FAILS]
    too_large = all(one.ratio.lies_below(PAPER_RATIO) for one in possible)
    larger_ones_lose = not any(_largest(own) in possible for own in by_task)
    return Verdict.FAILS if too_large and larger_ones_lose else Verdict.OPEN


def _ratio_findings(evidence: Evidence, settings: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    if not any(settings.values()):
        yield "No ECQx runs were measured."
    for task, own in settings.items():
        if not own:
            continue
        found = "; ".join(
            f"within {words} {_ratio_text(best)}" for words, best in _smallest_files(own).items()
        )
        yield f"{evidence.name(task)}, smallest file of ECQx by validation: {found}."
        yield f"{evidence.name(task)}, largest ratio with the accuracy kept: {_kept_text(own)}."


def _smallest_files(settings: Sequence[Judged]) -> dict[str, Judged | None]:
    """The smallest file for each of `LOSSES`, by validation, means over seeds."""
    possible = {
        loss_in_words(loss): [one for one in settings if loses_at_most(one.setting, loss)]
        for loss in LOSSES
    }
    return {
        words: min(own, key=lambda one: one.setting.mean("bytes").mean, default=None)
        for words, own in possible.items()
    }


def _ratio_text(best: Judged | None) -> str:
    if best is None:
        return "none"
    where = f"{best.setting.bits} bit, Λ {best.setting.lam:g}"
    return f"ratio {col.RATIO.text(best.ratio)} ({where}), test drop {in_points(best.drop)}"


def _kept_text(settings: Sequence[Judged]) -> str:
    """The largest ratio whose drop is certain to be below the margin, or what comes closest."""
    if best := _largest(_kept(settings)):
        return _ratio_text(best)
    possible = [one for one in settings if one.verdict is Verdict.OPEN]
    closest = min(possible, key=lambda one: one.drop.mean, default=None)
    if closest is None:
        return f"none; every setting loses more than {MARGIN_TEXT}"
    needed = f"; to be certain would take {closest.would_take}" if closest.would_take else ""
    return f"inconclusive; the smallest drop has {_ratio_text(closest)}{needed}"


def _ratio_rows(settings: Sequence[Judged]) -> Iterator[Row]:
    if not settings:
        return
    choices = {
        **{f"validation, {loss}": best for loss, best in _smallest_files(settings).items()},
        "test, accuracy kept": _largest(_kept(settings)),
        "largest ratio": _largest(settings),
    }
    records = flat(one.setting for one in settings)
    for words, one in choices.items():
        numbers: tuple[Cell, ...] = ("none", None, None, None, None, None)
        if one is not None:
            label = (one.setting.bits, one.setting.lam_in_words)
            overhead = one.setting.mean("bytes_other").mean / one.setting.mean("bytes").mean
            numbers = (*label, one.ratio, one.drop, one.cells[VERDICT.key], overhead)
        yield row(records, settings[0].setting.method, words, *numbers)


def low_bit_width(evidence: Evidence, judged: ByTask) -> Claim:
    """Claim 2: whether accuracy is kept at each bit width."""
    rows, parts, absent = [], [], []
    for task, methods in judged.items():
        settings = [one for own in methods.values() for one in own]
        in_order = sorted(settings, key=lambda one: one.setting.bits or 0)
        of_kind = grouped(in_order, lambda one: (one.setting.bits, one.setting.method))
        for (bits, method), own in of_kind.items():
            if bits in PAPER_BITS:
                chosen = most_accurate([one.setting for one in own])
                best = next(one for one in own if one.setting is chosen)
                rows.append((chosen, best.cells))
                if method == PAPER_METHOD:
                    case = f"{bits} bit"
                    parts.append(_part(evidence, task, case, best.drop, best.verdict))
        measured = {bits for bits, method in of_kind if method == PAPER_METHOD}
        if measured.intersection(PAPER_BITS):
            absent += [
                _part(evidence, task, f"{bits} bit", None, Verdict.ABSENT)
                for bits in PAPER_BITS
                if bits not in measured
            ]
    columns = (*col.LABEL, col.FULL_PRECISION, col.ACCURACY, DROP, VERDICT, NEEDED)
    return Claim(
        key="bit-width",
        title="Weights of 2 to 5 bit cost no accuracy.",
        verdict=combine(decisive(parts + absent)),
        findings=(
            tally(decisive(parts + absent), "tasks and bit widths with ECQx"),
            *extreme(decisive(parts), max, "Largest drop of ECQx", in_points),
            *by_task(parts, "Drop of ECQx"),
        ),
        rule=(
            "Per task, bit width and method the setting of highest mean validation accuracy is "
            "taken. The row holds if the 95 % interval of its drop lies below "
            f"{MARGIN_TEXT}, and does not hold if the interval lies wholly above. {DROP_TEXT} "
            "Only the rows of ECQx count: the claim holds if all of them do, at every bit width "
            f"from {PAPER_BITS[0]} to {PAPER_BITS[-1]}, and does not hold if one does not. "
            f"{INTERVAL_TEXT}"
        ),
        table=table(evidence, "claim_bit_width", *EVIDENCE, columns, rows),
        deciding=evidence.deciding,
    )


def equal_sparsity(evidence: Evidence) -> Claim:
    """Claim 3: ECQx against ECQ at equal sparsity, by both readings of the sparsity band."""
    compared = [one for task in evidence.tasks for one in _compared(evidence, task)]
    parts = [one.everywhere for one in compared]
    columns = (
        *(col.BITS, col.BAND, col.GAIN, col.SHARED_RANGE, *LIMITED_GAINS),
        *(Column("compared", "seeds compared", paper="no"), VERDICT, NEEDED),
    )
    return Claim(
        key="equal-sparsity",
        title="ECQx is at least as accurate as ECQ at equal sparsity.",
        verdict=combine(decisive(parts)),
        findings=(
            *_gain_findings(decisive(parts)),
            *by_task(parts, "ECQx − ECQ"),
            *(
                finding
                for i, text in enumerate(LIMITED_TEXT)
                for finding in by_task([one.limited[i] for one in compared], f"ECQx − ECQ {text}")
            ),
        ),
        rule=(
            "Per task, bit width and seed, accuracy (the task's metric) is interpolated linearly "
            "over sparsity along Λ, and the difference ECQx − ECQ is averaged over the range of "
            f"sparsity that both methods cover. The band {PUBLISHED_BAND} is that of the published "
            f"code, {PAPER_BAND} that of the paper’s text, in which relevance adds sparsity. A "
            f"row holds if the 95 % interval lies above −{MARGIN_TEXT}, and does not hold if it "
            "lies wholly below. Without a common range it is inconclusive. The claim holds if all "
            "rows do, and does not hold if one does not. The columns ‘where both lose at most …’ "
            f"repeat this without the settings that lose more by validation. {INTERVAL_TEXT}"
        ),
        table=table(
            evidence, "claim_equal_sparsity", *EVIDENCE, columns, (c.row for c in compared)
        ),
        deciding=evidence.deciding,
    )


class Compared(NamedTuple):
    """A row of claim 3: the difference over all sparsities, and for each of `LOSS_LIMITS`."""

    everywhere: Part
    limited: list[Part]
    row: Row


def _compared(evidence: Evidence, task: str) -> Iterator[Compared]:
    """The rows of a task; deviations are pooled over them."""
    pairs = list(_pairs(evidence, task))
    gains = [
        [gain_at_equal_sparsity(*pair.within(loss)) for pair in pairs]
        for loss in (math.inf, *LOSS_LIMITS)
    ]
    found = [intervals([gain.difference for gain in every], -MARGIN) for every in gains]
    for pair, gain, (first, *others) in zip(pairs, gains[0], zip(*found, strict=True), strict=True):
        case = f"{pair.bits} bit, band {pair.band}"
        everywhere, *limited = (
            _part(evidence, task, case, value, judge_gain(value))
            for value in (one and one.value for one in (first, *others))
        )
        needed = first and first.would_take
        cells = judged_cells(col.GAIN, everywhere.value, everywhere.verdict, 1, needed)
        yield Compared(
            everywhere,
            limited,
            row(
                flat((*pair.ecqx, *pair.ecq)),
                *(pair.bits, pair.band, cells[col.GAIN.key], gain.range_in_words),
                *(part.value for part in limited),
                *(f"{gain.compared} of {gain.seeds}", cells[VERDICT.key], cells[NEEDED.key]),
            ),
        )


class Pair(NamedTuple):
    """Settings of ECQx and ECQ that are compared at equal sparsity."""

    band: str
    bits: int
    ecqx: list[Setting]
    ecq: list[Setting]

    def within(self, loss: float) -> tuple[list[Setting], list[Setting]]:
        """Settings of ECQx and of ECQ that lose at most ``loss``, a fraction, by validation."""
        ecqx, ecq = ([s for s in own if loses_at_most(s, loss)] for own in (self.ecqx, self.ecq))
        return ecqx, ecq


def _pairs(evidence: Evidence, task: str) -> Iterator[Pair]:
    """What is compared of a task.

    Another band than that of the grid is measured in the sweep over p, at the p of the grid.
    """
    for bits in evidence.bits(task):
        ecq, ecqx = (evidence.of(task, GRID, method, bits) for method in GRID_METHODS)
        if not (ecq and ecqx) or bits not in PAPER_BITS:
            continue
        swept = by_p(evidence, task, bits)
        for settings in (ecqx, *(own for p, own in swept.items() if p == ecqx[0].p)):
            yield Pair(settings[0].band, bits, settings, ecq)


def _gain_findings(parts: Sequence[Part]) -> Iterator[str]:
    yield tally(parts, "tasks and bit widths")
    yield from extreme(parts, min, "Smallest difference ECQx − ECQ", in_points)
    yield from extreme(parts, max, "Largest difference ECQx − ECQ", in_points)
    for words, is_so in (("more", Estimate.lies_above), ("less", Estimate.lies_below)):
        count = sum(part.value is not None and is_so(part.value, 0.0) for part in parts)
        if parts:
            yield f"ECQx is {words} accurate, by the interval, in {count} of {len(parts)}."
    apart = [part.name for part in parts if part.value is None]
    if apart:
        yield f"Without a common range of sparsity: {'; '.join(apart)}."


def not_magnitude(evidence: Evidence, correlations: Sequence[Correlation]) -> Claim:
    """Claim 4: relevance ranks weights otherwise than magnitude does."""
    ranks = [(found.task, found.layer, found.spearman) for found in correlations]
    parts = [_part(evidence, *rank, judge_below(rank[-1], RANK_BOUND)) for rank in ranks]
    rows = [
        relevance_row(evidence, found, part.verdict.value)
        for found, part in zip(correlations, parts, strict=True)
    ]
    deciding = decisive(parts)
    known = [part for part in deciding if part.value and part.value.high is not None]
    highest = extreme(known, max, "Highest rank correlation", Column("", "", "interval", 3).text)
    return Claim(
        key="relevance-is-not-magnitude",
        title="The relevance of a weight is not its magnitude.",
        verdict=combine(deciding),
        findings=(tally(deciding, "layers"), *highest),
        rule=(
            "Rank correlation of |w| and |r| in the first and the last layer of each network, with "
            "a 95 % bootstrap interval over weights. A layer holds if the upper end stays below "
            f"{RANK_BOUND}, and does not hold if the lower end lies above. The claim holds if all "
            "layers do, and does not hold if one does not."
        ),
        table=table(evidence, "claim_not_magnitude", *EVIDENCE, (*RELEVANCE, VERDICT), rows),
        deciding=evidence.deciding,
    )
