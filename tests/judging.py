"""The regression gate on stages that really run: mistakes put into their code, runs in disorder."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from workplace import run_stages, working_in

from ecqx.assignment.centroids import CentroidGrid, GridStack
from ecqx.assignment.information import Occupancy, information_cost
from ecqx.coding import container
from ecqx.coding.entries import Entry
from ecqx.coding.type_codes import QUANTIZED
from ecqx.experiment import jobs
from ecqx.report.regression import Difference, compare
from stages import baseline, check, encode, evaluate, quantize, sweeps

JUDGED_STAGES = ("quantize", "encode", "evaluate")


def accept(place: Path, suite: str) -> Path:
    """Run the suite up to its metrics, and make them the baseline."""
    with working_in(place):
        run_stages(suite, "fingerprint", "download", "pretrain", *JUDGED_STAGES)
        baseline.accept(place, suite)
    return place


def judged(
    place: Path, suite: str, processes: int = 1
) -> tuple[list[Difference], list[Difference]]:
    """Run the suite again; what counts on the baseline's machine, and what elsewhere."""
    with working_in(place, processes):
        run_stages(suite, *JUDGED_STAGES)
    accepted = check.read_baseline(place, suite)
    assert accepted is not None
    runs = check.read_runs(place, suite)
    here, elsewhere = (
        [difference for difference in compare(accepted["runs"], runs, same) if difference.counts]
        for same in (True, False)
    )
    return here, elsewhere


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Compute and list the runs in another order."""
    order = random.Random(seed)

    def list_shuffled(*settings: Any) -> list[sweeps.Run]:
        runs = all_runs(*settings)
        return order.sample(runs, len(runs))

    def run_shuffled(
        function: Callable[[Any], Any], items: Sequence[Any], *others: Any, **more: Any
    ) -> list[Any]:
        places = order.sample(range(len(items)), len(items))
        results = run_all(function, [items[at] for at in places], *others, **more)
        return [result for _, result in sorted(zip(places, results, strict=True), key=first)]

    all_runs, run_all, first = sweeps.all_runs, jobs.run_all, itemgetter(0)
    with (
        patch.object(quantize, "all_runs", list_shuffled),
        patch.object(jobs, "run_all", run_shuffled),
        patch.object(encode, "run_all", run_shuffled),
        patch.object(evaluate, "run_all", run_shuffled),
    ):
        yield


# -- mistakes --------------------------------------------------------------------------------------


@contextmanager
def centroid_off_by_one_step() -> Iterator[None]:
    """The highest centroid of every grid lies one step too high."""
    original = CentroidGrid.from_step

    def wrong(step: float, first: int, count: int, device: torch.device) -> CentroidGrid:
        grid = original(step, first, count, device)
        values = grid.values.clone()
        values[-1] += grid.step
        return replace(grid, values=values)

    with patch.object(CentroidGrid, "from_step", wrong):
        yield


@contextmanager
def lambda_doubled() -> Iterator[None]:
    """The cost of information weighs twice what the settings say."""
    original = information_cost

    def wrong(occupancy: Occupancy, grids: GridStack, lam: float, *rest: Any) -> Tensor:
        return original(occupancy, grids, 2 * lam, *rest)

    with patch("ecqx.assignment.assign.information_cost", wrong):
        yield


@contextmanager
def float_stored_twice() -> Iterator[None]:
    """Every step size stands in the file twice; reading skips the second."""
    header, read_header = Entry.header, container.read_header

    def wrong_header(self: Entry) -> bytes:
        if self.code != QUANTIZED:
            return header(self)
        step = struct.pack("<f", self.step)
        return header(self).replace(step, step + step, 1)

    def wrong_reader(reader: Any) -> tuple[Entry, int]:
        start = reader._position
        first = reader.take(1)[0]
        reader._position = start
        if first & 15 != QUANTIZED:
            return read_header(reader)
        for _ in range(first >> 4):
            reader.varint()
        # After code, dimensions and bits come the step and its double.
        at = reader._position + 1 + 1 + 4
        reader._position = start
        data = bytes(reader._data)
        reader._data = memoryview(data[:at] + data[at + 4 :])
        return read_header(reader)

    with (
        patch.object(Entry, "header", wrong_header),
        patch.object(container, "read_header", wrong_reader),
    ):
        yield


@contextmanager
def seed_lost() -> Iterator[None]:
    """The last seed is not run."""
    original = sweeps.all_runs

    def wrong(settings: Any, tasks: Any, seeds: Sequence[int]) -> list[sweeps.Run]:
        return original(settings, tasks, seeds[:-1])

    with patch.object(quantize, "all_runs", wrong):
        yield


INJECTIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "a centroid off by one step": centroid_off_by_one_step,
    "lambda doubled": lambda_doubled,
    "a float stored twice": float_stored_twice,
    "a seed lost": seed_lost,
}
