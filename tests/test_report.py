"""The report: its statistics, verdicts, tables, figures and page, on made runs."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import (
    TASKS,
    make_grid,
    make_minimal_suite,
    make_p_sweep,
    make_relevance,
    make_run,
    make_suite,
)
from safetensors.numpy import save_file
from scipy import stats

from ecqx.errors import InputError
from ecqx.report.build import build
from ecqx.report.claims import build_claims
from ecqx.report.correlations import Correlation, correlate, rank_correlation
from ecqx.report.evidence import Evidence
from ecqx.report.formats import FLOAT_ROWS, Column, Table, to_csv, to_latex, to_markdown
from ecqx.report.records import read_records
from ecqx.report.selection import front, most_accurate, smallest_file
from ecqx.report.statistics import (
    Estimate,
    equal_sparsity_weights,
    estimate,
    pareto_front,
    sample_stride,
)
from ecqx.report.sweeps import influence_of_p
from ecqx.report.tables import build_tables
from ecqx.report.verdicts import Claim, Verdict, claims_markdown
from stages import report as stage
from stages.correct import read_arrays

# Statistics


def test_estimate_has_the_t_interval_of_scipy() -> None:
    values = [0.912, 0.934, 0.921, 0.905]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    # Three seeds, from the printed table of the t distribution: 4.303 at two degrees of freedom.
    three = estimate([1.0, 2.0, 3.0])
    assert three.high == pytest.approx(2 + 4.303 / np.sqrt(3), abs=1e-3)


def test_estimate_of_one_value_has_no_spread() -> None:
    found = estimate([0.5])
    assert (found.mean, found.sd, found.low, found.high, found.n) == (0.5, None, None, None, 1)
    assert not found.lies_below(1)
    assert not found.lies_above(0)
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_estimate_changes_its_unit_and_sign() -> None:
    found = Estimate(1.0, 0.5, 3, 0.25, 1.75)
    assert found.scaled(100) == Estimate(100.0, 50.0, 3, 25.0, 175.0)
    assert found.scaled(-1) == Estimate(-1.0, 0.5, 3, -1.75, -0.25)


def test_an_interval_needs_a_spread() -> None:
    equal = estimate([0.1, 0.1 + 1e-12, 0.1])
    assert (equal.mean, equal.n) == (pytest.approx(0.1), 3)
    assert (equal.low, equal.high) == (None, None)


def difference_at_equal_sparsity(
    first: list[tuple[float, float]], second: list[tuple[float, float]], *others: list[float]
) -> tuple[float, float, float] | None:
    """Mean difference of two curves of points (sparsity, accuracy), and the common range."""
    found = equal_sparsity_weights([x for x, _ in first], [x for x, _ in second], *others)
    if found is None:
        return None
    own, others, *ends = found
    ys = [[y for _, y in curve] for curve in (first, second)]
    return (float(own @ ys[0] - others @ ys[1]), *ends)


def test_equal_sparsity_by_hand() -> None:
    # 0.9 throughout against a line that falls from 0.9 at 0.5 to 0.7 at 0.9: over 0.6 to 0.8
    # the line's mean is its value at 0.7, which is 0.8.
    found = difference_at_equal_sparsity([(0.8, 0.9), (0.6, 0.9)], [(0.5, 0.9), (0.9, 0.7)])
    assert found is not None
    assert found == pytest.approx((0.1, 0.6, 0.8))


def test_equal_sparsity_where_other_curves_reach() -> None:
    # The line of above, at 0.75.
    found = difference_at_equal_sparsity(
        [(0.8, 0.9), (0.6, 0.9)], [(0.5, 0.9), (0.9, 0.7)], [0.95, 0.7], [0.1, 0.8, 0.3]
    )
    assert found is not None
    assert found == pytest.approx((0.125, 0.7, 0.8))


def test_equal_sparsity_against_a_dense_mean() -> None:
    noise = np.random.default_rng(0)
    for _ in range(20):
        first, second = (np.sort(noise.random((2, 6)), axis=1) for _ in range(2))
        found = difference_at_equal_sparsity(
            list(zip(*first, strict=True)), list(zip(*second, strict=True))
        )
        low, high = max(first[0, 0], second[0, 0]), min(first[0, -1], second[0, -1])
        assert found is not None
        x = np.linspace(low, high, 200_001)
        gap = np.interp(x, *first) - np.interp(x, *second)
        assert found[0] == pytest.approx(gap.mean(), abs=1e-5)


def test_equal_sparsity_averages_points_at_the_same_sparsity() -> None:
    found = difference_at_equal_sparsity(
        [(0.0, 0.4), (0.0, 0.6), (1.0, 0.5)], [(0.0, 0.0), (1.0, 0.0)]
    )
    assert found is not None
    assert found[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "other", [[], [(0.5, 1.0)], [(0.4, 1.0), (0.5, 1.0)], [(0.7, 1.0), (0.8, 1.0)]]
)
def test_equal_sparsity_without_a_common_range(other: list[tuple[float, float]]) -> None:
    assert difference_at_equal_sparsity([(0.5, 0.9), (0.6, 0.9)], other) is None


def test_pareto_front_against_brute_force() -> None:
    noise = np.random.default_rng(1)
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in noise.integers(0, 8, (20, 2))]
        beaten = [any(o[0] <= p[0] and o[1] >= p[1] and o != p for o in points) for p in points]
        wanted = sorted({p for p, is_beaten in zip(points, beaten, strict=True) if not is_beaten})
        assert [points[i] for i in pareto_front(points)] == wanted
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0]
    assert pareto_front([]) == []


def test_correlations_are_those_of_scipy() -> None:
    noise = np.random.default_rng(2)
    x = noise.normal(size=(30, 10)).astype(np.float32)
    y = np.round(x + noise.normal(size=(30, 10)), 1)
    (found,) = correlate({"mlp": {"layer": (x, y)}}, ["mlp"])
    pair = (np.abs(x).ravel(), np.abs(y).ravel())
    assert found.pearson == pytest.approx(stats.pearsonr(*pair)[0])
    assert found.spearman.mean == pytest.approx(stats.spearmanr(*pair)[0])
    assert (found.weights, found.without_relevance) == (300, (y == 0).mean())


def test_rank_correlation_interval() -> None:
    noise = np.random.default_rng(3)
    x = noise.normal(size=5000)
    y = x + noise.normal(size=5000)
    found = rank_correlation(x, y)
    assert found == rank_correlation(x, y)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high
    # Fisher's approximation for 2000 pairs, whose standard error is about 1 / sqrt(n - 3).
    half = 1.96 * 1.06 / np.sqrt(1997) * (1 - found.mean**2)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.25)


def test_rank_correlation_of_a_constant_is_undefined() -> None:
    found = rank_correlation(np.full(10, 0.1, np.float32), np.arange(10.0))
    assert np.isnan(found.mean)
    assert found.low is None


@pytest.mark.parametrize("shape", [(512, 64), (10, 128), (64, 3, 3, 3), (7,)])
def test_stride_visits_every_column(shape: tuple[int, ...]) -> None:
    n = int(np.prod(shape))
    stride = sample_stride(n, 600)
    picked = np.unravel_index(np.arange(0, n, stride), shape)
    assert len(picked[0]) <= 600
    assert all(len(np.unique(index)) == size for index, size in zip(picked, shape, strict=True))


# Choosing


def test_choices_go_by_validation_accuracy_only() -> None:
    runs = [
        make_run(
            "mlp", "ECQx", 4, lam, 0, accuracy_validation=validation, accuracy=test, bytes=size
        )
        for lam, validation, test, size in (
            (0.1, 0.95, 0.80, 900),
            (0.2, 0.94, 0.10, 500),
            (0.3, 0.93, 0.99, 100),
        )
    ]
    settings = Evidence.collect("made", TASKS, runs).settings
    assert most_accurate(settings).lam == 0.1
    assert smallest_file(settings).lam == 0.2
    assert [setting.lam for setting in front(settings)] == [0.3, 0.2, 0.1]


def test_bad_runs_are_named() -> None:
    run = make_run("mlp", "ECQ", 4, 0.1, 0)
    with pytest.raises(InputError, match="no runs"):
        read_records([])
    with pytest.raises(InputError, match=r"mlp-ECQ-4-0\.1-None-0: 'sparsity' is missing"):
        read_records([{key: value for key, value in run.items() if key != "sparsity"}])
    for method, sweep, words in (
        ("ecqx", "grid", "'grid' must be one of ECQ, ECQx, not 'ecqx'"),
        ("EC2T", "grid", "'grid' must be one of ECQ, ECQx, not 'EC2T'"),
        ("ECQ", "trained", "'trained' must be one of EC2T, EC2Tx, FantastIC4, FantastIC4x, not"),
    ):
        with pytest.raises(InputError, match=f"mlp-ECQ-4-0.1-None-0: method of sweep {words}"):
            read_records([run | {"method": method, "sweep": sweep}])
    with pytest.raises(InputError, match="same setting and seed"):
        read_records([run, run])
    with pytest.raises(InputError, match="'lam' must be a number in sweep 'grid', not null"):
        read_records([run | {"lam": None}])


def test_unknown_keys_and_sweeps_are_ignored() -> None:
    run = make_run("mlp", "ECQ", 4, 0.1, 0)
    assert read_records([run | {"colour": "blue"}]) == read_records([run])
    assert read_records([run, run | {"sweep": "other"}]) == read_records([run])


# Claims


def made_settings(method: str, drops: list[float], **changes: Any) -> list[dict[str, Any]]:
    """One setting whose drop per seed is given; ratios of the seeds differ a little."""
    made = {"sparsity": 0.5, "accuracy_fp32": 0.95} | changes
    lam, bits, ratio = made.pop("lam", 0.1), made.pop("bits", 4), made.pop("compression_ratio", 9.0)
    return [
        make_run("mlp", method, bits, lam, seed, **made)
        | {"accuracy": 0.95 - drop, "compression_ratio": ratio + 0.01 * (seed - 1)}
        for seed, drop in enumerate(drops)
    ]


def judged(
    runs: list[dict[str, Any]], correlations: list[Correlation] | None = None
) -> list[Claim]:
    return build_claims(Evidence.collect("made", TASKS, runs), correlations or [])


KEPT, LOST, UNSURE = [0.001, 0.0, 0.002], [0.05, 0.051, 0.049], [0.02, -0.01, 0.0]
EQUAL = [0.05, 0.05, 0.05]


@pytest.mark.parametrize(
    ("by_ratio", "verdict"),
    [
        ({110.0: KEPT}, Verdict.HOLDS),
        # Whether larger ratios would keep the accuracy was not measured.
        ({60.0: KEPT}, Verdict.OPEN),
        ({60.0: KEPT, 90.0: LOST}, Verdict.FAILS),
        ({60.0: UNSURE, 90.0: LOST}, Verdict.FAILS),
        ({60.0: LOST, 90.0: UNSURE}, Verdict.OPEN),
        ({110.0: LOST}, Verdict.FAILS),
        ({110.0: UNSURE}, Verdict.OPEN),
        ({110.0: KEPT[:1]}, Verdict.OPEN),
    ],
)
def test_claim_of_file_size(by_ratio: dict[float, list[float]], verdict: Verdict) -> None:
    runs = [
        run
        for ratio, drops in by_ratio.items()
        for run in made_settings("ECQx", drops, lam=ratio / 1000, compression_ratio=ratio)
    ]
    claim = judged(runs)[0]
    assert claim.verdict is verdict
    assert f"{max(by_ratio):.1f}" in to_markdown(claim.table)


def test_claim_of_file_size_goes_by_ecqx() -> None:
    runs = made_settings("ECQ", KEPT, compression_ratio=110.0)
    assert judged(runs)[0].verdict is Verdict.ABSENT
    runs += made_settings("ECQx", LOST, compression_ratio=50.0)
    assert judged(runs)[0].verdict is Verdict.FAILS


def test_seeds_that_agree_do_not_make_a_verdict_certain() -> None:
    """Without any spread nothing is known of chance; with one, the task's settings lend theirs."""
    for drops in (EQUAL, [0.0, 0.0, 0.0], [0.05, 0.05, 0.05 + 1e-9]):
        size, width, *_ = judged(made_settings("ECQx", drops, compression_ratio=110.0))
        assert size.verdict is width.verdict is Verdict.OPEN
        assert "(no interval)" in width.findings[1]
    # Two settings of deviation 0.1 points: s² = (2 s² + 2 s² + 2 · 0) / 6. At no seed have they
    # anything in common, so that Q_s = 0, and with K = 3 the degrees of freedom are 2 (K − 1) = 4.
    others = [*made_settings("ECQ", KEPT), *made_settings("ECQ", [0.004, 0.005, 0.003], lam=0.2)]
    equal = made_settings("ECQx", [0.002, 0.002, 0.002])
    width = judged([*equal, *others])[1]
    half = stats.t.ppf(0.975, 4) * 0.001 * np.sqrt(2 / 3) / np.sqrt(3)
    assert width.findings[0].startswith("Holds in 1, not measured in 3 of 4 tasks and bit widths")
    low, high = 0.2 - 100 * half, 0.2 + 100 * half
    assert f"Largest drop of ECQx: 0.20 [{low:.2f}, {high:.2f}] points" in width.findings[1]
    # A setting that has collapsed lends nothing.
    assert judged([*equal, *made_settings("ECQ", LOST)])[1].verdict is Verdict.OPEN


@pytest.mark.parametrize(
    ("by_bits", "verdict"),
    [
        ({}, Verdict.HOLDS),
        ({2: LOST}, Verdict.FAILS),
        ({2: UNSURE}, Verdict.OPEN),
        ({2: KEPT[:1]}, Verdict.OPEN),
        ({2: []}, Verdict.OPEN),
        ({8: LOST}, Verdict.HOLDS),
    ],
)
def test_claim_of_bit_width(by_bits: dict[int, list[float]], verdict: Verdict) -> None:
    assert judged(made_widths(by_bits))[1].verdict is verdict


def made_widths(by_bits: dict[int, list[float]], **values: Any) -> list[dict[str, Any]]:
    """Runs of ECQx at 2 to 5 bit that keep the accuracy, but for the drops that are given."""
    drops = {**dict.fromkeys((2, 3, 4, 5), KEPT), **by_bits}
    made = (made_settings("ECQx", own, bits=bits, **values) for bits, own in drops.items())
    return [run for runs in made for run in runs]


def made_curves(gains: list[float], shift: float = 0.0) -> list[dict[str, Any]]:
    """Both methods on two points of sparsity; ECQx is more accurate by a gain per seed."""
    runs = []
    for lam, sparsity in ((0.1, 0.5), (0.2, 0.9)):
        runs += made_settings("ECQ", [0.01] * len(gains), lam=lam, sparsity=sparsity)
        drops = [0.01 - gain for gain in gains]
        runs += made_settings("ECQx", drops, lam=lam, sparsity=sparsity + shift)
    return runs


@pytest.mark.parametrize(
    ("gains", "shift", "verdict"),
    [
        ([0.01, 0.011, 0.009], 0.0, Verdict.HOLDS),
        ([-0.02, -0.021, -0.019], 0.0, Verdict.FAILS),
        ([-0.02, 0.02, 0.0], 0.0, Verdict.OPEN),
        ([0.01, 0.011, 0.009], 0.05, Verdict.HOLDS),
        ([0.01, 0.011, 0.009], 0.45, Verdict.OPEN),
        ([0.01, 0.01, 0.01], 0.0, Verdict.OPEN),
        ([0.01], 0.0, Verdict.OPEN),
    ],
)
def test_claim_of_equal_sparsity(gains: list[float], shift: float, verdict: Verdict) -> None:
    claim = judged(made_curves(gains, shift))[2]
    assert claim.verdict is verdict
    apart = "Without a common range of sparsity: MLP_GSC on digits, 4 bit, band [−p, 0]."
    assert (apart in claim.findings) == (shift == 0.45)


def test_a_gain_where_networks_collapse_stands_apart() -> None:
    """Equal up to a sparsity of 0.7; from there on ECQx loses half as much."""
    points = ((0.1, 0.5, 0.0), (0.2, 0.7, 0.01), (0.3, 0.8, 0.1), (0.4, 0.9, 0.5))
    runs = []
    for lam, sparsity, loss in points:
        for method, share in (("ECQ", 1.0), ("ECQx", 0.5 if lam >= 0.3 else 1.0)):
            chances = (0.0, 0.001, -0.001) if method == "ECQ" else (0.001, -0.001, 0.0)
            known = {"accuracy_fp32_validation": 0.95, "accuracy_validation": 0.95 - share * loss}
            drops = [share * loss + chance for chance in chances]
            runs += made_settings(method, drops, lam=lam, sparsity=sparsity, **known)
    (claimed,) = judged(runs)[2].table.rows
    gains = [claimed.cells[i] for i in (3, 5, 6)]
    # Trapezoids over 0.2, 0.1 and 0.1 of sparsity.
    first, second, third = 0.0, (0.0 + 0.05) / 2, (0.05 + 0.25) / 2
    expected = ((first + second + third) / 4, (first + second) / 3, 0.0)
    for gain, mean in zip(gains, expected, strict=True):
        assert isinstance(gain, Estimate)
        assert gain.mean == pytest.approx(mean, abs=1e-12)
    for loss in ("10", "2"):
        words = f"MLP_GSC on digits: holds. ECQx − ECQ where both lose at most {loss} points"
        assert any(finding.startswith(words) for finding in judged(runs)[2].findings)


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(0.3, 0.5), (0.6, 0.89)], Verdict.HOLDS),
        ([(0.3, 0.5), (0.91, 0.97)], Verdict.FAILS),
        ([(0.3, 0.5), (0.85, 0.93)], Verdict.OPEN),
        ([(None, None)], Verdict.OPEN),
        ([], Verdict.ABSENT),
    ],
)
def test_claim_of_relevance(intervals: list[tuple[Any, Any]], verdict: Verdict) -> None:
    found = [
        Correlation(
            "mlp",
            f"layer{i}",
            10,
            0.1,
            Estimate(((low or 0) + (high or 0)) / 2, 0.01, 10, low, high),
            0.0,
        )
        for i, (low, high) in enumerate(intervals)
    ]
    assert judged(made_settings("ECQx", KEPT), found)[3].verdict is verdict


def test_experiments_of_the_paper_decide() -> None:
    """Other tasks are shown beside them, and decide only where none is named."""
    kept = made_widths({}, compression_ratio=110.0)
    lost = [
        run | {"task": "other", "run_id": f"other {run['run_id']}", "dataset": "coins"}
        for run in made_settings("ECQx", LOST, compression_ratio=60.0)
    ]

    def verdicts(runs: list[dict[str, Any]], *paper: str) -> list[Claim]:
        evidence = Evidence.collect("made", {"other": "Other", **TASKS}, runs, paper=paper)
        return build_claims(evidence, [])[:2]

    for claim in verdicts([*kept, *lost], "mlp"):
        assert claim.verdict is Verdict.HOLDS
        assert claim.where == ", on digits; other tasks are shown beside"
        shown = [row.task for row in claim.table.rows]
        assert set(shown) == {"mlp", "other"}
        assert shown == sorted(shown)
        assert any(finding.startswith("Other on coins") for finding in claim.findings)
    for claim in (*verdicts([*kept, *lost]), *verdicts([*kept, *lost], "mlp", "other")):
        assert claim.verdict is (Verdict.FAILS if claim.key == "bit-width" else Verdict.HOLDS)
    assert [claim.verdict for claim in verdicts(lost, "mlp")] == [Verdict.ABSENT] * 2


def test_what_was_not_measured_is_not_judged() -> None:
    claims = judged(make_p_sweep("mlp"))
    assert [claim.verdict for claim in claims] == [Verdict.ABSENT] * 4
    assert claims_markdown(claims, "made").count("| **not measured** |") == 4


def test_claims_give_numbers_and_rules() -> None:
    text = claims_markdown(judged(made_curves([0.01, 0.011, 0.009])), "made")
    assert text.count("Verdict: **") == 4
    assert "Verdict: **holds**" in text
    assert "1.00 [0.75, 1.25] points" in text
    assert "lies above −0.5 points" in text
    assert "Verdict: **holds**, on digits\n" in text
    assert "- MLP_GSC on digits: top-1 accuracy on digits; trained on 1078 of 1078 training" in text


# Tables


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    suite = make_suite()
    evidence = Evidence.collect(suite["suite"], suite["tasks"], suite["records"])
    return build_tables(evidence, correlate(suite["relevance"], evidence.tasks), suite["layers"])


def test_every_p_is_compared_at_the_same_sparsities_and_seeds() -> None:
    runs = [run for run in make_p_sweep("mlp") if run["seed"] != 2 or run["p"] != 0.2]
    evidence = Evidence.collect("made", TASKS, make_grid("mlp", bits=(4,)) + runs)
    cells = [row.cells for row in influence_of_p(evidence).rows]
    bands, values, gains, ranges = zip(*((*row[2:4], *row[5:]) for row in cells), strict=True)
    assert bands == ("[−p, 0]", *["[0, p]"] * 4)
    assert values == ("0.1", "0.02", "0.05", "0.1", "0.2")
    assert [isinstance(gain, Estimate) and gain.n for gain in gains] == [2] * 5
    assert len(set(ranges)) == 1
    assert ranges != ("no common range",) * 5


def test_every_table_is_there(tables: list[Table]) -> None:
    assert {table.name for table in tables} == {
        "best_files",
        "results",
        "grid",
        "p_sweep",
        "influence_of_p",
        "influence_of_batchnorm",
        "relevance_magnitude",
        "layers",
        "networks",
        "settings",
    }


def numbers(text: str) -> list[str]:
    """All numbers of a line, with whatever minus sign."""
    return re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-").replace("$-$", "-"))


def rows_of_latex(table: Table) -> list[str]:
    """The rows of all floats, without headings."""
    lines = [line for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    header = next(line for line in lines)
    return [line for line in lines if line != header and "multicolumn" not in line]


def test_three_formats_hold_the_same_numbers(tables: list[Table]) -> None:
    for table in tables:
        markdown = [line for line in to_markdown(table).splitlines() if line.startswith("|")][2:]
        latex = rows_of_latex(table)
        header, *rows = csv.reader(io.StringIO(to_csv(table)))
        assert len(markdown) == len(latex) == len(rows) == len(table.rows)
        width = sum(len(column.names()) for column in table.columns)
        in_print = [c.paper == "column" for c in table.columns[1:]]
        for md, tex, row in zip(markdown, latex, rows, strict=True):
            assert len(row) == len(header)
            assert numbers(md) == numbers(" ".join(row[:width]))
            # In print a table has fewer columns, and the task stands above its rows.
            cells = compress(md.split("|")[2:-1], in_print)
            assert numbers(" ".join(cells)) == numbers(" ".join(tex.split("&")[-sum(in_print) :]))


def test_latex_fits_a_page_of_two_columns(tables: list[Table]) -> None:
    """Wide tables span both columns, long ones are several floats; no run is named."""
    by_name = {table.name: table for table in tables}
    assert r"\begin{table}[tbp]" in to_latex(by_name["settings"])
    wide = to_latex(by_name["grid"])
    floats = -(-len(by_name["grid"].rows) // FLOAT_ROWS)
    assert wide.count(r"\begin{table*}") == wide.count(r"\end{table*}") == floats > 1
    assert wide.count(r"\label") == 1
    assert "Alpha: 0.1" in to_latex(by_name["settings"])
    best = by_name["best_files"]
    assert best.rows[0].cells[-1] in to_markdown(best)
    assert best.rows[0].cells[-1] not in to_latex(best)
    for table in tables:
        assert "start: stage" not in to_latex(table)
        assert not set("±Λ−–×") & set(to_latex(table))


def test_every_table_says_what_it_was_measured_on(tables: list[Table]) -> None:
    for table in tables:
        for text in (to_markdown(table), to_latex(table)):
            assert "Suite embedded, measured on:" in text
            assert "top-1 accuracy on digits; " in text
            assert re.search(r"(trained on 1078 of )?1078 training samples", text)
        header = set(to_csv(table).splitlines()[0].split(","))
        assert {"suite", "data", "metric", "train_samples", "samples_seen"} <= header
        assert {"epochs", "seeds", "start"} <= header


def test_results_show_the_means_of_the_runs(tables: list[Table]) -> None:
    table = next(table for table in tables if table.name == "grid")
    runs = [r for r in make_grid("resnet20") if (r["method"], r["lam"]) == ("ECQx", 0.1)]
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    row = next(
        row
        for row in rows
        if (row["task"], row["method"], row["lambda"]) == (TASKS["resnet20"], "ECQx", "0.1")
    )
    accuracy = [100 * run["accuracy"] for run in runs]
    drop = [100 * (run["accuracy_fp32"] - run["accuracy"]) for run in runs]
    assert float(row["accuracy_percent"]) == pytest.approx(np.mean(accuracy), abs=0.0051)
    assert float(row["accuracy_percent_sd"]) == pytest.approx(np.std(accuracy, ddof=1), abs=0.0051)
    assert float(row["drop_points"]) == pytest.approx(np.mean(drop), abs=0.0051)
    assert float(row["size_kb"]) == pytest.approx(
        np.mean([r["bytes"] for r in runs]) / 1000, abs=0.051
    )


def test_cells_without_spread_and_without_value() -> None:
    spread = Column("a", "a", "spread", 1)
    interval = Column("a", "a", "interval", 1)
    assert spread.text(Estimate(-0.04)) == "0.0"
    assert spread.text(None) == "–"
    assert spread.parts(Estimate(1.0)) == ["1.0", ""]
    assert interval.text(Estimate(-1.0, 0.5, 3, -1.5, -0.5)) == "−1.0 [−1.5, −0.5]"
    assert Column("a", "a", "number", 2).text(float("nan")) == "–"


# The whole


def test_the_report_needs_nothing_that_computes() -> None:
    """So a change of a network, a coder or a method does not make it stale."""
    code = "import sys, ecqx.report.build; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = done.stdout.split()
    assert not {"torch", "nncodec", "zennit"} & set(modules)
    others = {name for name in modules if name.startswith("ecqx.")}
    roots = {"ecqx.errors", "ecqx.files", "ecqx.lazy", "ecqx.report"}
    assert {name for name in others if not name.startswith("ecqx.report.")} <= roots


def test_the_stage_reads_arrays_in_order(tmp_path: Path) -> None:
    path, one = tmp_path / "relevance.safetensors", np.ones((2, 3), np.float32)
    parts = ("weight", "relevance", "decoded weight", "decoded relevance")
    arrays = {f"mlp/first/{part}": i * one for i, part in enumerate(parts)}
    save_file(arrays, path, {"classes": "{}"})
    read, metadata = read_arrays(path)
    assert metadata == {"classes": "{}"}
    for kind, number in (("", 0), ("decoded ", 2)):
        (weight, relevance) = stage._by_task(read, kind)["mlp"]["first"]
        assert (weight == number * one).all()
        assert (relevance == (number + 1) * one).all()
    with pytest.raises(InputError, match=r"none\.safetensors: no such file"):
        read_arrays(tmp_path / "none.safetensors")


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    build(out=out, **make_minimal_suite() | {"relevance": {"mlp": make_relevance("mlp")}})
    return out


def test_building_again_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    suite = make_minimal_suite() | {"relevance": {"mlp": make_relevance("mlp")}}
    shuffled = [
        suite["records"][i] for i in np.random.default_rng(0).permutation(len(suite["records"]))
    ]
    build(out=tmp_path, **suite | {"records": shuffled})
    assert files_in(tmp_path) == files_in(built)


def test_files_of_a_minimal_suite(built: Path) -> None:
    names = set(files_in(built))
    assert {"claims.md", "report.html", "tables/results.tex", "figures/relevance_mlp.svg"} <= names
    assert not any(name.startswith(("tables/p_", "figures/influence")) for name in names)
    stems = [{Path(n).stem for n in names if n.endswith(e)} for e in (".png", ".svg", ".pdf")]
    assert stems[0] == stems[1] == stems[2] != set()


def test_figures_carry_no_date_and_no_version(built: Path) -> None:
    for name, content in files_in(built).items():
        if name.startswith("figures/"):
            for word in (b"dc:date", b"Software", b"CreationDate", b"ModDate"):
                assert word not in content, name


class Links(HTMLParser):
    """Collects what a page refers to; every element that opens has to close."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [(tag, found[name] or "") for name in ("src", "href") if name in found]
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained(built: Path) -> None:
    text = (built / "report.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert page.open == []
    for tag, link in page.links:
        if tag == "link":
            assert link == "data:,"
        else:
            assert tag == "a"
            beside = (built / link).is_file()
            assert beside or link.startswith(("#", "https://doi.org/"))
    assert not re.search(r"@import|url\(", "".join(re.findall(r"<style>.*?</style>", text, re.S)))
    drawn = set(re.findall(r'id="figure-(\w+)"', text))
    assert {path.stem for path in (built / "figures").glob("*.svg")} == drawn
    alts = re.findall(r'<p class="hidden" id="alt-\w+">(.*?)</p>', text, re.S)
    assert len(alts) == len(drawn)
    assert all(len(alt) > 40 for alt in alts)
    anchors = set(re.findall(r'id="([^"]+)"', text))
    assert {link[1:] for tag, link in page.links if link.startswith("#")} <= anchors


def test_page_begins_with_the_claims(built: Path) -> None:
    text = (built / "report.html").read_text(encoding="utf-8")
    parts = ("overview", "tradeoff", "claims", "figures", "tables", "provenance", "references")
    order = [text.index(f'id="{part}"') for part in parts]
    assert order == sorted(order)
    assert "suite smoke" in text
    assert "trained on 1078 of 1078 training samples per run, 12 epochs; seeds 0, 1;" in text
