"""The table of methods that train their centroids, beside the equidistant grid of equal width."""

from __future__ import annotations

from ecqx.report.columns import (
    BITS,
    LAMBDA,
    MEASURES,
    METHOD,
    SEEDS,
    TASK,
    measures,
    reading,
    table,
)
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column, Row, Table
from ecqx.report.records import TRAINED, Setting
from ecqx.report.regression import CONFIGURATION
from ecqx.report.sources import join, source_of

LAMBDA_MAX = "lambda_max"


def trained_centroids(evidence: Evidence) -> Table:
    """Every setting with trained centroids, after those of the grid at the same bit width."""
    rows = [
        _row(evidence, setting)
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
        *(TASK, BITS, METHOD, LAMBDA, Column(LAMBDA_MAX, LAMBDA_MAX.replace("_", " "))),
        *(*MEASURES, SEEDS),
    )
    return table(evidence, "trained_centroids", "Trained centroids", caption, columns, rows)


def _row(evidence: Evidence, setting: Setting) -> Row:
    place = CONFIGURATION.index(LAMBDA_MAX)
    cells = (
        *(evidence.tasks[setting.task], setting.bits, setting.method, f"{setting.lam:g}"),
        join(run.configuration[place] for run in setting.runs),
        *(*measures(setting), len(setting.runs)),
    )
    return Row(setting.task, cells, source_of(setting.runs))
