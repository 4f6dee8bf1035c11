"""Relevance of torchvision's networks is conserved, or what is dropped is accounted for."""

from __future__ import annotations

import pytest
from conserving import GATED, NETWORKS, check_arrives, check_arrives_or_was_dropped


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in GATED])
def test_all_relevance_arrives(name: str) -> None:
    check_arrives(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_does_not_arrive_was_dropped(name: str) -> None:
    check_arrives_or_was_dropped(name)
