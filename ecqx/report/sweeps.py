"""The tables of what single settings change: p, BatchNorm, ablations, trained centroids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecqx.report.columns import (
    BITS,
    FULL_PRECISION,
    GAIN,
    LAMBDA,
    MEASURES,
    METHOD,
    SEEDS,
    SHARED_RANGE,
    P,
    gain_cells,
    measures,
    reading,
    row,
    table,
)
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column, Row, Table
from ecqx.report.records import (
    ABLATION,
    CONFIGURATION,
    GRID,
    GRID_METHODS,
    MISSING,
    P_SWEEP,
    TRAINED,
    Setting,
)
from ecqx.report.selection import flat, gain_at_equal_sparsity, over_seeds, smallest_file
from ecqx.report.sources import join
from ecqx.report.statistics import Estimate, paired_difference


def p_settings(evidence: Evidence, task: str) -> list[tuple[float | None, list[Setting]]]:
    """Settings of the sweep over p by ascending p; first, without p, ECQ of that bit width."""
    swept = evidence.of(task, P_SWEEP)
    if not swept:
        return []
    reference = evidence.of(task, GRID, "ECQ", swept[0].bits)
    series: list[tuple[float | None, list[Setting]]] = [(None, reference)] if reference else []
    values = sorted({setting.p for setting in swept if setting.p is not None})
    return series + [(p, [setting for setting in swept if setting.p == p]) for p in values]


def p_sweep(evidence: Evidence) -> Table:
    """Every setting of the sweep over p."""
    rows = []
    for task in evidence.tasks:
        for p, settings in p_settings(evidence, task):
            for setting in settings:
                words = "ECQ" if p is None else f"{p:g}"
                label = (setting.bits, words, setting.lam_in_words)
                cells = (*label, *measures(setting), len(setting.records))
                rows.append(row(setting.records, *cells))
    caption = (
        "ECQx may add at most p to the sparsity of ECQ, whose rows stand here for comparison. "
        f"{reading(evidence)}"
    )
    columns = (BITS, P, LAMBDA, *MEASURES, SEEDS)
    return table(evidence, "p_sweep", "All settings of the sweep over p", caption, columns, rows)


def influence_of_p(evidence: Evidence) -> Table:
    """What each p gains over ECQ at equal sparsity."""
    rows = []
    for task in evidence.tasks:
        series = p_settings(evidence, task)
        reference = [setting for p, settings in series if p is None for setting in settings]
        for p, settings in series:
            if p is None:
                continue
            cells = (
                settings[0].bits,
                f"{p:g}",
                ", ".join(f"{setting.lam:g}" for setting in settings),
                *gain_cells(gain_at_equal_sparsity(settings, reference)),
            )
            rows.append(row(flat(settings), *cells))
    caption = (
        "Accuracy of ECQx minus that of ECQ at equal sparsity: both interpolated linearly over "
        "sparsity along Λ and averaged over the range that both cover, per seed; mean over seeds "
        "with its 95 % interval."
    )
    columns = (BITS, P, Column("lambdas", "Λ"), GAIN, SHARED_RANGE)
    return table(evidence, "influence_of_p", "Influence of p", caption, columns, rows)


# -- ablation --------------------------------------------------------------------------------------


def ablation(evidence: Evidence) -> Table:
    """What each replaced setting changes, beside the setting of the grid that it replaces."""
    rows = []
    for task in evidence.tasks:
        replaced = evidence.of(task, ABLATION)
        base = evidence.of(task, GRID, "ECQx")[:1]
        for bits, lam in sorted({(setting.bits, setting.lam) for setting in replaced}):
            at = [s for s in evidence.of(task, GRID, "ECQx", bits) if s.lam == lam]
            here = [s for s in replaced if (s.bits, s.lam) == (bits, lam)]
            for setting in (*at, *sorted(here, key=lambda s: _variant_order(base, s))):
                differing = [CONFIGURATION[i] for i in _differing(base, setting)]
                words = ", ".join(differing).replace("_", " ") or MISSING
                label = (bits, f"{lam:g}", words, setting.variant or "none")
                gain = None if setting in at or not at else _gain_over(at[0], setting)
                cells = (*label, *measures(setting), gain, len(setting.records))
                rows.append(row(setting.records, *cells))
    caption = (
        "ECQx with single settings replaced, at the same Λ, in the order of the settings. The gain "
        "is the accuracy minus that of the row without a replacement, paired per seed, with its "
        "95 % interval over seeds; where sparsity or size moved as well, it is no gain at equal "
        f"cost. {reading(evidence)}"
    )
    columns = (
        *(BITS, LAMBDA, Column("setting", "setting"), Column("replaced", "replaced")),
        *(*MEASURES, Column("gain_points", "gain (points)", "interval", 2, 100), SEEDS),
    )
    return table(evidence, "ablation", "Ablation", caption, columns, rows)


def _differing(base: Sequence[Setting], setting: Setting) -> list[int]:
    """Places in `CONFIGURATION` that a setting has other values at than the base."""
    values = setting.records[0].configuration
    own = base[0].records[0].configuration if base else values
    return [i for i in range(len(values)) if values[i] != own[i]]


def _variant_order(base: Sequence[Setting], setting: Setting) -> tuple[Any, ...]:
    """Variants by what they replace and its value; last those that records do not distinguish.

    Of the bands of sparsity those below ECQ's come first, the narrow before the wide.
    """
    differing = _differing(base, setting)
    if not differing:
        return (len(CONFIGURATION), (), setting.variant)
    value = setting.records[0].configuration[differing[0]]
    rank: tuple[float, ...] = ()
    if isinstance(value, tuple):
        rank = (value[1], -value[0])
    elif isinstance(value, int | float):
        rank = (value,)
    return (differing[0], rank, setting.variant)


def _gain_over(default: Setting, setting: Setting) -> Estimate:
    """Accuracy of a setting minus that of the default, paired per seed."""
    return paired_difference(
        {run.seed: run.accuracy for run in setting.records},
        {run.seed: run.accuracy for run in default.records},
    )


# -- BatchNorm -------------------------------------------------------------------------------------


def influence_of_batchnorm(evidence: Evidence) -> Table:
    """Networks without and with BatchNorm side by side."""
    rows = []
    for pair in evidence.pairs():
        shared = sorted(set(evidence.bits(pair[0])) & set(evidence.bits(pair[1])))
        for bits in shared:
            for method in GRID_METHODS:
                rows += [
                    _batchnorm_row(evidence, task, bits, method, settings)
                    for task in pair
                    if (settings := evidence.of(task, GRID, method, bits))
                ]
    caption = (
        "The smallest file whose mean validation accuracy is at most 1 point below the best of "
        "its row's task, bit width and method; the last column compares all Λ at equal sparsity "
        f"(mean over seeds with its 95 % interval). {reading(evidence)}"
    )
    columns = (
        *(Column("batchnorm", "BatchNorm"), BITS, METHOD, LAMBDA),
        *(FULL_PRECISION, *MEASURES, GAIN),
    )
    title = "Influence of BatchNorm"
    return table(evidence, "influence_of_batchnorm", title, caption, columns, rows)


def _batchnorm_row(
    evidence: Evidence, task: str, bits: int, method: str, settings: Sequence[Setting]
) -> Row:
    chosen = smallest_file(settings)
    reference = evidence.of(task, GRID, "ECQ", bits)
    gain = gain_at_equal_sparsity(settings, reference).difference if method == "ECQx" else None
    cells = (
        "with" if task.endswith("_bn") else "without",
        bits,
        method,
        chosen.lam_in_words,
        over_seeds(flat(settings), "accuracy_fp32"),
        *measures(chosen),
        gain,
    )
    return row(chosen.records, *cells)


# -- trained centroids ----------------------------------------------------------------------------

LAMBDA_MAX = "lambda_max"


def trained_centroids(evidence: Evidence) -> Table:
    """Every setting with trained centroids, after those of the grid at the same bit width."""
    rows = [
        _trained_row(setting)
        for task in evidence.tasks
        for bits in evidence.bits(task, TRAINED)
        for setting in (*evidence.of(task, bits=bits), *evidence.of(task, TRAINED, bits=bits))
    ]
    caption = (
        "EC2T trains two centroids a layer beside zero; FantastIC4 trains four numbers a layer, "
        "whose sums are its sixteen centroids; an x marks the method with relevance. ECQ and ECQx, "
        "whose centroids stay on an equidistant grid, stand before them at the same bit width. "
        "A Λ of one method is no Λ of another: it scales a bound that is computed from the "
        "method's own centroids, by the formula in the column lambda max. Compare rows of like "
        f"size or sparsity, not rows of the same Λ. {reading(evidence)}"
    )
    columns = (
        *(BITS, METHOD, LAMBDA, Column(LAMBDA_MAX, LAMBDA_MAX.replace("_", " "))),
        *(*MEASURES, SEEDS),
    )
    return table(evidence, "trained_centroids", "Trained centroids", caption, columns, rows)


def _trained_row(setting: Setting) -> Row:
    place = CONFIGURATION.index(LAMBDA_MAX)
    cells = (
        *(setting.bits, setting.method, setting.lam_in_words),
        join(run.configuration[place] for run in setting.records),
        *(*measures(setting), len(setting.records)),
    )
    return row(setting.records, *cells)
