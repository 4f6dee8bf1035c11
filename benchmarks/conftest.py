"""How a ratio is measured: two functions in turn, so that both see the same machine."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any, Protocol

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


class Ratio(Protocol):
    """What the fixture `ratio` is."""

    def __call__(
        self,
        reference: Callable[[], Any],
        measured: Callable[[], Any],
        *,
        rounds: int,
        goal: str,
        inverse: bool = False,
        clock: Callable[[], float] = process_time,
    ) -> float: ...


@pytest.fixture
def ratio(benchmark: BenchmarkFixture) -> Ratio:
    """Ratio of two medians: ``measured`` to ``reference``, or the other way round (``inverse``).

    Processor times by default: what else runs on the machine hardly changes their ratio. The ratio
    and the goal, in words, go into the benchmark's record.
    """

    def measure(
        reference: Callable[[], Any],
        measured: Callable[[], Any],
        *,
        rounds: int,
        goal: str,
        inverse: bool = False,
        clock: Callable[[], float] = process_time,
    ) -> float:
        seconds: dict[str, list[float]] = {"reference": [], "measured": []}

        def timed(name: str, function: Callable[[], Any]) -> None:
            begin = clock()
            function()
            seconds[name].append(clock() - begin)

        benchmark.pedantic(
            lambda: timed("measured", measured),
            setup=lambda: timed("reference", reference),
            rounds=rounds,
            warmup_rounds=2,
        )
        ours, theirs = (median(seconds[name][-rounds:]) for name in ("measured", "reference"))
        found = theirs / ours if inverse else ours / theirs
        benchmark.extra_info |= {"ratio": found, "goal": goal}
        return found

    return measure
