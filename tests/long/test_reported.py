"""Published networks have the accuracy that was reported, and that the committed record has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages import reported
from stages.download import data_roots, find_checkpoint
from stages.settings.tasks import Start

RECORDED = {one["file"]: one for one in json.loads(reported.RECORDS.read_text())}


@pytest.mark.parametrize("one", reported.PUBLISHED, ids=lambda one: one.file)
def test_accuracy(one: reported.Published, record_property: Any) -> None:
    roots = data_roots(reported.ROOTS)
    if not any(map(reported.CIFAR.available, roots)):
        pytest.skip("CIFAR-10 is not in the data folders")
    if find_checkpoint(Start(checkpoint=one.file, required=False), roots) is None:
        pytest.skip(f"{one.file} is not in the data folders")
    found = reported.measure(one)
    record_property("measured", f"{found['measured']:.2f}")
    record_property("reported", f"{one.accuracy:.2f}" if one.accuracy else "")
    # An image of 10,000 may lie on the border, by the processor.
    assert found["measured"] == pytest.approx(RECORDED[one.file]["measured"], abs=0.011)
    assert found["bytes"] == RECORDED[one.file]["bytes"]
    if one.accuracy is not None:
        assert found["measured"] == pytest.approx(one.accuracy, abs=0.011)
