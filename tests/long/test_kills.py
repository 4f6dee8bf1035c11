"""Each stage is killed at random moments and started again, and ends as if undisturbed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import Victim
from workplace import OUTPUTS, STAGES, prepare, run_stages, settings_of, working_in

# Number of kills; those that train and resume, more often.
KILLS = dict.fromkeys(STAGES, 4) | {"pretrain": 8, "quantize": 12}
# Kills between two runs to the end: progress has to survive several in a row.
IN_A_ROW = 4
# The last moment, as a share of the time that an undisturbed run takes.
LATEST = 0.95


@pytest.fixture(scope="module")
def finished(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages ran."""
    place = prepare(tmp_path_factory.mktemp("kills") / "place", settings_of(suite))
    with working_in(place):
        run_stages(suite, *STAGES)
    return place


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_as_an_undisturbed_one(
    stage: str,
    suite: str,
    finished: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    place = tmp_path / "place"
    shutil.copytree(finished, place, symlinks=True)
    victim, moments = Victim(place, suite, stage, OUTPUTS[stage]), random.Random(stage)
    victim.forget()
    seconds = victim.finish()
    outputs, progress = victim.written(), victim.saved()
    kills = too_late = trained = repeated = 0
    half_written: list[str] = []
    while kills < KILLS[stage]:
        victim.forget()
        for _ in range(min(IN_A_ROW, KILLS[stage] - kills)):
            if not victim.kill_after(moments.uniform(0.05, LATEST) * seconds):
                too_late += 1
                seconds *= LATEST
                break
            kills += 1
            half_written += victim.half_written(outputs, progress)
        victim.finish()
        assert victim.written() == outputs
        assert too_late <= KILLS[stage]
        epochs = victim.epochs()
        trained, repeated = trained + epochs[0], repeated + epochs[1]
    record_property("kills", kills)
    record_property("epochs trained", trained)
    record_property("epochs trained again", repeated)
    record_property("half-written files", len(half_written))
    assert not repeated
    assert not half_written
