"""What the page holds: charts that plotly accepts and the very numbers of the runs."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from ecqx.report.curve_charts import by_method, curve_panel, hover
from ecqx.report.curves import accuracy, size
from ecqx.report.layer_charts import build_layer_charts
from ecqx.report.masks_figure import KINDS
from ecqx.report.relevance_charts import build_relevance_charts, pool
from made_runs import (
    MIXED_TASKS,
    TASKS,
    make_decoded,
    make_grid,
    make_inputs,
    make_layers,
    make_mixed_suite,
    make_p_sweep,
    make_relevance,
    make_samples,
)
from matplotlib.figure import Figure
from PIL import Image
from plotly.offline import get_plotlyjs

from ecqx.report.build import build
from ecqx.report.charts import script_json
from ecqx.report.columns import ACCURACY, SIZE
from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column
from ecqx.report.page import Origin, sort_key
from ecqx.report.statistics import Estimate
from ecqx.report.tables import best_files

ORIGIN = Origin("seeds:\n- 0\n", {"digits": "0123abcd"})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the mixed suite."""
    out = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        build(out=out, origin=ORIGIN, **make_mixed_suite())
    return (out / "report.html").read_text(encoding="utf-8")


def charts(text: str) -> dict[str, list[dict[str, Any]]]:
    """Traces and layouts of every chart's panels, by the chart's name."""
    found = re.findall(r'<figure class="card chart" id="figure-(\w+)">(.*?)</figure>', text, re.S)
    return {
        name: json.loads(re.findall(r'class="spec">(.*?)</script>', figure, re.S)[0])
        for name, figure in found
    }


def test_every_chart_is_valid_plotly(text: str) -> None:
    found = charts(text)
    assert {"yardstick", "relevance_mlp", "relevance_map_mlp", "relevance_inputs_mlp"} <= set(found)
    assert {"layers_mlp", "masks_deeplab", "accuracy_sparsity", "ratio_lambda"} <= set(found)
    for panels in found.values():
        for panel in panels:
            # Colours of the theme are the page's own; everything else is plotly's language.
            plain = re.sub(r"(var|color-mix)\([^\"]*\)", "#123456", json.dumps(panel))
            figure = go.Figure(json.loads(plain))
            assert len(figure.data) == len(panel["data"]) > 0


def test_the_library_is_there_once_and_whole(text: str) -> None:
    (packed,) = re.findall(
        r'<script type="application/gzip" id="library">(.*?)</script>', text, re.S
    )
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert "Copyright 2012-" in text
    assert "Licensed under the MIT license" in text
    assert len(text) < 3.5e6


def test_the_page_names_what_it_was_made_from(text: str) -> None:
    part = text[text.index('id="provenance"') :]
    for words in ("seeds:\n- 0\n", "0123abcd", "provenance.json"):
        assert words in part


def test_the_centre_piece_has_the_runs_as_recorded(text: str) -> None:
    suite = make_mixed_suite()
    recorded = {run["run_id"]: run for run in suite["records"] if run["sweep"] == "grid"}
    (content,) = re.findall(r'id="runs">(.*?)</script>', text, re.S)
    tasks = json.loads(content)
    assert [task["title"] for task in tasks] == list(MIXED_TASKS.values())
    shown = [
        (task, setting, run)
        for task in tasks
        for setting in task["settings"]
        for run in setting["runs"]
    ]
    assert {run["run_id"] for *_, run in shown} == set(recorded)
    for task, setting, run in shown:
        source = recorded[run["run_id"]]
        assert {key: source[key] for key in run} == run
        assert [task["key"], *(setting[key] for key in ("method", "bits", "lam", "p"))] == [
            source[key] for key in ("task", "method", "bits", "lam", "p")
        ]
    assert tasks[0]["configurations"]["ECQx"]["composite"] == "epsilon_plus_flat_bn_pass"
    assert "composite" not in tasks[0]["configurations"]["ECQ"]


def test_script_json_cannot_end_its_element() -> None:
    content = {"name": "</script><b>", "other": [1, "Λ"]}
    assert "<" not in script_json(content)
    assert json.loads(script_json(content)) == content
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_curves_show_means_and_say_what_the_tables_say() -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2))
    evidence = Evidence.collect("made", TASKS, runs)
    settings = evidence.of("mlp")
    panel = curve_panel("", by_method(settings), "size", size, "accuracy", accuracy)
    for method, trace in zip(("ECQ", "ECQx"), panel.traces, strict=False):
        own = [[r for r in runs if (r["method"], r["lam"]) == (method, lam)] for lam in (0.02, 0.2)]
        assert trace["name"] == method
        assert trace["x"] == pytest.approx([fmean(r["bytes"] for r in s) / 1e3 for s in own], 1e-4)
        assert trace["y"] == pytest.approx(
            [100 * fmean(r["accuracy"] for r in s) for s in own], 1e-4
        )
        deviations = [100 * np.std([r["accuracy"] for r in s], ddof=1) for s in own]
        assert trace["error_y"]["array"] == pytest.approx(deviations, 1e-4)
    reference = panel.traces[-1]
    full = fmean(r["accuracy_fp32"] for r in runs)
    assert reference["y"] == pytest.approx([100 * full] * 2, 1e-4)
    words = hover(settings[0])
    assert ACCURACY.text(settings[0].mean("accuracy")) in words
    assert SIZE.text(settings[0].mean("bytes")) in words
    assert "seeds: 0, 1, 2" in words


def test_a_collapse_does_not_hide_the_rest() -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2))
    runs = [run | {"accuracy": 0.1} if run["lam"] == 0.2 else run for run in runs]
    settings = Evidence.collect("made", TASKS, runs).of("mlp")
    panel = curve_panel("", by_method(settings), "size", size, "accuracy", accuracy)
    low, high = panel.layout["yaxis"]["range"]
    assert 75 < low < 85
    assert high > max(y for trace in panel.traces for y in trace["y"])


def test_the_best_file_is_the_smallest_within_a_point_of_validation() -> None:
    runs = make_grid("mlp", bits=(2, 4)) + make_p_sweep("mlp")
    evidence = Evidence.collect("made", TASKS, runs)
    table = best_files(evidence)
    (row,) = table.rows
    cells = dict(zip((column.key for column in table.columns), row.cells, strict=True))
    groups: dict[Any, list[dict[str, Any]]] = {}
    for run in runs:
        if run["sweep"] == "grid":
            groups.setdefault((run["method"], run["bits"], run["lam"]), []).append(run)

    def mean(group: list[dict[str, Any]], key: str) -> float:
        return fmean(run[key] for run in group)

    floor = max(mean(group, "accuracy_validation") for group in groups.values()) - 0.01
    near = {k: g for k, g in groups.items() if mean(g, "accuracy_validation") >= floor}
    chosen = min(near, key=lambda key: mean(near[key], "bytes"))
    assert (cells["method"], cells["bits"], cells["lambda"]) == (*chosen[:2], f"{chosen[2]:g}")
    best = max(near[chosen], key=lambda run: run["accuracy_validation"])
    assert cells["file"] == best["run_id"]


def test_joint_counts_are_of_all_weights_with_relevance() -> None:
    evidence = Evidence.collect("made", TASKS, make_grid("mlp", lambdas=(0.02, 0.2)))
    relevance, decoded = {"mlp": make_relevance("mlp")}, {"mlp": make_decoded("mlp")}
    joint, maps = build_relevance_charts(evidence, relevance, decoded, {}, {}, ())
    kinds = ("full precision", "decoded")
    names = [f"{layer}, {kind}" for layer in relevance["mlp"] for kind in kinds]
    assert [panel.title for panel in maps.panels] == names
    assert [panel.title.split(":")[0] for panel in joint.panels] == names
    sources = [
        source["mlp"][layer] for layer in relevance["mlp"] for source in (relevance, decoded)
    ]
    for panel, place, (_, r) in zip(joint.panels, maps.panels, sources, strict=True):
        counted = np.sum(panel.traces[0]["z"])
        # Hardly any weight lies below the axis.
        assert 0.99 * np.count_nonzero(r) <= counted <= np.count_nonzero(r)
        share = np.abs(r) / np.abs(r).max()
        drawn = np.array(place.traces[0]["z"], dtype=float)
        assert drawn.shape == r.shape
        assert np.isnan(drawn).sum() == (share == 0).sum()
        assert 10 ** drawn[share > 0] == pytest.approx(share[share > 0], rel=0.02)


def test_pooling_keeps_the_mean_of_each_block() -> None:
    values = np.random.default_rng(0).random((130, 7))
    pooled = pool(values, 64)
    assert pooled.shape == (44, 7)
    for i in range(44):
        assert pooled[i] == pytest.approx(values[3 * i : 3 * i + 3].mean(axis=0))
    assert (pool(values, 130) == values).all()


def test_inputs_stand_beside_their_relevance_on_one_scale() -> None:
    evidence = Evidence.collect("made", TASKS, make_grid("mlp", lambdas=(0.02, 0.2)))
    samples = make_inputs("mlp")
    (chart,) = build_relevance_charts(evidence, {}, {}, samples, {"mlp": ["a", "b", "c", "d"]}, ())
    titles = [panel.title for panel in chart.panels]
    assert titles[2] == "True class c; full precision: c, decoded: d"
    for i, panel in enumerate(chart.panels):
        pixels, before, after = panel.traces
        assert np.array(pixels["z"]) == pytest.approx(samples["mlp/input"][i], rel=1e-2)
        shown = samples["mlp/relevance decoded"][i]
        assert np.array(after["z"]) == pytest.approx(shown, rel=1e-2)
        largest = np.abs(samples["mlp/relevance full precision"][i]).max()
        assert before["zmax"] == after["zmax"] == -after["zmin"] == pytest.approx(largest, rel=1e-2)


def test_masks_can_be_laid_out_again(text: str) -> None:
    samples = make_samples("deeplab")
    names = ["background", "thing 3", "thing 7", "thing 11", "ignored"]
    labels = np.array([0, 3, 7, 11, 255])
    panels = charts(text)["masks_deeplab"]
    assert len(panels) == 3
    for i, panel in enumerate(panels):
        image, *masks = panel["data"]
        png = base64.b64decode(image["source"].split(",")[1])
        pixels = np.asarray(Image.open(io.BytesIO(png)))
        assert (pixels.transpose(2, 0, 1) == samples["deeplab/image"][i]).all()
        for kind, mask in zip(KINDS[1:], masks, strict=True):
            flat = [label for label, count in mask["meta"]["runs"] for _ in range(count)]
            drawn = labels[np.array(flat).reshape(-1, mask["meta"]["width"])]
            assert (drawn == samples[f"deeplab/{kind}"][i]).all()
            assert mask["meta"]["names"] == names


def test_layers_show_what_was_recorded() -> None:
    evidence = Evidence.collect("made", TASKS, make_grid("mlp", lambdas=(0.02, 0.2)))
    layers = make_layers("mlp")
    (chart,) = build_layer_charts(evidence, layers)
    for panel, (key, factor) in zip(
        chart.panels,
        (("sparsity", 100), ("entropy_bits_per_weight", 1), ("bytes", 1e-3)),
        strict=True,
    ):
        for trace in panel.traces:
            own = [layer for layer in layers if layer["method"] == trace["name"]]
            assert trace["x"] == [layer["layer"] for layer in own]
            assert trace["y"] == pytest.approx([factor * layer[key] for layer in own], 1e-4)


def test_columns_sort_by_the_unrounded_number() -> None:
    percent = Column("a", "a", "spread", 1, 100)
    assert float(sort_key(Estimate(0.98761, 0.1, 3), percent)) == pytest.approx(98.761)
    assert sort_key(None, percent) == sort_key(float("nan"), percent) == ""
    assert sort_key("no common range", percent) == "no common range"


def test_the_page_is_the_same_without_optional_parts(tmp_path: Path) -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2), seeds=(0,))
    suite: dict[str, Any] = {"suite": "few", "tasks": TASKS, "relevance": {}, "layers": []}
    for name in ("one", "two"):
        build(records=runs, out=tmp_path / name, **suite)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    for absent in (b'id="relevance"', b'id="masks"', b'id="layers"', b'id="yardstick"'):
        assert absent not in pages[0]
