"""Cost of a training step of ResNet20, batch 64, images of 32x32, relative to a plain one.

Times are processor times: what else runs on the machine hardly changes their ratio.
"""

from __future__ import annotations

from statistics import median
from time import process_time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ecqx.data import Split
from ecqx.models import build
from ecqx.quantizer import ECQx
from ecqx.relevance import LRP
from ecqx.training import FitSettings, Trainer

BATCH = 64
ROUNDS = 9
# The published code takes 6.3 times a plain step with relevance.
LARGEST_RATIO = {"ecq": 1.5, "ecqx": 3.2}


def trainer(quantized: str | None) -> Trainer:
    """A trainer whose model is in training mode; ``None`` trains in full precision."""
    torch.manual_seed(0)
    model = build("resnet20", num_classes=10).train()
    quantizer = None
    if quantized is not None:
        relevance = LRP() if quantized == "ecqx" else None
        quantizer = ECQx(model, bits=4, lam=0.05, relevance=relevance)
    split = Split(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    return Trainer(model, split, split, FitSettings(), quantizer=quantizer)


@pytest.mark.benchmark(group="ResNet20, batch 64", timer=process_time)
@pytest.mark.parametrize("quantized", ["ecq", "ecqx"])
def test_step(benchmark: BenchmarkFixture, quantized: str) -> None:
    """A plain step is timed before each measured one, so that both see the same machine."""
    plain, measured = trainer(None), trainer(quantized)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    seconds: list[float] = []

    def plain_step() -> None:
        begin = process_time()
        plain.step(x, y)
        seconds.append(process_time() - begin)

    benchmark.pedantic(
        lambda: measured.step(x, y), setup=plain_step, rounds=ROUNDS, warmup_rounds=2
    )
    if benchmark.stats is None:
        return
    ratio = benchmark.stats.stats.median / median(seconds[-ROUNDS:])
    benchmark.extra_info["ratio to a plain step"] = round(ratio, 2)
    assert ratio <= LARGEST_RATIO[quantized]
