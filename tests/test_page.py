"""What the page holds: every figure, the library once, and the very numbers of the runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from made_runs import TASKS, draw, make_grid, make_mixed_suite, make_p_sweep

from ecqx.report.evidence import Evidence
from ecqx.report.formats import Column
from ecqx.report.page import Origin, script_json, sort_key
from ecqx.report.render import Figure
from ecqx.report.statistics import Estimate
from ecqx.report.tables import best_files

ORIGIN = Origin("seeds:\n- 0\n", {"digits": "0123abcd"})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Figure]]:
    """The page of the mixed suite, and its figures."""
    out = tmp_path_factory.mktemp("page")
    figures = draw(make_mixed_suite() | {"origin": ORIGIN}, out)
    return (out / "report.html").read_text(encoding="utf-8"), figures


@pytest.fixture(scope="module")
def text(mixed: tuple[str, dict[str, Figure]]) -> str:
    return mixed[0]


def test_every_figure_is_on_the_page(mixed: tuple[str, dict[str, Figure]]) -> None:
    text, figures = mixed
    found = dict(re.findall(r'id="figure-(\w+)">(.*?)</figure>', text, re.S))
    assert set(found) == set(figures)
    for name, part in found.items():
        (spec,) = re.findall(r'class="spec">(.*?)</script>', part, re.S)
        assert json.loads(spec) == figures[name].page_charts()
        assert part.count('class="plot') == len(figures[name].panels)
        for ending in ("png", "svg", "pdf"):
            assert f'href="figures/{name}.{ending}"' in part


def test_switches_are_inputs(mixed: tuple[str, dict[str, Figure]]) -> None:
    text, figures = mixed
    found = dict(re.findall(r'id="figure-(\w+)">(.*?)</figure>', text, re.S))
    for name, figure in figures.items():
        offered = re.findall(r'<input type="checkbox" value="([^"]+)"( checked)?>', found[name])
        expected = [word for words in figure.switches.values() for word in words]
        assert [word for word, _ in offered] == expected
        assert {word for word, on in offered if not on} == set(figure.hidden)


def test_the_library_is_there_once_and_the_page_is_light(text: str) -> None:
    assert len(re.findall(r"window\.vegaEmbed ?=", text)) == 1
    assert "BSD 3-Clause" in text
    assert len(text) < 2e6


def test_the_page_names_what_it_was_made_from(text: str) -> None:
    part = text[text.index('id="provenance"') :]
    for words in ("seeds:\n- 0\n", "0123abcd", "provenance.json"):
        assert words in part


def test_the_figure_of_sizes_has_the_runs_as_recorded(
    mixed: tuple[str, dict[str, Figure]],
) -> None:
    recorded = {r["run_id"]: r for r in make_mixed_suite()["records"] if r["sweep"] == "grid"}
    panels = mixed[1]["accuracy_size"].panels
    rows = [row for panel in panels for row in panel.chart["data"]["values"]]
    runs = {row["setting"].split(", run ")[1]: row for row in rows if row["kind"] == "run"}
    assert set(runs) == set(recorded)
    for name, row in runs.items():
        assert row["x"] == pytest.approx(recorded[name]["bytes"] / 1000, 1e-5)
        assert row["y"] == pytest.approx(100 * recorded[name]["accuracy"], 1e-5)
        assert row["seeds"] == str(recorded[name]["seed"])


def test_script_json_cannot_end_its_element() -> None:
    content = {"name": "</script><b>", "other": [1, "Λ"]}
    assert "<" not in script_json(content)
    assert json.loads(script_json(content)) == content
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


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


def test_columns_sort_by_the_unrounded_number() -> None:
    percent = Column("a", "a", "spread", 1, 100)
    assert float(sort_key(Estimate(0.98761, 0.1, 3), percent)) == pytest.approx(98.761)
    assert sort_key(None, percent) == sort_key(float("nan"), percent) == ""
    assert sort_key("no common range", percent) == "no common range"


def test_the_page_is_the_same_without_optional_parts(tmp_path: Path) -> None:
    runs = make_grid("mlp", lambdas=(0.02, 0.2), seeds=(0,))
    suite: dict[str, Any] = {"suite": "few", "tasks": TASKS, "relevance": {}, "layers": []}
    for name in ("one", "two"):
        draw({"records": runs, **suite}, tmp_path / name)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    for absent in (b'id="relevance"', b'id="masks"', b'id="layers"', b'id="yardstick"'):
        assert absent not in pages[0]
