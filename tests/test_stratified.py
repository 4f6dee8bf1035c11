"""Stratified hold-out: every class gives its share, and chance decides which samples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ecqx.data.stratified import held_out
from ecqx.errors import InputError


def order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda s: sum(s) > 1),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32),
)
def test_each_class_is_held_out_in_proportion(sizes: list[int], share: float, seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    count = max(1, int(share * len(labels)))
    marks = held_out(torch.tensor(labels), count, order(len(labels), seed)).tolist()
    assert sum(marks) == count
    chosen = Counter(label for label, mark in zip(labels, marks, strict=True) if mark)
    for label, size in Counter(labels).items():
        assert abs(chosen[label] - size * count / len(labels)) <= 1


def test_samples_are_drawn_from_everywhere() -> None:
    """Not the first ones of each class, nor the same class's sample over and over."""
    labels = torch.arange(50) % 5
    drawn = torch.stack([held_out(labels, 7, order(50, seed)) for seed in range(300)]).sum(0)
    # Each is expected 42 times, with a standard deviation of 6.
    assert int(drawn.min()) > 15
    assert int(drawn.max()) < 75


@pytest.mark.parametrize("count", [-1, 0, 50, 51])
def test_training_and_validation_need_a_sample_each(count: int) -> None:
    with pytest.raises(InputError, match=f"^x: validation: {count} images, .* 1 to 49"):
        held_out(torch.zeros(50), count, order(50, 0), "x: ")
