"""Assignment of 2.36 M weights at 4 bit, relative to two things.

The dense version is what the paper writes down: all n x K costs, the zero column multiplied by
2·(R + 1e-12)^β, the argmin; for ECQx once for each β that a search for ECQ's own sparsity, the edge
of the band, looks at (the published search takes up to 50 steps; a bisection is kinder). A copy of
the weights is the least that any assignment has to do.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from conftest import Ratio
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from ecqx.assignment import cluster_costs as costs
from ecqx.assignment import kernels, thresholds
from ecqx.assignment.assign import AssignmentSettings, assign_layers, survey
from ecqx.assignment.centroids import CentroidGrid, GridStack
from ecqx.assignment.information import information_cost

SIZE = (512, 512, 3, 3)
BITS, LAMBDA, P = 4, 0.05, 0.1
BISECTIONS = 14
METHODS = ("ECQ", "ECQx")


class Case:
    """A layer, its relevance, and room for the result."""

    def __init__(self, shape: tuple[int, ...] = SIZE, bits: int = BITS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(shape, generator=generator) / 50
        self.relevance = torch.randn(shape, generator=generator).mul_(2).exp_()
        self.grid = CentroidGrid.fit(self.weight, bits)
        self.grids = GridStack.of([self.grid])
        self.index = torch.empty(shape, dtype=torch.int32)

    def assign(self, method: str) -> Tensor:
        """Ours, into the tensor that is there."""
        assign_layers(
            [self.weight],
            self.grids,
            AssignmentSettings(LAMBDA, P),
            [self.relevance] if method == "ECQx" else None,
            self.weight.numel(),
            [self.index],
        )
        return self.index

    def dense_costs(self) -> Tensor:
        n = self.weight.numel()
        seen = survey([self.weight.flatten()], self.grids)
        cost = information_cost(seen, self.grids, LAMBDA, n)[0].float()
        return (self.weight.flatten()[:, None] - self.grid.values).square_() + cost

    def dense(self, method: str) -> Tensor:
        cost = self.dense_costs()
        index = cost.argmin(1)
        if method == "ECQ":
            return index
        at_zero = cost[:, self.grid.zero].clone()
        R = self.relevance.flatten()
        R = R / (R.max() + 1e-12) + 1e-12

        def at(beta: float) -> Tensor:
            cost[:, self.grid.zero] = at_zero * 2 * R**beta
            return cost.argmin(1)

        most = self.sparsity(index)
        index = at(math.log(0.5) / math.log(float(R.mean())))
        if most - P <= self.sparsity(index) <= most:
            return index
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            found = at(middle)
            if self.sparsity(found) > most:
                high = middle
            else:
                low, index = middle, found
        return index

    def sparsity(self, index: Tensor) -> float:
        return float((index == self.grid.zero).float().mean())


@pytest.mark.parametrize("method", METHODS)
def test_dense(ratio: Ratio, method: str) -> None:
    case = Case()
    dense: list[Tensor] = []

    def reference() -> None:
        dense[:] = [case.dense(method)]

    ratio(reference, lambda: case.assign(method), rounds=3, goal=">= 60", inverse=True)
    assert case.sparsity(case.index) == pytest.approx(case.sparsity(dense[0]), abs=0.002)


@pytest.mark.parametrize(("method", "goal"), [("ECQ", "<= 6"), ("ECQx", "<= 20")])
def test_copy(ratio: Ratio, method: str, goal: str) -> None:
    case = Case()
    target = torch.empty_like(case.weight)
    ratio(lambda: target.copy_(case.weight), lambda: case.assign(method), rounds=15, goal=goal)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("method", METHODS)
def test_peak_memory(benchmark: BenchmarkFixture, method: str) -> None:
    """What an assignment needs beside its result, in copies of the layer; a process of its own."""
    here = Path(__file__)
    command = [sys.executable, str(here), method]
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    copies = benchmark.pedantic(
        lambda: float(subprocess.check_output(command, env=environment, text=True)), rounds=1
    )
    benchmark.extra_info |= {"ratio": copies, "goal": "<= 2"}
    assert copies > -0.1


def peak_copies(method: str) -> float:
    """The highest memory of the process during an assignment, above that before it."""
    Case((1000,)).assign(method)  # what is compiled and imported is there
    case = Case((2048, 512, 3, 3))
    case.index.zero_()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    case.assign(method)
    return (_status("VmHWM") - before) / (4 * case.weight.numel())


def _status(name: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


# Loops, the modules that have them, and what they do.
LOOPS: dict[str, tuple[Any, str]] = {
    "occupancy": (kernels, "counting the weights of each cluster, the extreme ones"),
    "information_cost": (costs, "formulas of information"),
    "envelope_ends": (costs, "bounds of the envelope"),
    "lookup": (kernels, "looking the weights up in the bounds"),
    "mean_relevance": (thresholds, "mean of R"),
    "bin_thresholds": (thresholds, "best other cluster, t and its bin"),
    "places_between": (thresholds, "the bins next to the edge"),
    "settle": (thresholds, "the zero cluster, by bins"),
}


@pytest.mark.parametrize("method", METHODS)
def test_profile(benchmark: BenchmarkFixture, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of an assignment goes: each loop's share, and that of all else."""
    case, seconds = Case(), dict.fromkeys(LOOPS, 0.0)
    case.assign(method)
    for name, (module, _) in LOOPS.items():
        monkeypatch.setattr(module, name, timed(name, getattr(module, name), seconds))
    begin = process_time()
    benchmark.pedantic(lambda: case.assign(method), rounds=20)
    total = process_time() - begin
    shares = {LOOPS[name][1]: t / total for name, t in seconds.items() if t > 0}
    rest = {"all else": 1 - sum(shares.values())}
    benchmark.extra_info["parts"] = {"method": method, "shares": shares | rest}


def timed(name: str, function: Callable[..., Any], seconds: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        begin = process_time()
        result = function(*arguments)
        seconds[name] += process_time() - begin
        return result

    return call


GROWTH: dict[str, list[tuple[int, int]]] = {
    "weights": [(10**k, BITS) for k in range(4, 9)],
    "bits": [(10**6, bits) for bits in range(2, 9)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "n", "bits"), [(kind, n, bits) for kind in GROWTH for n, bits in GROWTH[kind]]
)
def test_growth(benchmark: BenchmarkFixture, kind: str, n: int, bits: int, method: str) -> None:
    case = Case((n,), bits)
    run: Callable[[], Tensor] = lambda: case.assign(method)  # noqa: E731
    benchmark.pedantic(run, rounds=3 if n > 10**7 else 9, warmup_rounds=1)
    benchmark.extra_info |= {
        "curve": kind,
        "method": method,
        "at": n if kind == "weights" else bits,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak_copies(sys.argv[1]))
