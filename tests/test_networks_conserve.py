"""Relevance of whole networks arrives at their first layer, or was dropped by a rule that says so.

The output starts with relevance one in all; biases, shifts and running means are zero. With the
epsilon rule everywhere nothing is dropped; the zplus rule drops what units without a positive
contribution receive.
"""

from __future__ import annotations

import pytest
import torch
from conserving import (
    GATED,
    TOLERANCE,
    check_arrives,
    check_arrives_or_was_dropped,
    flow_of,
    make,
)

# `tests/long/test_conservation.py` has the others.
QUICK = (
    *("vit", "patch_transformer", "swin", "densenet", "mobilenet_v2"),
    *("mobilenet_v3_small", "shufflenet_v2_x0_5"),
)


@pytest.mark.parametrize("name", [name for name in QUICK if name not in GATED])
def test_all_relevance_arrives(name: str) -> None:
    check_arrives(name)


@pytest.mark.parametrize("name", QUICK)
def test_what_does_not_arrive_was_dropped(name: str) -> None:
    check_arrives_or_was_dropped(name)


def test_the_depthwise_convolutions_of_mobilenet_v2_drop_relevance() -> None:
    """BatchNorm's shift makes units active that have no positive contribution of nine inputs."""
    model, inputs = make("mobilenet_v2")
    assert flow_of(model, inputs, "epsilon_plus_flat_bn_pass").dropped < TOLERANCE
    with torch.no_grad():
        model.train()(inputs)
    flow = flow_of(model.eval(), inputs, "epsilon_plus_flat_bn_pass")
    assert flow.arrived < 0.7
    assert flow.arrived + flow.dropped == pytest.approx(1, abs=TOLERANCE)
    assert flow.by_formula == pytest.approx(flow.dropped, abs=TOLERANCE)
    depthwise = {layer: d for layer, d in flow.by_layers.items() if layer.groups > 1}
    assert sum(depthwise.values()) == pytest.approx(flow.dropped, abs=TOLERANCE)
