"""The figures: one scale and one look in all of them, made for print, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import made_comparison
import numpy as np
import pytest
from made_runs import (
    MIXED_DATA,
    MIXED_TASKS,
    chart_rows,
    draw,
    make_decoded,
    make_grid,
    make_inputs,
    make_layers,
    make_mixed_suite,
    make_p_sweep,
    make_relevance,
    make_suite,
    scales,
)

from ecqx.report.columns import ACCURACY, SIZE
from ecqx.report.correlations import correlate
from ecqx.report.evidence import Evidence
from ecqx.report.figures import accuracy_against_size, accuracy_against_sparsity, influence_of_p
from ecqx.report.networks import build_layer_figures, build_relevance_figures
from ecqx.report.records import METHODS
from ecqx.report.render import Figure
from ecqx.report.samples import build_input_figures, pool
from ecqx.report.style import COLUMN, FRONT, LOOKS, PAGE

TESTS = Path(__file__).parent


def odd_suite() -> dict[str, Any]:
    """Runs that collapse to guessing, perfect ones, long labels, many Λ, one seed, one method."""
    runs = make_grid("resnet20", lambdas=(0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.2, 0.4))
    runs = [run | {"dataset": "cifar10"} for run in runs]
    runs = [run | {"accuracy": 0.1} if run["lam"] > 0.1 else run for run in runs]
    perfect = [
        run | {"accuracy": 1.0, "accuracy_fp32": 1.0} for run in make_grid("vgg", seeds=(0,))
    ]
    only = [run for run in make_grid("mlp", bits=(2, 3)) if run["method"] == "ECQ"]
    nothing = {"layers.0.weight": (np.ones((4, 4)), np.zeros((4, 4)))}
    return {
        "records": [*runs, *perfect, *only],
        "relevance": {"mlp": nothing},
        "suite": "odd",
        "tasks": {"resnet20": "ResNet20 (published checkpoint)", "vgg": "slim VGG16 on digits"},
        "layers": [],
    }


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Figure]]:
    """The figures of some suites, which hold every kind of figure, by the suite's name."""
    compared = {"records": made_comparison.records(), "rules": made_comparison.RULES}
    compared |= {"suite": "compared", "tasks": made_comparison.TITLES}
    made = {"mixed": make_mixed_suite(), "full": make_suite(), "odd": odd_suite()}
    return {
        name: draw(suite, tmp_path_factory.mktemp(name))
        for name, suite in (made | {"compared": compared}).items()
    }


def every(suites: dict[str, dict[str, Figure]]) -> Iterator[Figure]:
    return (figure for figures in suites.values() for figure in figures.values())


def test_every_kind_of_figure_is_there(suites: dict[str, dict[str, Figure]]) -> None:
    names = {figure.name for figure in every(suites)}
    for name in ("accuracy_sparsity", "accuracy_sparsity_mlp", "accuracy_size", "influence_of_p"):
        assert name in names
    for name in ("influence_of_batchnorm", "sparsity_lambda", "ratio_lambda", "yardstick"):
        assert name in names
    for name in ("comparison", "masks_deeplab", "layers_mlp", "relevance_mlp"):
        assert name in names
    assert {"relevance_map_mlp", "relevance_inputs_mlp", "relevance_inputs_resnet20"} <= names


def test_charts_are_valid(suites: dict[str, dict[str, Figure]]) -> None:
    kinds = {re.sub("_[a-z]*[0-9]*$", "", f.name): f for f in every(suites)}
    for figure in kinds.values():
        alt.Chart.from_dict(figure.page_charts()[0])


def test_one_scale_a_figure(suites: dict[str, dict[str, Figure]]) -> None:
    """The same kind of scale in all panels; accuracies have the same length as well."""
    for figure in every(suites):
        for channel in "xy":
            own = [scale for panel in figure.panels for scale in scales(panel.chart, channel)]
            assert len({(s.get("type", "linear"), s.get("constant")) for s in own}) <= 1, (
                figure.name
            )
        if re.match("accuracy|influence|yardstick|comparison", figure.name):
            ends = [scales(panel.chart, "y")[0]["domain"] for panel in figure.panels]
            lengths = [high - low for low, high in ends]
            assert lengths == pytest.approx([lengths[0]] * len(ends)), figure.name
            assert scales(figure.panels[0].chart, "y")[0].get("type", "linear") == "linear"


def test_no_panel_is_empty(suites: dict[str, dict[str, Figure]]) -> None:
    """The best mark of each panel of curves is in sight."""
    for figure in every(suites):
        for panel in figure.panels:
            points = [row for row in chart_rows(panel.chart) if row.get("kind") == "point"]
            if points:
                best = max(points, key=lambda row: row["y"])
                for axis in "xy":
                    low, high = scales(panel.chart, axis)[0]["domain"]
                    assert low <= best[axis] <= high, (figure.name, panel.title)


def test_a_method_has_one_colour_and_one_mark(suites: dict[str, dict[str, Figure]]) -> None:
    seen = set()
    for figure in every(suites):
        for panel in figure.panels if not figure.key else ():
            for channel, part in (("color", "colour"), ("shape", "path")):
                for scale in scales(panel.chart, channel):
                    if "log" not in scale.values():
                        pairs = dict(zip(scale["domain"], scale["range"], strict=True))
                        assert pairs == {name: getattr(LOOKS[name], part) for name in pairs}
                        seen |= set(pairs)
    assert set(METHODS) <= seen


def light(colour: str) -> float:
    parts = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_looks_differ_and_stand_out_from_light_and_dark() -> None:
    assert set(METHODS) < set(LOOKS)
    for one, other in combinations(METHODS, 2):
        assert LOOKS[one].path != LOOKS[other].path
        assert LOOKS[one].colour != LOOKS[other].colour
    for name, look in LOOKS.items():
        if name != FRONT:
            assert 1.05 / (light(look.colour) + 0.05) >= 3, name
            assert (light(look.colour) + 0.05) / (light("#1c2025") + 0.05) >= 3, name


def test_print(suites: dict[str, dict[str, Figure]]) -> None:
    """One or two columns wide, 8 points, text as text, and no title."""
    mixed, compared = suites["mixed"], suites["compared"]
    names = ("accuracy_sparsity", "masks_deeplab")
    for figure in (*(mixed[name] for name in names), compared["comparison"]):
        files = figure.files()
        svg = files["svg"].decode()
        width = int(re.findall(r'<svg[^>]* width="(\d+)"', svg)[0])
        assert min(abs(width - COLUMN), abs(width - PAGE)) <= 8, figure.name
        sizes = set(re.findall(r'font-size="([\d.]+)px"', svg))
        assert sizes == {"8"}
        words = re.sub(r"<[^>]+>", " ", svg)
        assert "<text" in svg
        assert figure.panels[0].title.split(",")[0] in words
        assert figure.title not in words
        marks = re.findall(r"mark-(symbol|image|rect|line) role-mark[^>]*><(path|image)", svg)
        assert len(marks) >= len(figure.panels), figure.name
        (box,) = set(re.findall(rb"/MediaBox ?\[ ?0 0 (\d+)", files["pdf"]))
        assert abs(int(box) - width) <= 1
        assert b"/FontFile2" in files["pdf"]


def test_the_same_bytes_in_two_processes() -> None:
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(TESTS)!r})\n"
        "from test_figures import some_figure\n"
        "for name, content in some_figure().files().items():\n"
        "    print(name, hashlib.sha256(content).hexdigest())"
    )
    own = "".join(
        f"{name} {hashlib.sha256(content).hexdigest()}\n"
        for name, content in some_figure().files().items()
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == own


def some_figure() -> Figure:
    evidence = Evidence.collect("made", {"mlp": "MLP"}, make_grid("mlp", bits=(2, 4)))
    figure = accuracy_against_size(evidence)
    assert figure is not None
    return figure


# -- what the panels show --------------------------------------------------------------------------


def test_curves_show_means_and_say_what_the_tables_say() -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2))
    evidence = Evidence.collect("made", {"mlp": "MLP"}, runs)
    figure = accuracy_against_sparsity(evidence)
    assert figure is not None
    rows = chart_rows(figure.panels[0].chart)
    points = [row for row in rows if row["kind"] == "point"]
    assert len(points) == 4
    for setting, point in zip(evidence.of("mlp"), points, strict=True):
        own = [r for r in runs if (r["method"], r["lam"]) == (setting.method, setting.lam)]
        accuracies = [100 * r["accuracy"] for r in own]
        assert point["x"] == pytest.approx(100 * fmean(r["sparsity"] for r in own), 1e-5)
        assert point["y"] == pytest.approx(fmean(accuracies), 1e-5)
        assert point["y"] - point["y0"] == pytest.approx(np.std(accuracies, ddof=1), 1e-3)
        assert point["order"] == setting.lam
        assert point[ACCURACY.key] == ACCURACY.text(setting.mean("accuracy"))
        assert point[SIZE.key] == SIZE.text(setting.mean("bytes"))
        assert point["seeds"] == "0, 1, 2"
    (full,) = [row for row in rows if row["kind"] == "reference"]
    assert full["y"] == pytest.approx(100 * fmean(r["accuracy_fp32"] for r in runs), 1e-5)


def test_each_bit_width_and_p_has_a_panel_beside_ecq_of_that_width() -> None:
    runs = make_grid("mlp", bits=(2, 4)) + make_p_sweep("mlp", 2) + make_p_sweep("mlp", 4)
    figure = influence_of_p(Evidence.collect("made", {"mlp": "MLP"}, runs))
    assert figure is not None
    wanted = [f"MLP, p = {p:g}, {bits} bit" for bits in (2, 4) for p in (0.02, 0.05, 0.1, 0.2)]
    assert [panel.title for panel in figure.panels] == wanted
    for panel in figure.panels:
        points = [row for row in chart_rows(panel.chart) if row["kind"] == "point"]
        assert {point["width"] for point in points} == {panel.title.split(", ")[-1]}
        assert {point["series"] for point in points} == {"ECQ", "ECQx"}


def test_a_collapse_does_not_hide_the_rest() -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2))
    runs = [run | {"accuracy": 0.1} if run["lam"] == 0.2 else run for run in runs]
    figure = accuracy_against_sparsity(Evidence.collect("made", {"mlp": "MLP"}, runs))
    assert figure is not None
    low, high = scales(figure.panels[0].chart, "y")[0]["domain"]
    assert 80 < low < high < 101
    assert "Out of sight: 2 of 4 marks" in figure.caption


def test_panels_have_their_own_metric_and_data(suites: dict[str, dict[str, Figure]]) -> None:
    for name in ("accuracy_sparsity", "accuracy_size"):
        figure = suites["mixed"][name]
        assert figure.title.startswith("Test metric against")
        metrics = ("top-1 accuracy", "top-1 accuracy", "mean average precision", "mean IoU")
        for panel, task, metric in zip(figure.panels, MIXED_TASKS, metrics, strict=True):
            assert f'"title": "{metric} (%)"' in json.dumps(panel.chart)
            assert panel.title.startswith(MIXED_TASKS[task])
            assert MIXED_DATA[task]["dataset"].split(" (")[0] in panel.title


def test_joint_counts_are_of_all_weights_with_relevance() -> None:
    evidence = Evidence.collect("made", {"mlp": "MLP"}, make_grid("mlp", lambdas=(0.02, 0.2)))
    relevance, decoded = {"mlp": make_relevance("mlp")}, {"mlp": make_decoded("mlp")}
    found = correlate(relevance, ["mlp"])
    joint, maps = build_relevance_figures(evidence, relevance, decoded, found)
    assert [panel.title for panel in maps.panels] == list(relevance["mlp"])
    panels = {panel.title: chart_rows(panel.chart) for panel in joint.panels}
    for kind, source in (("full precision", relevance), ("decoded", decoded)):
        for layer, (_, r) in source["mlp"].items():
            counted = sum(row["count"] for row in panels[f"{layer}, {kind}"])
            # Hardly any weight lies below the axis.
            assert 0.99 * np.count_nonzero(r) <= counted <= np.count_nonzero(r)


def test_pooling_keeps_the_mean_of_each_block() -> None:
    values = np.random.default_rng(0).random((130, 7))
    pooled = pool(values, 64)
    assert pooled.shape == (44, 7)
    for i in range(44):
        assert pooled[i] == pytest.approx(values[3 * i : 3 * i + 3].mean(axis=0))
    assert (pool(values, 130) == values).all()


def test_inputs_name_their_classes() -> None:
    evidence = Evidence.collect("made", {"mlp": "MLP"}, make_grid("mlp", lambdas=(0.02, 0.2)))
    (figure,) = build_input_figures(evidence, make_inputs("mlp"), {"mlp": ["a", "b", "c", "d"]})
    assert figure.panels[2].title == "true class c; full precision: c, decoded: d"
    names = [row["name"] for row in chart_rows(figure.panels[2].chart)]
    assert names == ["input", "full precision", "decoded"]


def test_layers_show_what_was_recorded() -> None:
    evidence = Evidence.collect("made", {"mlp": "MLP"}, make_grid("mlp", lambdas=(0.02, 0.2)))
    layers = make_layers("mlp")
    (figure,) = build_layer_figures(evidence, layers)
    quantities = (("sparsity", 100), ("entropy_bits_per_weight", 1), ("bytes", 1e-3))
    for panel, (key, factor) in zip(figure.panels, quantities, strict=True):
        for row, layer in zip(chart_rows(panel.chart), layers, strict=True):
            assert row["series"] == layer["method"]
            assert f"{row['name']}.weight" == layer["layer"]
            assert row["value"] == pytest.approx(factor * layer[key], 1e-4)
