"""What else could make an ECQx step of ResNet20 faster, each by itself."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
import torch
from bench_step import batch, trainer
from conftest import Ratio
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import interpolate

from ecqx.data.digit_images import digits
from ecqx.models import build
from ecqx.relevance import LRP, rules, weights
from ecqx.relevance.weights import Attributor
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

ROUNDS = 7


def test_half_of_zplus(ratio: Ratio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept: the half of negative inputs left out of the zplus rule where there are none."""
    ours, data = trainer(LRP()), batch()

    def whole() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(rules, "_is_nonnegative", lambda x: False)
            ours.step(*data)

    ratio(whole, lambda: ours.step(*data), rounds=ROUNDS, goal="kept")


def test_channels_last(ratio: Ratio) -> None:
    """Not kept: the channels of a pixel side by side in memory."""
    ours, other, (x, y) = trainer(LRP()), trainer(LRP()), batch()
    other.model.to(memory_format=torch.channels_last)
    with_channels_last = x.contiguous(memory_format=torch.channels_last)
    ratio(
        lambda: ours.step(x, y),
        lambda: other.step(with_channels_last, y),
        rounds=ROUNDS,
        goal="not kept",
    )


def test_bfloat16(
    ratio: Ratio, benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not kept: the pass of relevance in bfloat16, whose ranks are hardly those of float32."""
    model, (x, y), (others, labels) = trained()
    attributor = Attributor(model)

    def in_bfloat16() -> dict[str, Tensor]:
        with monkeypatch.context() as patch:
            # In the place of what sees to full precision.
            half = lambda model: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
            patch.setattr(weights, "_full_precision", half)
            return attributor(x, y)

    ratio(lambda: attributor(x, y), in_bfloat16, rounds=ROUNDS, goal="not kept")
    found, exact, other = in_bfloat16(), attributor(x, y), attributor(others, labels)
    benchmark.extra_info["ranks"] = {
        "bfloat16": rank_correlation(found, exact),
        "another batch": rank_correlation(other, exact),
    }


def trained() -> tuple[torch.nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """ResNet20 after some epochs on the digits, enlarged to 32x32, and two of its batches."""
    torch.manual_seed(0)
    data = digits().map(lambda s: replace(s, inputs=interpolate(s.inputs, scale_factor=4)))
    model = build("resnet20", in_channels=1, num_classes=10)
    settings = FitSettings(epochs=3, lr=0.002)
    Trainer(model, data.train, data.validation, settings).fit()
    one, other, *_ = data.train.batches(64, torch.Generator().manual_seed(0))
    return model, one, other


def rank_correlation(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of the magnitudes of two relevances, the median over layers."""
    return median(
        float(spearmanr(one[name].abs().flatten(), other[name].abs().flatten()).statistic)
        for name in other
    )
