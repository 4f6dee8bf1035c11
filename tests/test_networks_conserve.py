"""Relevance of whole networks arrives at their first layer, or was dropped by a rule that says so.

The output starts with relevance one in all; biases, shifts and running means are zero. With the
epsilon rule everywhere nothing is dropped; the zplus rule drops what units without a positive
contribution receive.
"""

from __future__ import annotations

import pytest
from conserving import check_arrives, check_arrives_or_was_dropped

# `tests/long/test_conservation.py` has the others.
QUICK = ("vit", "swin", "densenet", "mobilenet_v3_small", "shufflenet_v2_x0_5")


@pytest.mark.parametrize("name", QUICK)
def test_all_relevance_arrives(name: str) -> None:
    check_arrives(name)


@pytest.mark.parametrize("name", QUICK)
def test_what_does_not_arrive_was_dropped(name: str) -> None:
    check_arrives_or_was_dropped(name)
