"""Assignment of 2.36 M weights at 4 bit: time, and time of a dense assignment.

The dense one is what the paper writes down: all n x K costs, the zero column multiplied by
2·(R + 1e-12)^β, the argmin; for ECQx once for each β of a search for ECQ's own sparsity, the edge
of the band. The search is a bisection of 14 steps (published: up to 50 steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from time import process_time

import pytest
import torch
from conftest import Ratio
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from ecqx.assignment.assign import assign_layers, extremes, occupancy
from ecqx.assignment.centroids import CentroidGrid, GridStack
from ecqx.assignment.information import information_cost
from ecqx.assignment.settings import AssignmentSettings

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
            ["layer"],
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
        flat = [self.weight.flatten()]
        seen = occupancy(flat, extremes(flat), self.grids)
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

    ratio(reference, lambda: case.assign(method), rounds=3, goal="none", inverse=True)
    assert case.sparsity(case.index) == pytest.approx(case.sparsity(dense[0]), abs=0.002)


@pytest.mark.parametrize(("method", "goal"), [("ECQ", "<= 8 ms"), ("ECQx", "<= 20 ms")])
def test_layer(benchmark: BenchmarkFixture, method: str, goal: str) -> None:
    case = Case()
    seconds: list[float] = []

    def assign() -> None:
        begin = process_time()
        case.assign(method)
        seconds.append(process_time() - begin)

    benchmark.pedantic(assign, rounds=21, warmup_rounds=2)
    benchmark.extra_info |= {"milliseconds": 1000 * median(seconds[2:]), "goal": goal}


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
