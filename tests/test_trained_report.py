"""Methods with trained centroids in the report: a table of their own, and nothing else changes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import draw, make_grid, make_minimal_suite, make_relevance, make_run, make_trained

from ecqx.methods.registry import METHODS
from ecqx.report.claims import build_claims
from ecqx.report.correlations import correlate
from ecqx.report.evidence import Evidence
from ecqx.report.figures import build_curve_figures
from ecqx.report.formats import Table, to_csv
from ecqx.report.records import GRID_METHODS, TRAINED_METHODS
from ecqx.report.regression import compare
from ecqx.report.sweeps import trained_centroids
from ecqx.report.tables import build_tables
from stages.evaluate import _curves, _means, _nested

GRID = [*make_grid("mlp", bits=(2, 4), lambdas=(0.05, 0.2)), *make_grid("resnet20")]
TRAINED = make_trained("mlp")


def evidence(runs: list[dict[str, Any]]) -> Evidence:
    return Evidence.collect("made", {"mlp": "MLP", "resnet20": "ResNet20"}, runs)


def cells(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_the_methods_are_those_of_the_quantizers() -> None:
    assert set(TRAINED_METHODS) < set(METHODS)
    assert not set(GRID_METHODS) & set(TRAINED_METHODS)


def test_the_table_has_both_kinds_at_the_same_width() -> None:
    rows = cells(trained_centroids(evidence([*TRAINED, *GRID])))
    assert [(row["bits"], row["method"], row["lambda"], row["lambda_max"]) for row in rows] == [
        (bits, method, lam, formula)
        for bits, own, trained in (("2", "EC2T", "derived"), ("4", "FantastIC4", "published"))
        for method, lambdas, formula in (
            ("ECQ", ("0.05", "0.2"), "published"),
            ("ECQx", ("0.05", "0.2"), "published"),
            (own, ("0.1", "0.2"), trained),
            (f"{own}x", ("0.1", "0.2"), trained),
        )
        for lam in lambdas
    ]
    assert {row["task"] for row in rows} == {"MLP"}
    # Sizes of 700, 701 and 702 bytes.
    assert {
        (row["size_kb"], row["size_kb_sd"], row["accuracy_percent"], row["ratio"], row["seeds"])
        for row in rows
        if row["method"] in TRAINED_METHODS
    } == {("0.7", "0.0", "99.90", "900.0", "3")}


def test_without_such_runs_there_is_no_table() -> None:
    assert not trained_centroids(evidence(GRID)).rows
    assert "trained_centroids" not in {t.name for t in build_tables(evidence(GRID), [], [])}


def test_without_a_grid_they_stand_alone() -> None:
    rows = cells(trained_centroids(evidence(make_trained("mlp", seeds=(0,)))))
    assert [row["method"] for row in rows] == [m for m in TRAINED_METHODS for _ in range(2)]
    assert {row["accuracy_percent_sd"] for row in rows} == {""}


def test_no_other_table_claim_or_curve_knows_of_them() -> None:
    """Though they are better than all others, so that any choice among all runs would take them."""
    alone, both = evidence(GRID), evidence([*GRID, *TRAINED])
    correlations = correlate({"mlp": make_relevance("mlp")}, alone.tasks)
    before = {t.name: to_csv(t) for t in build_tables(alone, correlations, [])}
    after = {t.name: to_csv(t) for t in build_tables(both, correlations, [])}
    assert after.keys() - before.keys() == {"trained_centroids"}
    assert {name for name in before if before[name] != after[name]} == {"settings"}
    assert set(before["settings"].splitlines()) < set(after["settings"].splitlines())
    assert build_claims(alone, correlations) == build_claims(both, correlations)
    assert build_curve_figures(alone, []) == build_curve_figures(both, [])


def test_page_and_figures(tmp_path: Path) -> None:
    suite = make_minimal_suite()
    trained = make_trained("mlp", seeds=(0, 1))
    without = draw(suite, tmp_path / "without")
    both = draw(suite | {"records": [*trained, *suite["records"]]}, tmp_path / "with")
    assert without == both
    pages = [(tmp_path / name / "report.html").read_text() for name in ("without", "with")]
    assert ["Trained centroids" in page for page in pages] == [False, True]
    section = re.search(r'<section id="trained".*?</section>', pages[1], re.S)
    assert section is not None
    assert {m for m in (*GRID_METHODS, *TRAINED_METHODS) if f">{m}</td>" in section[0]} == {
        *GRID_METHODS,
        *TRAINED_METHODS,
    }
    assert "A Λ of one method is no Λ of another" in section[0]
    for path in (tmp_path / "without").rglob("*"):
        other = tmp_path / "with" / path.relative_to(tmp_path / "without")
        if path.is_file() and path.stem not in ("report", "settings"):
            assert path.read_bytes() == other.read_bytes(), path.name


def test_the_summary_has_them_under_their_own_names() -> None:
    alone, both = _means(GRID), _means([*GRID, *TRAINED])
    assert both[: len(alone)] == alone
    assert json.dumps(_nested(both)["resnet20"]) == json.dumps(_nested(alone)["resnet20"])
    assert _nested(both)["mlp"]["ECQ"] == _nested(alone)["mlp"]["ECQ"]
    assert _nested(both)["mlp"]["EC2T"]["2bit"]["lam0.1"]["bytes"] == pytest.approx(701)
    assert _curves(both).startswith(_curves(alone))
    assert "mlp FantastIC4x 4 bit,0.2," in _curves(both)


def test_the_gate_names_them() -> None:
    accepted = [make_run("mlp", "ECQ", 2, 0.1, 0), *make_trained("mlp", (0.1,), (0,))]
    for run in accepted:
        run |= {"data_checksum": "d"}
    worse = [run | {"sparsity": 0.5} if run["method"] == "EC2T" else run for run in accepted]
    (found,) = compare(accepted, worse, same_machine=True)
    assert (found.setting, found.quantity) == ("mlp EC2T 2 bit Λ 0.1 seed 0", "sparsity")
