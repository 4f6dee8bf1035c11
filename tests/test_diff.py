"""What changed against committed results, in a small git repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_baseline import (
    commit,
    git,
    repository,
    turn_verdicts,
    write_derived,
    write_runs,
)
from test_regression import changed, make_runs

from ecqx.errors import InputError
from stages import diff

__all__ = ["repository"]

Shown = Callable[..., list[list[str]]]


@pytest.fixture
def shown(repository: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Commits results and gives a function: writes others, returns what `diff` prints, in cells."""
    old = [run | {"compression_ratio": 4e4 / run["bytes"]} for run in make_runs()]
    write_runs(repository, old)
    write_derived(repository)
    commit(repository)

    def show(new: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], *arguments: str) -> Any:
        write_runs(repository, new(old))
        assert diff.main(["smoke", *arguments]) == 0
        lines = capsys.readouterr().out.rstrip("\n").split("\n")
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]

    return show


def test_nothing_changed_is_one_line(shown: Shown) -> None:
    assert shown(lambda runs: runs[::-1]) == [["smoke: the results are those of HEAD."]]


def test_means_of_changed_settings_are_shown(shown: Shown) -> None:
    chosen = {"task": "task1", "method": "ECQx", "lam": 0.2}
    rows = shown(lambda runs: changed(runs, chosen, accuracy=0.5, bytes=1000))
    runs = [r for r in make_runs() if all(r[key] == value for key, value in chosen.items())]
    accuracy, size = (sum(r[key] for r in runs) / 3 for key in ("accuracy", "bytes"))
    assert rows[0] == ["setting", "quantity", "old", "new", "difference"]
    assert rows[2:] == [
        [
            "task1 ECQx 4 bit Λ 0.2",
            "accuracy (%)",
            f"{100 * accuracy:.2f}",
            "50.00",
            f"{50 - 100 * accuracy:+.3g}",
        ],
        ["bytes", f"{size:.0f}", "1000", f"{1000 - size:+.3g}"],
    ]


def test_rows_are_in_order_and_no_more_than_forty(shown: Shown) -> None:
    def change(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        new = [run for run in runs if run["lam"] < 0.2 or run["task"] != "task0"]
        return changed(new, accuracy=0.5, sparsity=0.5, bytes=1000, compression_ratio=40)[::-1]

    rows = shown(change)
    assert len(rows) == 2 + 40 + 1
    named = [row[0] for row in rows[2:-1] if len(row) == 5 or row[1] == "runs"]
    assert named == sorted(named)
    assert ["task0 ECQ 4 bit Λ 0.2", "runs", "3", "–"] in rows
    assert rows[-1] == ["… and 2 more"]


def test_settings_and_seeds_of_one_side_are_shown(shown: Shown) -> None:
    def change(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lsq = {"method": "LSQ", "bits": None, "lam": None, "settings": {"lr": 0.1}}
        return [*runs[1:], runs[0] | lsq | {"run_id": "new"}]

    rows = shown(change)
    assert rows[2][:4] == ["task0 ECQ 4 bit Λ 0.0", "runs", "3", "2"]
    assert rows[-1] == ["task0 LSQ", "runs", "–", "1"]


def test_results_of_an_earlier_form_are_compared(repository: Path, shown: Shown) -> None:
    """Without keys of today, and with one that is gone: the same settings all the same."""
    lacking = ("settings", "compression_ratio")
    old = [{k: v for k, v in run.items() if k not in lacking} for run in make_runs()]
    write_runs(repository, [run | {"old_key": 1} for run in old])
    commit(repository)
    rows = shown(lambda runs: [run | {"floats": "raw"} for run in runs])
    assert rows[-2:] == [
        ["no longer in metrics.json: old_key"],
        ["new in metrics.json: compression_ratio, floats, settings"],
    ]
    ratios = [row for row in rows if "ratio" in row]
    assert len(ratios) == 12
    assert all(row[-2] == "–" for row in ratios)


def test_verdicts_and_other_values_are_shown(repository: Path, shown: Shown) -> None:
    turn_verdicts(repository)
    rows = shown(lambda runs: changed(runs, {"lam": 0.2}, accuracy_validation=0.5))
    assert rows[2:] == [
        ["Files are small.", "verdict", "holds", "does not hold"],
        ["Weights cost no accuracy.", "verdict", "does not hold", "holds"],
        ["also changed: accuracy_validation in 12 runs"],
    ]


def test_another_revision(repository: Path, shown: Shown) -> None:
    git(repository, "tag", "first")
    write_runs(repository, changed(make_runs(), accuracy=0.5))
    commit(repository)
    assert shown(lambda runs: runs, "--rev", "first") == [
        ["smoke: the results are those of first."]
    ]
    assert len(shown(lambda runs: runs)) > 3


def test_nothing_to_compare_with_is_one_line(repository: Path) -> None:
    with pytest.raises(InputError, match="Not a valid object name nonsense"):
        diff.main(["--rev", "nonsense"])
    with pytest.raises(InputError, match=r"HEAD has no results/other/metrics.json"):
        diff.main(["other"])
    (repository / "results/smoke/metrics.json").unlink()
    with pytest.raises(InputError, match="is missing: `make paper-results SUITE=smoke`"):
        diff.main([])
