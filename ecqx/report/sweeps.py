"""The tables of what single settings change: p, BatchNorm, ablations, trained centroids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ecqx.report import columns as col
from ecqx.report.columns import gain_cells, reading, row, table
from ecqx.report.contrasts import Contrast, difference, intervals
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Cell, Column, Table
from ecqx.report.records import (
    ABLATION,
    CONFIGURATION,
    GRID,
    GRID_METHODS,
    P_SWEEP,
    PAPER_METHOD,
    PUBLISHED_BAND,
    TRAINED,
    Setting,
)
from ecqx.report.selection import flat, gain_at_equal_sparsity, smallest_file
from ecqx.report.sources import join
from ecqx.report.statistics import Estimate

SettingRow = tuple[Setting, Mapping[str, Cell]]


def by_p(evidence: Evidence, task: str, bits: int) -> dict[float, list[Setting]]:
    """Settings of the sweep over p at a bit width, by p."""
    swept = evidence.of(task, P_SWEEP, bits=bits)
    values = sorted({setting.p for setting in swept if setting.p is not None})
    return {p: [setting for setting in swept if setting.p == p] for p in values}


def p_sweep(evidence: Evidence) -> Table:
    """Every setting of the sweep over p."""
    rows: list[SettingRow] = []
    for task in evidence.tasks:
        for bits in evidence.bits(task, P_SWEEP):
            rows += [(s, {col.P.key: "ECQ"}) for s in evidence.of(task, GRID, "ECQ", bits)]
            for p, settings in by_p(evidence, task, bits).items():
                rows += [(setting, {col.P.key: f"{p:g}"}) for setting in settings]
    caption = (
        "ECQx may add at most p to the sparsity of ECQ, whose rows stand here for comparison. "
        f"{reading(evidence)}"
    )
    columns = (col.BITS, col.P, col.LAMBDA, *col.MEASURES, col.SEEDS)
    return table(evidence, "p_sweep", "All settings of the sweep over p", caption, columns, rows)


def influence_of_p(evidence: Evidence) -> Table:
    """What each p gains over ECQ at equal sparsity, over the range that all of them cover."""
    rows = []
    for task in evidence.tasks:
        for bits in evidence.bits(task, P_SWEEP):
            reference, published = (
                evidence.of(task, GRID, method, bits) for method in GRID_METHODS
            )
            swept = by_p(evidence, task, bits).values()
            ecq, *curves = of_common_seeds([reference, published, *swept])
            curves = [settings for settings in curves if settings and ecq]
            for settings in curves:
                lambdas = ", ".join(f"{setting.lam:g}" for setting in settings)
                gain = gain_cells(gain_at_equal_sparsity(settings, ecq, *curves))
                runs = flat((*settings, *ecq))
                rows.append(row(runs, bits, settings[0].band, f"{settings[0].p:g}", lambdas, *gain))
    caption = (
        "Accuracy of ECQx minus that of ECQ at equal sparsity: both interpolated linearly over "
        "sparsity along Λ and averaged per seed over the range that ECQ and all rows of the task "
        "and bit width cover; mean over the seeds that all have, with its 95 % interval. In the "
        f"band {PUBLISHED_BAND} relevance adds no sparsity to that of ECQ, in the others at most p."
    )
    columns = (
        *(col.BITS, col.BAND, col.P, Column("lambdas", "Λ")),
        *(col.GAIN, col.SHARED_RANGE),
    )
    return table(evidence, "influence_of_p", "Influence of p", caption, columns, rows)


def ablation(evidence: Evidence) -> Table:
    """What each replaced setting changes, beside the setting of the grid that it replaces."""
    caption = (
        "Settings replaced, at the same Λ, in the order of the settings. The gain is the "
        "accuracy minus that of the method’s row without a replacement, paired per seed, with its "
        "95 % interval over seeds and test samples, deviations pooled over the rows of a Λ where "
        "that is fair; where sparsity or size changed as well, it is no gain at equal cost. "
        f"{reading(evidence)}"
    )
    # In print the gain stands for the drop.
    shown = (replace(c, paper="no") if c in (col.DROP, col.ENTROPY) else c for c in col.MEASURES)
    columns = (
        *(*col.LABEL, Column("replaced", "replaced")),
        *(*shown, Column("gain_points", "gain (points)", "interval", 2, 100), col.SEEDS),
    )
    rows = (
        row
        for task in evidence.tasks
        for method in GRID_METHODS
        for row in _ablation_rows(
            evidence.of(task, GRID, method), evidence.of(task, ABLATION, method)
        )
    )
    return table(evidence, "ablation", "Ablation", caption, columns, rows)


def _ablation_rows(grid: Sequence[Setting], replaced: Sequence[Setting]) -> Iterator[SettingRow]:
    base = grid[0] if grid else None
    for bits, lam in sorted({(setting.bits, setting.lam) for setting in replaced}):
        here = [s for s in replaced if (s.bits, s.lam) == (bits, lam)]
        seeds = {record.seed for record in flat(here)}
        at = [_of_seeds(s, seeds) for s in grid if (s.bits, s.lam) == (bits, lam)]
        at = [s for s in at if s.records]
        here.sort(key=lambda s: _variant_order(base, s))
        gains = _gains(at, here)
        for setting, gain in zip((*at, *here), (*(None for _ in at), *gains), strict=True):
            yield setting, {"replaced": setting.variant or "none", "gain_points": gain}


def of_common_seeds(curves: Sequence[Sequence[Setting]]) -> list[list[Setting]]:
    """Curves of settings over the seeds that all have that were measured."""
    measured = [{record.seed for record in flat(own)} for own in curves if own]
    seeds = set.intersection(*measured) if measured else set()
    found = ([_of_seeds(setting, seeds) for setting in own] for own in curves)
    return [[setting for setting in own if setting.records] for own in found]


def _of_seeds(setting: Setting, seeds: set[int]) -> Setting:
    """The setting over some of its seeds."""
    return replace(setting, records=tuple(r for r in setting.records if r.seed in seeds))


def _gains(base: Sequence[Setting], replaced: Sequence[Setting]) -> list[Estimate | None]:
    """Accuracy of each replacement minus that of the base, where it was measured.

    Deviations are pooled over the replacements that change something.
    """
    if not base:
        return [None] * len(replaced)
    own, *others = (
        {run.seed: run.network for run in setting.records} for setting in (base[0], *replaced)
    )
    found = intervals([difference(other, own) for other in others], alike=_is_a_change)
    return [gain and gain.value for gain in found]


def _is_a_change(gain: Contrast) -> bool:
    return any(gain.values)


def _differing(base: Setting | None, setting: Setting) -> list[int]:
    """Places in `CONFIGURATION` where a setting has other values than the base, if there is one."""
    records = (setting.first, (base or setting).first)
    values = zip(*(record.configuration for record in records), strict=True)
    return [i for i, (own, others) in enumerate(values) if own != others]


def _variant_order(base: Setting | None, setting: Setting) -> tuple[Any, ...]:
    """Variants by what they replace and its value; last those without a changed configuration.

    Of the bands of sparsity those below ECQ's come first, the narrow before the wide.
    """
    differing = _differing(base, setting)
    if not differing:
        return (len(CONFIGURATION), (), setting.variant)
    value = setting.first.configuration[differing[0]]
    rank: tuple[float, ...] = ()
    if isinstance(value, tuple):
        rank = (value[1], -value[0])
    elif isinstance(value, int | float):
        rank = (value,)
    return (differing[0], rank, setting.variant)


def influence_of_batchnorm(evidence: Evidence) -> Table:
    """Networks without and with BatchNorm side by side."""
    rows = (
        (smallest_file(settings), _batchnorm_cells(evidence, task, method, bits))
        for pair in evidence.pairs()
        for bits in sorted(set(evidence.bits(pair[0])) & set(evidence.bits(pair[1])))
        for method in GRID_METHODS
        for task in pair
        if (settings := evidence.of(task, GRID, method, bits))
    )
    caption = (
        "The smallest file whose mean validation accuracy is at most 1 point below the best of "
        "its row's task, bit width and method; the last column compares all Λ at equal sparsity "
        f"(mean over seeds with its 95 % interval). {reading(evidence)}"
    )
    shown = (replace(c, paper="no") if c is col.ENTROPY else c for c in col.MEASURES)
    columns = (
        *(Column("batchnorm", "BatchNorm"), *col.LABEL, col.FULL_PRECISION, *shown),
        *(col.GAIN, col.SHARED_RANGE),
    )
    title = "Influence of BatchNorm"
    return table(evidence, "influence_of_batchnorm", title, caption, columns, rows)


def _batchnorm_cells(evidence: Evidence, task: str, method: str, bits: int) -> dict[str, Cell]:
    own, ecq = (evidence.of(task, GRID, name, bits) for name in (method, "ECQ"))
    gain, shared_range = gain_cells(gain_at_equal_sparsity(own, ecq))
    of_ecqx = method == PAPER_METHOD
    return {
        "batchnorm": "with" if task.endswith("_bn") else "without",
        col.GAIN.key: gain if of_ecqx else None,
        col.SHARED_RANGE.key: shared_range if of_ecqx else None,
    }


LAMBDA_MAX = "lambda_max"


def trained_centroids(evidence: Evidence) -> Table:
    """Every setting with trained centroids, after those of the grid at the same bit width."""
    place = CONFIGURATION.index(LAMBDA_MAX)
    rows = (
        (setting, {LAMBDA_MAX: join(run.configuration[place] for run in setting.records)})
        for task in evidence.tasks
        for bits in evidence.bits(task, TRAINED)
        for setting in (*evidence.of(task, bits=bits), *evidence.of(task, TRAINED, bits=bits))
    )
    caption = (
        "EC2T trains two centroids a layer beside zero; FantastIC4 trains four numbers a layer, "
        "whose sums are its sixteen centroids; an x marks the method with relevance. ECQ and ECQx, "
        "on a fixed equidistant grid, stand before them at the same bit width. A Λ of one method "
        "is no Λ of another: it scales a bound that is computed from the method's own centroids, "
        "by the formula in the column lambda max. Compare rows of similar size or sparsity, not "
        f"of the same Λ. {reading(evidence)}"
    )
    columns = (*col.LABEL, Column(LAMBDA_MAX, "lambda max"), *col.MEASURES, col.SEEDS)
    title = "Trained centroids"
    return table(evidence, "trained_centroids", title, caption, columns, rows)
