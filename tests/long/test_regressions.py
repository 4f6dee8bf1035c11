"""Mistakes in the code that a suite runs are caught by the regression gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from judging import INJECTIONS, judged


@pytest.mark.parametrize("mistake", INJECTIONS)
def test_a_mistake_is_caught(
    mistake: str, suite: str, accepted: Path, record_property: Callable[[str, object], None]
) -> None:
    with INJECTIONS[mistake]():
        here, elsewhere = judged(accepted, suite)
    record_property("differences on this machine", len(here))
    record_property("elsewhere", len(elsewhere))
    assert here
    record_property("worst on this machine", f"{here[0].setting}: {here[0].quantity}")
