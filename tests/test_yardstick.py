"""Published results beside ours: the nearest point of our curve, the verdict, table and section."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import MIXED_TASKS, draw, make_mixed_grid, make_run, make_yardsticks

from ecqx.errors import InputError
from ecqx.report.evidence import Evidence
from ecqx.report.formats import to_csv
from ecqx.report.verdicts import Verdict
from ecqx.report.yardstick import Counterpart, counterparts_of, yardstick_table

PUBLISHED = make_yardsticks()[0] | {"bytes": 1000, "accuracy": 0.9}


def beside(*points: tuple[int, float], seeds: tuple[float, ...] = (0, 0.001, 0.002)) -> Counterpart:
    """A curve of points (bytes, accuracy); what each seed adds to its accuracies."""
    runs = [
        make_run("resnet20", "ECQ", 4, lam, seed, bytes=size, accuracy=accuracy + more)
        for lam, (size, accuracy) in enumerate(points)
        for seed, more in enumerate(seeds)
    ]
    (found,) = counterparts_of(evidence_of(runs), [PUBLISHED])
    return found


def test_the_nearest_point_has_the_published_size_if_the_curve_reaches_it() -> None:
    # A quarter of the way from 800 to 1600 bytes.
    assert beside((1600, 0.94), (800, 0.90)).nearest()[0] == pytest.approx((1000, 0.91))
    assert beside((3000, 0.94), (2000, 0.90)).nearest()[0] == pytest.approx((2000, 0.90))
    assert beside((500, 0.85), (700, 0.88)).nearest()[0] == pytest.approx((700, 0.88))


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (((1600, 0.94), (800, 0.90)), Verdict.HOLDS),
        (((1600, 0.87), (800, 0.86)), Verdict.FAILS),
        (((1600, 0.90), (800, 0.892)), Verdict.OPEN),
        # Better, but larger; worse, but smaller.
        (((1600, 0.94), (1100, 0.93)), Verdict.OPEN),
        (((900, 0.87), (800, 0.86)), Verdict.OPEN),
        # Better and smaller; worse and larger.
        (((900, 0.94), (800, 0.93)), Verdict.HOLDS),
        (((1600, 0.87), (1100, 0.86)), Verdict.FAILS),
    ],
)
def test_verdict_by_the_interval_at_the_published_size(
    points: tuple[tuple[int, float], ...], verdict: Verdict
) -> None:
    assert beside(*points).verdict is verdict
    assert beside(*points, seeds=(0,)).verdict is Verdict.OPEN


def evidence_of(runs: list[dict[str, Any]]) -> Evidence:
    return Evidence.collect("made", MIXED_TASKS, runs)


def table_of(runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    evidence = evidence_of(runs)
    text = to_csv(yardstick_table(evidence, counterparts_of(evidence, rows)))
    return list(csv.DictReader(io.StringIO(text)))


def test_table_shows_both_at_the_same_lambda() -> None:
    runs = make_mixed_grid("resnet20")
    row = table_of(runs, make_yardsticks())[1]
    ours = [r for r in runs if (r["method"], r["lam"]) == ("ECQx", 0.05)]
    assert (row["method"], row["lambda"], row["ours"]) == ("ECQx", "0.05", "settings of the suite")
    assert (row["published_accuracy_percent"], row["published_size_kb"]) == ("96.92", "58.0")
    for column, key, factor, digits in (
        ("accuracy_percent", "accuracy", 100, 2),
        ("sparsity_percent", "sparsity", 100, 1),
        ("size_kb", "bytes", 1e-3, 1),
        ("integers_kb", "bytes_integers", 1e-3, 1),
    ):
        values = [factor * run[key] for run in ours]
        assert row[column] == f"{np.mean(values):.{digits}f}"
        assert row[f"{column}_sd"] == f"{np.std(values, ddof=1):.{digits}f}"
    assert row["data"] == "cifar10"


def test_table_without_the_same_lambda_has_dashes() -> None:
    row = table_of(make_mixed_grid("resnet20"), [make_yardsticks()[0] | {"lam": 0.3}])[0]
    assert (row["accuracy_percent"], row["size_kb"], row["integers_kb"]) == ("", "", "")
    assert row["nearest_size_kb"]


def test_variants_of_an_ablation_are_compared_on_their_own() -> None:
    grid = make_mixed_grid("resnet20")
    better = [
        run | {"run_id": f"b{run['run_id']}", "accuracy": 0.99, "sweep": "ablation", "variant": "X"}
        for run in grid
        if run["method"] == "ECQx"
    ]
    better += [
        run | {"run_id": f"c{run['run_id']}", "variant": "Y"} for run in better if run["lam"] > 0.05
    ]
    rows = table_of(grid + better, make_yardsticks()[:2])
    assert [(row["method"], row["ours"]) for row in rows] == [
        ("ECQ", "settings of the suite"),
        ("ECQx", "settings of the suite"),
        ("ECQx", "X"),
    ]
    assert float(rows[2]["nearest_accuracy_percent"]) == 99
    assert float(rows[1]["nearest_accuracy_percent"]) < 99


def test_bad_yardsticks_are_named() -> None:
    evidence = evidence_of(make_mixed_grid("resnet20"))
    row = make_yardsticks()[0]
    with pytest.raises(InputError, match=r"report\.yardsticks: 'bytes' is missing"):
        counterparts_of(evidence, [{key: value for key, value in row.items() if key != "bytes"}])
    with pytest.raises(InputError, match="task resnet20 has no ECQ runs of 3 bit"):
        counterparts_of(evidence, [row | {"bits": 3}])


@pytest.mark.parametrize("yardsticks", [[], make_yardsticks()])
def test_page_has_the_section_where_there_is_a_yardstick(
    yardsticks: list[dict[str, Any]], tmp_path: Path
) -> None:
    suite = {"records": make_mixed_grid("resnet20", lambdas=(0.05, 0.2)), "suite": "made"}
    draw(suite | {"tasks": MIXED_TASKS, "yardsticks": yardsticks}, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    expected = bool(yardsticks)
    assert ('href="#yardstick"' in text) == ('id="yardstick"' in text) == expected
    assert ('id="figure-yardstick"' in text) == ('id="table-yardstick"' in text) == expected
    assert {(tmp_path / f"tables/yardstick.{e}").exists() for e in ("md", "csv", "tex")} == {
        expected
    }
    if expected:
        assert "NNCodec&#39;s integers, its lossy floats and 4 bytes a step" in text
