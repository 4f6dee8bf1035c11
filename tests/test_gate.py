"""The regression gate on a tiny pipeline that really runs: mistakes in the code are caught."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import REPOSITORY, tiny

from ecqx.report.regression import Difference
from stages import check
from stages.verify import regressions
from stages.verify.injections import INJECTIONS
from stages.verify.workplace import prepare, run_stages, working_in

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "place"
    regressions.accept(prepare(folder, REPOSITORY, tiny()), "smoke")
    return folder


def judged(place: Path) -> tuple[list[Difference], list[Difference]]:
    with working_in(place):
        run_stages("smoke", *regressions.JUDGED_STAGES)
        return regressions.verdicts(place, "smoke")


@pytest.mark.parametrize("mistake", INJECTIONS)
def test_a_mistake_in_the_code_is_caught(
    place: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with INJECTIONS[mistake]():
        here, elsewhere = judged(place)
    quantities = {difference.quantity for difference in here}
    if mistake == "a seed lost":
        assert quantities == {"run"}
        # One of two seeds, with four methods.
        assert len(here) == len(elsewhere) == 4
    elif mistake == "a float stored twice":
        # Seven layers, four bytes each; the coded integers are the same.
        assert {d.difference for d in here if d.quantity == "bytes_other"} == {28}
        assert not quantities & {"bytes_integers", "accuracy", "sparsity"}
        assert {d.quantity for d in elsewhere} == {"bytes_other"}
    else:
        assert "bytes_integers" in quantities
    with working_in(place):
        assert check.main(["smoke"]) == 1
    # Twice the λ makes smaller files: better, and still not what the settings say.
    verdict = "NOT THE SAME as" if mistake == "λ doubled" else "WORSE than"
    assert f"{verdict} the baseline" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [1, 2])
def test_unchanged_runs_are_silent(place: Path, seed: int) -> None:
    with regressions.shuffled(seed):
        assert judged(place) == ([], [])
