"""A sweep over two processes, relative to one: the stages' own way of running independent jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from conftest import Ratio

from ecqx.data import Split
from ecqx.experiment.jobs import PROCESSES, run_all
from ecqx.models import build
from ecqx.quantizers.ecqx import ECQx
from ecqx.relevance import LRP
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

JOBS, STEPS = 8, 30


def train(seed: int) -> float:
    """Train a small network for some steps; returns the last loss."""
    torch.manual_seed(seed)
    model = build("mlp_gsc", in_features=390, num_classes=12)
    quantizer = ECQx(model, lam=0.05, relevance=LRP())
    split = Split(torch.randn(128 * STEPS, 390), torch.arange(128 * STEPS) % 12)
    settings = FitSettings(epochs=1, batch_size=128)
    return Trainer(model, split, split, settings, quantizer=quantizer).fit()[-1].loss


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_processes(ratio: Ratio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    losses: dict[str, list[float]] = {}

    def sweep(processes: str) -> None:
        monkeypatch.setenv(PROCESSES, processes)
        losses[processes] = run_all(train, list(range(JOBS)), "sweep")

    ratio(
        lambda: sweep("1"),
        lambda: sweep("2"),
        rounds=3,
        goal=">= 1.8",
        inverse=True,
        clock=time.perf_counter,
    )
    assert losses["1"] == losses["2"]
