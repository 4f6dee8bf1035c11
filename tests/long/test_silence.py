"""Unchanged runs in another order, by another number of processes, are no regression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from judging import judged, shuffled

REPETITIONS = {1: 7, 2: 7, 3: 6}


@pytest.mark.parametrize("processes", REPETITIONS, ids=lambda n: f"processes: {n}")
def test_unchanged_runs_are_silent(
    processes: int, suite: str, accepted: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("repetitions", REPETITIONS[processes])
    for seed in range(REPETITIONS[processes]):
        with shuffled(10 * processes + seed):
            assert judged(accepted, suite, processes) == ([], [])
