"""`make paper-results` of two suites at the same moment, in one clone: both succeed.

Both need the same trainings, and one has an output of gigabytes besides: DVC hashes it with the
repository locked.
"""

from __future__ import annotations

import json
from contextlib import chdir
from dataclasses import dataclass
from typing import Any

import pytest
from clones import Clone
from workplace import write_settings

from stages import suites

LARGE = 4 << 30
PLOT = "accuracy against sparsity"
# Only `make`: the environment is there, and a fresh clone's files are newer.
MAKE = ("make", "--silent", "--assume-old", ".venv/installed", "paper-results")


@dataclass(frozen=True)
class Both:
    """The clone after both suites ran, their names, and what became of the commands."""

    clone: Clone
    names: tuple[str, str]
    errors: list[str]
    params_unchanged: bool

    def paths(self, path_of: Any) -> list[str]:
        """A path of each suite in the clone."""
        with chdir(self.clone.root):
            return [str(path_of(name)) for name in self.names]

    def dvc(self, *arguments: str) -> Any:
        return json.loads(self.clone.run("dvc", *arguments, "--json"))


@pytest.fixture(scope="module")
def both(tree: Clone, suite: str, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The default suite with the settings of the other one, a title changed in both."""
    clone = tree.clone(tmp_path_factory.mktemp("concurrency") / "clone")
    with chdir(clone.root):
        default = suites.default()
    if suite == default:
        pytest.skip("needs two suites")

    def change_titles(settings: dict[str, Any]) -> None:
        titles = settings["report"]["titles"]
        titles |= {task: f"{title}, changed" for task, title in titles.items()}

    clone.change_settings(suite, change_titles)
    write_settings(clone.root, {**clone.settings_of(suite), "suite": default})
    clone.add_large_output(LARGE)
    clone.commit()
    before = clone.params_files()
    done = clone.at_once(MAKE, [*MAKE, f"SUITE={suite}"])
    errors = [f"{each.stdout}\n{each.stderr}" for each in done if each.returncode]
    return Both(clone, (default, suite), errors, clone.params_files() == before)


def test_both_succeed(both: Both) -> None:
    assert not both.errors, "\n".join(both.errors)


def test_no_settings_file_is_written_to(both: Both) -> None:
    assert both.params_unchanged


def test_nothing_is_left_to_do(both: Both) -> None:
    assert both.dvc("status", *both.paths(suites.pipeline_path)) == {}


def test_params_diff_has_both(both: Both) -> None:
    assert {*both.paths(suites.params_path)} <= {*both.dvc("params", "diff", "HEAD~1")}


def test_metrics_diff_has_both(both: Both) -> None:
    summaries = {f"results/{name}/summary.json" for name in both.names}
    assert summaries <= {*both.dvc("metrics", "diff")}


@pytest.mark.parametrize("command", ["plots show", "plots diff HEAD"])
def test_plots_have_both(both: Both, command: str) -> None:
    plots = both.dvc(*command.split())["data"]
    assert all(plots.get(f"{path}::{PLOT}") for path in both.paths(suites.pipeline_path))
