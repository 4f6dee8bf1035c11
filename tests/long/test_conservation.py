"""Relevance of torchvision's networks is conserved, or what is dropped is accounted for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conserving import GATED, NETWORKS, check_arrives, check_arrives_or_was_dropped


@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_arrives_or_was_dropped(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    stopped = "" if name in GATED else f"{check_arrives(name).arrived:.3f}"
    flow = check_arrives_or_was_dropped(name)
    record_property("attnlrp_values: arrives", stopped)
    record_property("default: arrives", f"{flow.arrived:.3f}")
    record_property("dropped", f"{flow.dropped:.3f}")
    record_property("softmax", f"{flow.softmax:.3f}")
