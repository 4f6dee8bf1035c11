"""The comparison in the report, on made records: choices, areas, fronts, verdict, page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import made_comparison
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_comparison import RULES, TITLES, record, records, resized, rules
from made_runs import chart_rows, draw, make_grid
from scipy import stats

from ecqx.errors import InputError
from ecqx.methods.trained_centroids import EC2T, FantastIC4
from ecqx.report.build import build
from ecqx.report.comparison import Comparison, area_terms, kept, smallest_within
from ecqx.report.comparison_tables import WIDTHS, build_comparison_tables
from ecqx.report.comparison_verdict import comparison_markdown, judge
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Table, to_csv
from ecqx.report.records import FAMILY, METHODS, PAPER_METHOD, Record, Setting, read_records
from ecqx.report.render import Figure
from ecqx.report.rules import Fairness, Rules
from ecqx.report.selection import by_seed, front
from ecqx.report.verdicts import Verdict

PARAMETERS_OF_MLP = made_comparison.PARAMETERS["mlp"]
PARAMETERS = 16_384  # 64 KiB in 32 bit.
RATIOS = (4.0, 64.0)


def file(size: int, validation: float, test: float, seed: int = 0, **changes: Any) -> Record:
    """A file of a model with `PARAMETERS`; full precision has 0.9 in both splits."""
    fields = resized(record("mlp", "ECQx", 0, seed) | {"parameters": PARAMETERS}, size) | {
        "accuracy_validation": validation,
        "accuracy": test,
        "accuracy_fp32": 0.9,
        "accuracy_fp32_validation": 0.9,
    }
    (made,) = read_records([fields | changes])
    return made


FRACTIONS = st.integers(0, 20).map(lambda n: n / 20)
FILES = st.lists(
    st.builds(file, st.integers(200, 40_000), FRACTIONS, FRACTIONS), min_size=1, max_size=8
)


def measure(rows: list[dict[str, Any]], rules: Rules = RULES) -> Comparison:
    return Comparison.collect(Evidence.collect("made", TITLES, rows), rules)


def rows_of(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def table_of(measured: Comparison, name: str) -> list[dict[str, str]]:
    (found,) = [table for table in build_comparison_tables(measured) if table.name == name]
    return rows_of(found)


# Accuracy at a budget and the area under it


def area(files: Sequence[Record], ratios: tuple[float, float]) -> float:
    return sum(weight * one.accuracy for weight, one in area_terms(files, ratios))


def accuracy_at(files: list[Record], budget: float) -> float:
    """By the definition: the best by validation of those that fit, the smallest of equals."""
    fitting = [f for f in files if f.bytes <= budget]
    if not fitting:
        return 0.0
    best = max(f.accuracy_validation for f in fitting)
    return min(
        (f for f in fitting if f.accuracy_validation == best), key=lambda f: f.bytes
    ).accuracy


@given(FILES)
def test_the_area_is_the_mean_of_accuracies_at_many_budgets(files: list[Record]) -> None:
    # Of files that are equal in size and validation either may be chosen.
    files = list({(f.bytes, f.accuracy_validation): f for f in files}.values())
    count = 2000
    low, high = np.log2(RATIOS)
    middles = low + (np.arange(count) + 0.5) * (high - low) / count
    sampled = [accuracy_at(files, 4 * PARAMETERS / 2**x) for x in middles]
    # Every step of the curve may be misplaced by half an interval.
    assert area(files, RATIOS) == pytest.approx(np.mean(sampled), abs=(len(files) + 1) / count)


def test_the_area_by_hand() -> None:
    # Ratios 16 and 8 in a range of four octaves, 4 to 64: the small file for two of them is in
    # reach up to 16, the large one from 8 down.
    small, large = file(4096, 0.5, 0.6), file(8192, 0.8, 0.7)
    assert area([small, large], RATIOS) == pytest.approx((0.7 + 0.6 + 0 + 0) / 4)
    # Larger, but no better on validation: never chosen, whatever the test set says.
    assert area([small, file(8192, 0.5, 0.99)], RATIOS) == pytest.approx(2 * 0.6 / 4)
    assert area([file(4 * PARAMETERS, 0.9, 0.9)], RATIOS) == 0


@given(FILES, st.integers(0, 5_000), FRACTIONS, FRACTIONS)
def test_a_dominated_file_does_not_change_the_area(
    files: list[Record], more: int, less: float, test: float
) -> None:
    one = files[0]
    worse = file(one.bytes + more, min(one.accuracy_validation, less), test)
    assert area([*files, worse], RATIOS) == area(files, RATIOS)


@given(FILES, st.integers(1, 30))
def test_better_files_have_a_larger_area(files: list[Record], gain: int) -> None:
    better = [file(f.bytes, f.accuracy_validation, f.accuracy + gain / 100) for f in files]
    in_reach = any(f.compression_ratio > RATIOS[0] for f in files)
    assert (area(better, RATIOS) > area(files, RATIOS)) == in_reach


@given(FILES)
def test_smaller_files_have_a_larger_area(files: list[Record]) -> None:
    # Where validation tells the truth; otherwise a budget may buy a worse file.
    true = [file(f.bytes, f.accuracy_validation, f.accuracy_validation) for f in files]
    smaller = [file(f.bytes // 2, f.accuracy, f.accuracy) for f in true]
    assert area(smaller, RATIOS) >= area(true, RATIOS) - 1e-12


# The smallest file within the loss


def test_the_smallest_file_is_chosen_by_validation_alone() -> None:
    good, better_test = file(5000, 0.896, 0.5), file(4000, 0.894, 0.95)
    assert smallest_within([good, better_test, file(6000, 0.9, 0.9)], 0.005) is good
    # Exactly the loss is no more than the loss, though floating point has it a little larger.
    assert 0.663 - 0.1 > 0.563
    edge = file(4000, 0.563, 0.2, accuracy_fp32_validation=0.663)
    assert smallest_within([edge], 0.1) is edge
    assert smallest_within([better_test], 0.005) is None


def test_a_missing_seed_is_counted_and_not_averaged() -> None:
    files = [file(4000, 0.9, 0.9, seed=0), file(5000, 0.9, 0.8, seed=1)]
    whole = kept(files, 0.005)
    assert (whole.complete, whole.coverage) == (True, "2 of 2")
    size = whole.mean("bytes")
    assert size is not None
    assert size.mean == 4500
    partial = kept([files[0], file(5000, 0.8, 0.8, seed=1)], 0.005)
    assert (partial.complete, partial.coverage) == (False, "1 of 2")
    assert partial.mean("bytes") is None
    assert partial.chosen() == f"{files[0].words} (1 seed)"
    changed = [
        row | {"accuracy_validation": 0.1} if (row["method"], row["seed"]) == ("LSQ", 1) else row
        for row in records(("mlp",))
    ]
    rows = [r for r in table_of(measure(changed), "smallest_files") if r["method"] == "LSQ"]
    assert [row["loss_points"] for row in rows] == ["0.5", "1.0", "2.0"]
    assert {row["seeds_within"] for row in rows} == {"2 of 3"}
    assert {row[key] for row in rows for key in ("size_kb", "ratio", "drop_points")} == {""}


def test_the_smallest_files_come_first() -> None:
    measured = measure(records(("mlp",)))
    rows = table_of(measured, "smallest_files")
    assert len(rows) == 3 * len(METHODS)
    for loss in (0.005, 0.01, 0.02):
        own = [row for row in rows if row["loss_points"] == f"{100 * loss:.1f}"]
        sizes = [float(row["size_kb"]) for row in own if row["size_kb"]]
        assert sizes == sorted(sizes)
        assert not any(row["size_kb"] for row in own[len(sizes) :])
        for row in own[: len(sizes)]:
            files = by_seed(measured.records("mlp", row["method"])).values()
            found = [smallest_within(each, loss) for each in files]
            drop = 100 * np.mean([one.drop for one in found if one])
            assert float(row["drop_points"]) == pytest.approx(drop, abs=0.005)


# Fronts


def test_fronts_by_brute_force() -> None:
    measured = measure(records(("mlp", "vgg")))

    def point(trial: Setting) -> tuple[float, float]:
        validation = [r.accuracy_validation for r in trial.records]
        return float(np.mean([r.bytes for r in trial.records])), -float(np.mean(validation))

    for task, method in [*product(("mlp", "vgg"), METHODS), ("mlp", None)]:
        trials = measured.of(task, method)
        expected = [
            one
            for one in trials
            if not any(
                all(a <= b for a, b in zip(point(other), point(one), strict=True))
                and point(other) != point(one)
                for other in trials
            )
        ]
        assert front(trials) == sorted(expected, key=point)


def test_equal_trials_stay_on_the_front_together() -> None:
    # Without Λ relevance plays no part: ECQ and ECQx make the same file.
    rows = records(("mlp",), ("ECQ", "ECQx"))
    ours = {(r["bits"], r["lam"], r["seed"]): r for r in rows if r["method"] == "ECQx"}
    same = ("accuracy", "accuracy_validation", "bytes", "compression_ratio")
    rows = [r | {k: ours[r["bits"], r["lam"], r["seed"]][k] for k in same} for r in rows]
    fronts = table_of(measure(rows), "comparison")
    assert fronts[0]["on_front"] == fronts[1]["on_front"] != "0"


# The verdict


def moved(rows: list[dict[str, Any]], method: str, by: float) -> list[dict[str, Any]]:
    """Records of ECQx, and the same under another name with other test accuracies."""
    twins = [
        row
        | {"method": method, "run_id": f"{method}{row['run_id']}"}
        | {"accuracy": row["accuracy"] + by + 1e-4 * row["seed"]}
        for row in rows
        if row["method"] == "ECQx"
    ]
    return [*rows, *twins]


@pytest.fixture(scope="module")
def contest() -> Comparison:
    rows = records(("mlp",), ("ECQx",))
    rows = moved(moved(rows, "pruning", -0.01), "LSQ", 0.01)
    return measure(moved(rows, "torchao", -1e-4))


def test_ecqx_wins_ties_and_loses(contest: Comparison) -> None:
    (judgement,) = judge(contest)
    assert judgement.sentence == (
        "MLP_GSC: ECQx wins against pruning; ties with torchao; loses to LSQ."
    )
    assert judgement.rivals(Verdict.OPEN) == []


@pytest.mark.parametrize("by", [-0.01, 0.01, -1e-4])
def test_differences_have_the_interval_of_the_paired_t_test(by: float) -> None:
    measured = measure(moved(records(("mlp",), ("ECQx",)), "LSQ", by))
    ((duel,),) = (judgement.duels for judgement in judge(measured))
    ratios = (RULES.tasks["mlp"].ratios[0], duel.ratio)
    own, theirs = (
        [area(files, ratios) for _, files in sorted(by_seed(measured.records("mlp", m)).items())]
        for m in ("ECQx", "LSQ")
    )
    interval = stats.ttest_rel(own, theirs).confidence_interval(0.95)
    assert (duel.area.low, duel.area.high) == pytest.approx((interval.low, interval.high))


def test_sizes_that_one_method_alone_reaches_do_not_count() -> None:
    rows = records(("mlp",), ("ECQx",))
    budget = sorted(row["bytes"] for row in rows)[len(rows) // 2]
    # The same files but the smaller half, each a little more accurate on both splits.
    other = [
        resized(row, max(row["bytes"], budget))
        | {"method": "LSQ"}
        | {k: row[k] + 0.01 + 1e-3 * row["seed"] for k in ("accuracy", "accuracy_validation")}
        for row in rows
    ]
    (duel,) = judge(measure([*rows, *other]))[0].duels
    assert duel.ratio == pytest.approx(4 * PARAMETERS_OF_MLP / budget)
    assert duel.verdict is Verdict.LOSES


def test_without_common_sizes_it_is_inconclusive() -> None:
    rows = records(("mlp",), ("ECQx",))
    large = 4 * PARAMETERS_OF_MLP // 2
    other = [resized(row, large) | {"method": "LSQ"} for row in rows]
    (duel,) = judge(measure([*rows, *other]))[0].duels
    assert duel.area is None
    assert duel.verdict is Verdict.OPEN


def test_the_factor_is_the_geometric_mean_of_sizes() -> None:
    rows = records(("mlp",), ("ECQx",))
    sizes = (1.9, 2.0, 2.1)
    twins = [
        resized(row, round(row["bytes"] * sizes[row["seed"]])) | {"method": "LSQ"} for row in rows
    ]
    (judgement,) = judge(measure([*rows, *twins]))
    (duel,) = judgement.duels
    assert duel.factor is not None
    logs = stats.t.interval(0.95, 2, np.mean(np.log(sizes)), stats.sem(np.log(sizes)))
    expected = (stats.gmean(sizes), *np.exp(logs))
    found = (duel.factor.mean, duel.factor.low, duel.factor.high)
    assert found == pytest.approx(expected, rel=1e-3)
    assert duel.size_verdict is Verdict.WINS
    assert judgement.size_sentence == "ECQx’s files there are smaller than those of LSQ."
    bad = [row | {"accuracy_validation": 0.1} if row["seed"] == 2 else row for row in twins]
    (duel,) = judge(measure([*rows, *bad]))[0].duels
    assert (duel.factor, duel.coverage) == (None, "2 of 3")
    assert duel.size_verdict is Verdict.OPEN


@pytest.mark.parametrize(
    ("sizes", "verdict"),
    [
        ((2.0, 2.1, 1.9), Verdict.WINS),
        ((0.5, 0.6, 0.5), Verdict.LOSES),
        ((2, 1, 0.5), Verdict.TIES),
    ],
)
def test_sizes_are_judged_by_the_interval_of_their_ratio(
    sizes: Sequence[float], verdict: Verdict
) -> None:
    rows = records(("mlp",), ("ECQx",))
    other = [
        resized(row, int(row["bytes"] * sizes[row["seed"]])) | {"method": "LSQ"} for row in rows
    ]
    (duel,) = judge(measure([*rows, *other]))[0].duels
    assert duel.size_verdict is verdict


def test_the_smallest_file_is_named(contest: Comparison) -> None:
    rows = records(("mlp",), ("ECQx",))
    smaller = [resized(row, row["bytes"] // 2) | {"method": "EC2Tx"} for row in rows]
    (judgement,) = judge(measure([*rows, *smaller]))
    assert judgement.smallest.startswith("EC2Tx, ")
    assert "; then ECQx, " in judgement.smallest
    none = [row | {"accuracy_validation": 0.1} for row in rows]
    assert judge(measure(none))[0].smallest == "no method has such a file with every seed"


def test_one_seed_is_inconclusive() -> None:
    measured = measure(records(("mlp",), ("ECQ", "ECQx", "fp16"), seeds=(5,)))
    (judgement,) = judge(measured)
    assert judgement.sentence == "MLP_GSC: ECQx is inconclusive against ECQ, fp16."
    assert "One seed each" in build_comparison_tables(measured)[0].caption
    assert " ± " not in comparison_markdown(measured, [judgement])


def test_seeds_that_agree_are_no_certain_win() -> None:
    rows = records(("mlp",), ("ECQx",))
    every = [r for r in rows if r["seed"] == 0]
    equal = [r | {"seed": s, "run_id": f"{r['run_id']}-{s}"} for r in every for s in (0, 1, 2)]
    worse = [r | {"method": "LSQ", "accuracy": r["accuracy"] - 0.3} for r in equal]
    (duel,) = judge(measure([*equal, *worse]))[0].duels
    assert duel.area.mean > 0.2
    assert (duel.area.low, duel.area.high) == (None, None)
    assert duel.verdict is duel.size_verdict is Verdict.OPEN


def test_a_task_without_ecqx_or_rivals() -> None:
    for methods in (("ECQ", "LSQ"), ("ECQx",)):
        measured = measure(records(("mlp",), methods))
        text = comparison_markdown(measured, judge(measured))
        assert "MLP_GSC: there is nothing to compare ECQx with." in text
        assert "| task" not in text


# Tables


def test_tables_hold_the_means_of_the_records() -> None:
    rows = records(("mlp", "resnet20"))
    measured = measure(rows)
    trials = table_of(measured, "trials")
    assert len(trials) == 2 * (11 * 8 + 2)
    # Tasks by title, methods in their order, and numbers in texts by size.
    assert [r["task"] for r in trials] == ["MLP_GSC"] * 90 + ["ResNet20"] * 90
    assert tuple(dict.fromkeys(r["method"] for r in trials)) == METHODS
    own = [r for r in trials if (r["task"], r["method"]) == ("MLP_GSC", "NNCodec uniform")]
    assert [r["variant"] for r in own] == [f"qp {n}" for n in range(-38, -6, 4)]
    recorded = [
        r
        for r in rows
        if (r["task"], r["variant"]) == ("mlp", "qp -38") and "uniform" in r["method"]
    ]
    assert float(own[0]["accuracy_percent"]) == pytest.approx(
        100 * np.mean([r["accuracy"] for r in recorded]), abs=0.005
    )
    drops = [r["accuracy_fp32"] - r["accuracy"] for r in recorded]
    assert float(own[0]["drop_points_sd"]) == pytest.approx(100 * np.std(drops, ddof=1), abs=0.005)
    assert float(own[0]["ratio"]) == pytest.approx(
        np.mean([r["compression_ratio"] for r in recorded]), abs=0.05
    )
    compared = table_of(measured, "comparison")
    assert len(compared) == 2 * len(METHODS)
    for row in compared[: len(METHODS)]:
        smallest = max(float(r["ratio"]) for r in trials[:90] if r["method"] == row["method"])
        assert float(row["largest_ratio"]) == smallest
    fronts = [r for r in trials[:90] if r["front"] == "of all"]
    assert len(fronts) == sum(int(r["on_front"]) for r in compared[: len(METHODS)])


def test_costs_that_differ_show_their_range() -> None:
    rows = records(("mlp",), ("ECQ", "ECQx"))
    rows = [r | {"cost": 1 + 0.5 * r["seed"]} if r["method"] == "ECQ" else r for r in rows]
    assert [r["cost"] for r in table_of(measure(rows), "comparison")] == ["1.00 to 2.00", "2.10"]
    rows = [r | {"relevance_every": 8} if r["method"] == "ECQx" else r for r in rows]
    assert [r["cost"] for r in table_of(measure(rows), "comparison")] == ["1.00 to 2.00", ""]


def test_the_family_stands_at_its_bit_widths() -> None:
    assert {
        method.width: (method.__name__, f"{method.__name__}x") for method in (EC2T, FantastIC4)
    } == WIDTHS
    measured = measure(records(("mlp",)))
    rows = table_of(measured, "family")
    assert [(r["bits"], r["method"]) for r in rows] == [
        (bits, method)
        for bits, methods in (("2", FAMILY[:4]), ("4", (*FAMILY[:2], *FAMILY[4:])))
        for method in methods
        for _ in range(4 if method in FAMILY[:2] else 8)
    ]
    # The bits of a row are those that its trial was measured at.
    names = ("method", "bits", "lambda", "accuracy_percent", "size_kb")
    known = {tuple(r[name] for name in names) for r in table_of(measured, "trials")}
    assert {tuple(r[name] for name in names) for r in rows} <= known
    few = build_comparison_tables(measure(records(("mlp",), ("ECQ", "ECQx"))))
    assert [table.name for table in few] == ["smallest_files", "comparison", "trials"]


def test_further_metrics_have_columns() -> None:
    rows = [r | {"other_metrics": {"pixel accuracy": 0.5}} for r in records(("mlp",), ("ECQx",))]
    rows += records(("vgg",), ("ECQx",))
    trials = table_of(measure(rows), "trials")
    assert {r["pixel_accuracy_percent"] for r in trials} == {"50.00", ""}


# Bad input


def without(key: str) -> list[dict[str, Any]]:
    rows = records(("mlp",), ("ECQx",))
    return [{k: v for k, v in rows[0].items() if k != key}, *rows[1:]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (make_grid("mlp"), "report.comparison has rules, but no run is of sweep"),
        (without("cost"), "run mlp-ECQx-0-0: 'cost' is missing"),
        (
            [record("mlp", "ECQx", 0, 0) | {"method": "magic"}],
            "method of sweep .comparison. must be one of ECQ, .*, not .magic.",
        ),
        (records(("mlp",), ("ECQx",)) * 2, "same setting and seed"),
        (records(("mlp",), ("ECQx",), trials=7), "ECQx has 7 trials, not 8"),
        (records(("mlp",), ("ECQx",))[1:], r"ECQx \(4 bit, Λ 0\) has no run with seed 0"),
        (
            [r | {"parameters": 5 + r["seed"]} for r in records(("mlp",), ("ECQx",))],
            "task mlp: .* 5 and 7 parameters",
        ),
    ],
)
def test_bad_records_get_one_line(rows: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        build(rows, tmp_path / "out", "made", TITLES, rules=RULES)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_task_without_rules_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task mlp: report\.comparison names no ratios"):
        build(records(("mlp",)), tmp_path, "made", TITLES, rules=Rules(0.005, {}))


def test_captions_name_the_range_of_each_task() -> None:
    fair = {"mlp": Fairness((8.0, 64.0), 8), "vgg": Fairness((4.0, 16.0), 8)}
    words = measure(records(("mlp", "vgg")), Rules(0.005, fair)).ranges_in_words()
    assert words == "from 8 to 64 (MLP_GSC), 4 to 16 (slim VGG16)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fairness((64.0, 8.0), 8), "ratios must be"),
        (lambda: Fairness((8.0, 64.0), 0), "trials must be 1 or more"),
        (lambda: Rules(2.0, {}), "loss must be a fraction"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# Figure, page and files


SMOKE = {"tasks": ("mlp",), "methods": ("ECQ", "ECQx"), "seeds": (0, 1), "trials": 2}


def smoke(out: Path, rows: list[dict[str, Any]], rules: Rules | None) -> dict[str, bytes]:
    build(rows, out, "smoke", TITLES, rules=rules)
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_the_comparison_adds_to_the_report_and_changes_nothing_else(tmp_path: Path) -> None:
    rows = [*records(**SMOKE), *make_grid("mlp", lambdas=(0.02, 0.2), seeds=(0, 1))]
    without = smoke(tmp_path / "without", rows, None)
    both = smoke(tmp_path / "with", rows, rules(2))
    assert both.keys() - without.keys() == {
        *(f"figures/comparison.{ending}" for ending in ("pdf", "png", "svg")),
        *(
            f"tables/{name}.{ending}"
            for name in ("smallest_files", "comparison", "trials")
            for ending in ("csv", "md", "tex")
        ),
    }
    changed = {name for name in without if without[name] != both[name]}
    assert changed == {"claims.md", "report.html"}
    assert both["claims.md"].startswith(without["claims.md"])
    assert b"## ECQx beside other methods" in both["claims.md"]
    assert b'id="comparison"' not in without["report.html"]
    # The same records in any order give the same files.
    assert smoke(tmp_path / "reversed", rows[::-1], rules(2)) == both


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Figure]:
    """The page of three tasks and all methods, and its figure."""
    out = tmp_path_factory.mktemp("comparison")
    suite = {"records": records(), "suite": "made", "tasks": TITLES, "rules": RULES}
    figures = draw(suite, out)
    assert (out / "tables" / "family.csv").exists()
    return (out / "report.html").read_text(encoding="utf-8"), figures["comparison"]


def test_the_page_has_the_verdict_and_the_tables(drawn: tuple[str, Figure]) -> None:
    page, _ = drawn
    section = page[page.index('<section id="comparison"') :]
    for name in ("comparison", "trials", "family"):
        assert f'id="table-{name}"' in section
    for judgement in judge(measure(records())):
        assert judgement.sentence in page[: page.index('<section id="comparison"')]
        assert f"Smallest within 0.5 points: {judgement.smallest}." in section
        for duel in judgement.duels:
            assert duel.rival in section


def test_every_trial_is_drawn_a_few_methods_a_panel(drawn: tuple[str, Figure]) -> None:
    _, figure = drawn
    measured = measure(records())
    shown: dict[str, set[str]] = {}
    for panel in figure.panels:
        rows = chart_rows(panel.chart)
        points = [row for row in rows if row["kind"] == "point"]
        methods = {row["series"] for row in points}
        assert PAPER_METHOD in methods
        assert len(methods) <= 4
        task = next(t for t, title in TITLES.items() if panel.title.startswith(title))
        shown.setdefault(task, set()).update(methods)
        assert len(points) == sum(len(measured.of(task, method)) for method in methods)
        best = [(row["x"], row["y"]) for row in rows if row["kind"] == "front"]
        expected = [
            (trial.mean("bytes").mean / 1000, 100 * trial.mean("accuracy").mean)
            for trial in front(measured.of(task))
        ]
        assert np.array(best) == pytest.approx(np.array(expected), rel=1e-5)
    assert shown == {task: set(measured.methods(task)) for task in measured.tasks}
