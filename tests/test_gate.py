"""The regression gate on a tiny pipeline that really runs: mistakes in the code are caught."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from judging import INJECTIONS, accept, judged, shuffled
from tiny import tiny
from workplace import prepare, working_in

from stages import check

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accept(prepare(tmp_path_factory.mktemp("gate") / "place", tiny()), "smoke")


@pytest.mark.parametrize("mistake", INJECTIONS)
def test_a_mistake_in_the_code_is_caught(
    place: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with INJECTIONS[mistake]():
        here, elsewhere = judged(place, "smoke")
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
    verdict = "NOT THE SAME as" if mistake == "lambda doubled" else "WORSE than"
    assert f"{verdict} the baseline" in capsys.readouterr().out


def test_unchanged_runs_are_silent(place: Path) -> None:
    with shuffled(1):
        assert judged(place, "smoke") == ([], [])
