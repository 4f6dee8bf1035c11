"""The comparison with results of the published algorithm: its maths, its table, its section."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import MIXED_TASKS, draw, make_mixed_grid, make_yardsticks

from ecqx.errors import InputError
from ecqx.report.dominance import BySeed, Grade, Point, best_point
from ecqx.report.evidence import Evidence
from ecqx.report.formats import to_csv
from ecqx.report.yardstick import counterparts_of, yardstick_table

SIZE, ACCURACY = 100.0, 0.90


def one_seed(*points: tuple[float, float, float]) -> list[tuple[float, BySeed]]:
    """A curve of one seed: Λ, size, accuracy."""
    return [(lam, {0: (size, accuracy)}) for lam, size, accuracy in points]


def scattered(size: float, accuracy: float, by: tuple[float, float]) -> BySeed:
    """Three seeds of given means, with deviations of exactly ``by``."""
    return {seed: (size + d * by[0], accuracy + d * by[1]) for seed, d in enumerate((-1, 0, 1))}


def test_a_measured_point_that_is_as_good() -> None:
    curve = one_seed((0.1, 120, 0.95), (0.2, 100, 0.90), (0.3, 90, 0.91))
    found = best_point(curve, SIZE, ACCURACY)
    # Both latter points are as good; the more accurate one is reported.
    assert (found.grade, found.lam, found.between) == (Grade.AS_GOOD, 0.3, None)


def test_a_point_between_two_measured_ones() -> None:
    # Half-way the size is 100 and the accuracy 0.91: neither end is as good in both.
    curve = one_seed((0.2, 120, 0.92), (0.4, 80, 0.88), (0.6, 60, 0.8))
    found = best_point(curve, SIZE, 0.90)
    assert (found.grade, found.between) == (Grade.AS_GOOD, (0.2, 0.4))
    assert found.lam == pytest.approx(0.3)
    assert (found.size.mean, found.accuracy.mean) == (pytest.approx(100), pytest.approx(0.90))
    assert best_point(curve, SIZE, 0.9001).grade is Grade.WORSE


@pytest.mark.parametrize(
    ("size", "accuracy", "grade"),
    [
        (100, 0.90, Grade.AS_GOOD),
        (104, 0.90, Grade.WITHIN_DEVIATION),
        (100, 0.895, Grade.WITHIN_DEVIATION),
        (105, 0.89, Grade.WITHIN_DEVIATION),
        (105.01, 0.90, Grade.WORSE),
        (100, 0.8899, Grade.WORSE),
        (90, 0.8899, Grade.WORSE),
    ],
)
def test_a_deviation_helps_and_no_more(size: float, accuracy: float, grade: Grade) -> None:
    curve = [(0.1, scattered(size, accuracy, (5.0, 0.01)))]
    found = best_point(curve, SIZE, ACCURACY)
    assert found.grade is grade
    # One seed has no deviation to help.
    alone = best_point(one_seed((0.1, size, accuracy)), SIZE, ACCURACY)
    assert alone.grade is (Grade.AS_GOOD if grade is Grade.AS_GOOD else Grade.WORSE)
    assert alone.accuracy.sd is None


def test_a_measured_point_comes_before_one_in_between() -> None:
    curve = [
        (0.1, scattered(120, 0.95, (5.0, 0.001))),
        (0.2, scattered(100, 0.90, (5.0, 0.001))),
    ]
    found = best_point(curve, 103, 0.90)
    assert (found.grade, found.between) == (Grade.AS_GOOD, None)


def test_of_worse_points_the_most_accurate_of_the_size_is_told() -> None:
    curve = one_seed((0.1, 120, 0.89), (0.2, 80, 0.87), (0.3, 60, 0.5))
    found = best_point(curve, SIZE, ACCURACY)
    assert (found.grade, found.between) == (Grade.WORSE, (0.1, 0.2))
    assert (found.size.mean, found.accuracy.mean) == (pytest.approx(100), pytest.approx(0.88))
    # All of them larger: the smallest.
    assert best_point(curve, 50.0, ACCURACY).lam == 0.3


def test_only_seeds_of_both_neighbours_are_interpolated() -> None:
    curve: list[tuple[float, BySeed]] = [
        (0.1, {0: (120, 0.92), 1: (500, 0.1)}),
        (0.2, {0: (80, 0.88), 2: (500, 0.1)}),
    ]
    found = best_point(curve, SIZE, 0.90)
    assert (found.grade, found.accuracy.n) == (Grade.AS_GOOD, 1)
    apart: list[tuple[float, BySeed]] = [(0.1, {0: (120, 0.92)}), (0.2, {1: (80, 0.88)})]
    assert best_point(apart, SIZE, 0.90).between is None


def dense(curve: list[tuple[float, BySeed]], size: float, accuracy: float) -> Grade:
    """The best grade on a fine grid of shares of the way, straight from the definition."""
    best = Grade.WORSE
    for (_, start), (_, end) in itertools.pairwise(curve):
        a, b = (np.array([by[s] for s in sorted(start)]).T for by in (start, end))
        t = np.linspace(0, 1, 2001)[:, None, None]
        points = a + t * (b - a)
        mean, sd = points.mean(-1), points.std(-1, ddof=1)
        near = (mean[:, 0] - sd[:, 0] <= size) & (mean[:, 1] + sd[:, 1] >= accuracy)
        good = (mean[:, 0] <= size) & (mean[:, 1] >= accuracy)
        here = Grade.AS_GOOD if good.any() else Grade.WITHIN_DEVIATION if near.any() else best
        best = max(best, here)
    return best


def holds(point: Point, size: float, accuracy: float) -> bool:
    """Whether a point is as good as its grade says, but for rounding."""
    slack = {Grade.AS_GOOD: 0.0, Grade.WITHIN_DEVIATION: 1.0}.get(point.grade)
    if slack is None:
        return True
    least = point.size.mean - slack * (point.size.sd or 0)
    most = point.accuracy.mean + slack * (point.accuracy.sd or 0)
    return least <= size * (1 + 1e-6) and most >= accuracy * (1 - 1e-6)


def test_no_point_is_missed_and_none_is_made_up() -> None:
    noise = np.random.default_rng(5)
    grades = []
    for _ in range(400):
        sizes = np.sort(noise.uniform(50, 150, 3))[::-1]
        accuracies = np.sort(noise.uniform(0.8, 0.95, 3))[::-1]
        spread = noise.normal(0, 1, (3, 3, 2)) * (noise.uniform(1, 15), noise.uniform(0.002, 0.03))
        curve = [
            (
                0.1 * (i + 1),
                {
                    s: (sizes[i] + spread[i, s, 0], accuracies[i] + spread[i, s, 1])
                    for s in range(3)
                },
            )
            for i in range(3)
        ]
        found = best_point(curve, SIZE, ACCURACY)
        assert found.grade >= dense(curve, SIZE, ACCURACY)
        assert holds(found, SIZE, ACCURACY)
        grades.append((found.grade, found.between is None))
    # Each kind of outcome has come up.
    assert len(set(grades)) == 6


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
    assert (row["published_accuracy_percent"], row["published_size_kb"]) == ("96.92", "58.00")
    for column, key, factor, digits in (
        ("accuracy_percent", "accuracy", 100, 2),
        ("sparsity_percent", "sparsity", 100, 1),
        ("size_kb", "bytes", 1e-3, 2),
        ("integers_kb", "bytes_integers", 1e-3, 2),
    ):
        values = [factor * run[key] for run in ours]
        assert row[column] == f"{np.mean(values):.{digits}f}"
        assert row[f"{column}_sd"] == f"{np.std(values, ddof=1):.{digits}f}"
    assert row["data"] == "cifar10-jpeg"


def test_verdicts_of_the_table() -> None:
    runs = make_mixed_grid("resnet20")
    easy = make_yardsticks()[0] | {"accuracy": 0.5, "bytes": 200_000}
    hard = easy | {"accuracy": 0.999}
    # As accurate as three seeds on average, and a hair more.
    at = [r for r in runs if (r["method"], r["lam"]) == ("ECQ", 0.0)]
    mean, sd = np.mean([r["accuracy"] for r in at]), np.std([r["accuracy"] for r in at], ddof=1)
    top = max(r["accuracy"] for r in runs)
    near = easy | {"accuracy": float(mean + 0.9 * sd)}
    words = [row["verdict"] for row in table_of(at, [easy, hard, near])]
    assert words == ["yes", "no", "yes, within one deviation"]
    assert table_of(runs, [easy | {"accuracy": top + 0.01}])[0]["verdict"] == "no"


def test_table_without_the_same_lambda_has_dashes() -> None:
    row = table_of(make_mixed_grid("resnet20"), [make_yardsticks()[0] | {"lam": 0.3}])[0]
    assert (row["accuracy_percent"], row["size_kb"], row["integers_kb"]) == ("", "", "")
    assert row["point_size_kb"]


def test_variants_of_an_ablation_are_compared_on_their_own() -> None:
    grid = make_mixed_grid("resnet20")
    better = [
        run | {"run_id": f"b{run['run_id']}", "accuracy": 0.99, "sweep": "ablation", "variant": "X"}
        for run in grid
        if run["method"] == "ECQx"
    ]
    rows = table_of(grid + better, make_yardsticks()[:2])
    assert [(row["method"], row["ours"]) for row in rows] == [
        ("ECQ", "settings of the suite"),
        ("ECQx", "settings of the suite"),
        ("ECQx", "X"),
    ]
    assert rows[1]["verdict"] != "yes"
    assert rows[2]["verdict"] == "yes"


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
