"""The report of suites whose tasks have data sets and metrics of their own."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import (
    MIXED_DATA,
    MIXED_TASKS,
    SPEECH,
    VARIANTS,
    draw,
    make_ablation,
    make_grid,
    make_mixed_grid,
    make_mixed_suite,
)
from scipy import stats

from ecqx.errors import InputError
from ecqx.report.build import build
from ecqx.report.evidence import Evidence
from ecqx.report.render import Figure
from ecqx.report.tables import results

SHORT_SPEECH = "Speech Commands v0.02, test archive"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Figure]]:
    out = tmp_path_factory.mktemp("mixed")
    return out, draw(make_mixed_suite(), out)


def rows_of(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"tables/{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Figures


def test_what_was_trained_on_what_is_said_once(mixed: tuple[Path, dict[str, Figure]]) -> None:
    text = (mixed[0] / "report.html").read_text(encoding="utf-8")
    first, rest = text.split('<section id="overview"', 1)
    for words in (SPEECH, "at most 17920 of 45000 training samples"):
        assert first.count(words) == 1
    assert "training samples per run" not in rest
    figure = mixed[1]["accuracy_sparsity_resnet20"]
    assert not any("cifar10" in panel.title for panel in figure.panels)


# Tables


def test_results_tell_metric_data_and_what_was_seen(mixed: tuple[Path, dict[str, Figure]]) -> None:
    rows = rows_of(mixed[0], "results")
    about = {row["task"]: (row["metric"], row["data"], row["trained_on"]) for row in rows}
    assert about == {
        "MLP_GSC": ("top-1 accuracy", SPEECH, "3911 of 3911"),
        "ResNet20": ("top-1 accuracy", "cifar10", "at most 17920 of 45000"),
        "ResNet18": ("mean average precision", "voc2012 classification", "7386 of 7386"),
        "DeepLabV3": ("mean IoU", "voc2012 segmentation (14 images)", "8 of 8"),
    }
    starts = {row["task"]: row["start"] for row in rows}
    assert starts["ResNet20"] == "checkpoint 01234567"
    assert starts["MLP_GSC"] == "random weights"
    text = (mixed[0] / "tables/results.md").read_text(encoding="utf-8")
    assert text.count(SPEECH) == 1


def test_pixel_accuracy_stands_beside_mean_iou(mixed: tuple[Path, dict[str, Figure]]) -> None:
    for row in rows_of(mixed[0], "results"):
        if row["task"] == "DeepLabV3":
            iou, pixels = float(row["accuracy_percent"]), float(row["pixel_accuracy_percent"])
            assert pixels == pytest.approx(iou / 0.6 + 1, abs=0.02)
        else:
            assert row["pixel_accuracy_percent"] == ""


def test_other_metrics_have_no_column_where_there_are_none(tmp_path: Path) -> None:
    evidence = Evidence.collect("made", MIXED_TASKS, make_mixed_grid("resnet18"))
    assert not [c for c in results(evidence).columns if "pixel" in c.key]


def test_published_setup_has_rows_of_its_own(mixed: tuple[Path, dict[str, Figure]]) -> None:
    rows = [r for r in rows_of(mixed[0], "results") if r["chosen"] == "published setup"]
    assert [(r["task"], r["bits"], r["lambda"], r["method"]) for r in rows] == [
        ("ResNet20", "4", "0.05", "ECQ"),
        ("ResNet20", "4", "0.05", "ECQx"),
    ]
    grid = {(r["task"], r["bits"], r["lambda"], r["method"]): r for r in rows_of(mixed[0], "grid")}
    for row in rows:
        same = grid[row["task"], row["bits"], row["lambda"], row["method"]]
        for key in ("accuracy_percent", "accuracy_percent_sd", "size_kb", "sparsity_percent"):
            assert row[key] == same[key]
    others = [r for r in rows_of(mixed[0], "results") if r["chosen"] != "published setup"]
    suite = make_mixed_suite() | {"published": []}
    evidence = Evidence.collect("mixed", MIXED_TASKS, suite["records"])
    assert len(results(evidence).rows) == len(others)


def test_a_published_setup_that_was_not_measured_is_named(tmp_path: Path) -> None:
    published = [{"task": "resnet20", "bits": 4, "lam": 0.07}]
    with pytest.raises(InputError, match=r"report\.published: task resnet20, 4 bit, Λ 0\.07"):
        build(out=tmp_path, **make_mixed_suite() | {"published": published})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["other_metrics", "batch_size", "start", "train_samples"])
def test_records_without_a_key_are_named(key: str) -> None:
    runs = [{k: v for k, v in run.items() if k != key} for run in make_mixed_grid("mlp")]
    with pytest.raises(InputError, match=f"'{key}' is missing"):
        Evidence.collect("made", MIXED_TASKS, runs)


# Ablation


def test_ablation_is_in_the_order_of_settings(mixed: tuple[Path, dict[str, Figure]]) -> None:
    rows = rows_of(mixed[0], "ablation")
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        found.setdefault((row["task"], row["lambda"]), []).append(row["replaced"])
    names = ["none", *(name for name, _ in VARIANTS)]
    assert found == {(t, lam): names for t in ("MLP_GSC", "ResNet20") for lam in ("0.05", "0.2")}


@pytest.mark.parametrize("method", ["ECQ", "ECQx"])
def test_gain_of_an_ablation_is_paired_with_the_base(tmp_path: Path, method: str) -> None:
    """With the runs of its own method, of the same Λ and seed."""
    grid, noise = make_mixed_grid("resnet20"), np.random.default_rng(0)
    changed = [
        r
        | {"run_id": f"{own} {r['run_id']}", "method": own}
        | {"accuracy": r["accuracy"] - noise.random() / 9}
        for r in make_ablation("resnet20")
        if r["variant"] == "pmf: normalized"
        for own in ("ECQ", "ECQx")
    ]
    draw(
        {
            "records": grid + changed,
            "relevance": {},
            "suite": "made",
            "tasks": MIXED_TASKS,
            "layers": [],
        },
        tmp_path,
    )
    base, variant = (
        {r["seed"]: r["accuracy"] for r in runs if r["lam"] == 0.2 and r["method"] == method}
        for runs in (grid, changed)
    )
    oracle = stats.ttest_rel(*([100 * own[seed] for seed in base] for own in (variant, base)))
    ends = oracle.confidence_interval(0.95)
    mean = 100 * np.mean([variant[seed] - base[seed] for seed in base])
    row = next(
        row
        for row in rows_of(tmp_path, "ablation")
        if (row["replaced"], row["lambda"], row["method"]) == ("pmf: normalized", "0.2", method)
    )
    shown = [row[f"gain_points{end}"] for end in ("", "_low", "_high")]
    assert shown == [f"{value:.2f}" for value in (mean, ends.low, ends.high)]


# Claims


def test_verdicts_and_findings_name_the_data(mixed: tuple[Path, dict[str, Figure]]) -> None:
    text = (mixed[0] / "claims.md").read_text(encoding="utf-8")
    verdicts = [line for line in text.splitlines() if line.startswith("Verdict: ")]
    assert len(verdicts) == 4
    every = "; ".join(MIXED_DATA[task]["dataset"] for task in MIXED_TASKS)
    assert all(line.endswith(f"**, on {every}") for line in verdicts[:3])
    assert verdicts[3].endswith(f"**, on {SPEECH}")
    third = text.split("## 3.")[1].split("## 4.")[0]
    for task, title in MIXED_TASKS.items():
        data = SHORT_SPEECH if task == "mlp" else MIXED_DATA[task]["dataset"]
        assert re.search(rf"\n- {re.escape(f'{title} on {data}')}: [a-z ]+\. ECQx − ECQ", third)
    assert "- DeepLabV3: mean IoU on voc2012 segmentation (14 images); " in third


def test_difference_at_equal_sparsity_is_that_of_each_task_alone(
    mixed: tuple[Path, dict[str, Figure]], tmp_path: Path
) -> None:
    text = (mixed[0] / "claims.md").read_text(encoding="utf-8")
    suite = make_mixed_suite()
    alone = [run for run in suite["records"] if run["task"] == "deeplab"]
    draw(
        {"records": alone, "relevance": {}, "suite": "one", "tasks": MIXED_TASKS, "layers": []},
        tmp_path,
    )
    lines = (tmp_path / "claims.md").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if re.search(r"^- DeepLabV3 .* ECQx − ECQ", line))
    assert line in text
    assert re.search(r"4 bit, band \[−p, 0\] 0\.\d\d \[−?0\.\d\d, \d\.\d\d\]", line)


def test_loss_refers_to_training_on_in_full_precision(tmp_path: Path) -> None:
    runs = make_mixed_grid("mlp")
    suite = {"relevance": {}, "suite": "made", "tasks": MIXED_TASKS, "layers": []}
    texts = []
    for name, changes in (("a", {}), ("b", {"accuracy_start": 0.1}), ("c", {"accuracy_fp32": 0.1})):
        draw({"records": [run | changes for run in runs], **suite}, tmp_path / name)
        texts.append((tmp_path / name / "claims.md").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]
    assert "accuracy_fp32" in texts[0]


# Less than everything


def one_seed_suite() -> dict[str, Any]:
    """One seed, one bit width, no sweep, nothing to compare with."""
    runs = [*make_mixed_grid("mlp", seeds=(0,)), *make_mixed_grid("deeplab", seeds=(0,))]
    return {"records": runs, "relevance": {}, "suite": "one", "tasks": MIXED_TASKS, "layers": []}


def test_one_seed_has_no_deviation_and_says_so(tmp_path: Path) -> None:
    figures = draw(one_seed_suite(), tmp_path)
    assert {"accuracy_sparsity", "accuracy_size", "sparsity_lambda", "ratio_lambda"} <= set(figures)
    for figure in figures.values():
        assert "One seed each, hence without deviation" in figure.caption
        assert "±" not in figure.caption
    for name in ("results", "grid", "networks"):
        text = (tmp_path / f"tables/{name}.md").read_text(encoding="utf-8")
        assert "±" not in text
        assert "One seed each, hence without deviation" in text
    claims = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert "one seed, no interval" in claims
    assert "**holds**" not in claims
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "deviation over seeds" not in page


def test_one_metric_names_the_figure(tmp_path: Path) -> None:
    runs = [run | MIXED_DATA["deeplab"] for run in make_grid("resnet20", lambdas=(0.05, 0.2))]
    suite = {"relevance": {}, "suite": "one", "tasks": MIXED_TASKS, "layers": []}
    figures = draw({"records": runs, **suite}, tmp_path)
    titles = {figure.title for figure in figures.values()}
    assert {"Mean IoU against sparsity", "Mean IoU against file size"} <= titles
