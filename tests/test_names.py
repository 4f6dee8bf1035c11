"""``exclude`` and ``include``: lists of parts of names, and what a list without effect means."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ecqx
from ecqx.methods.lsq import LearnedSteps
from ecqx.methods.pruning import PrunedUniform
from ecqx.methods.registry import build_method
from ecqx.modules import weights_of
from ecqx.quantizers.parameters import UnusedNameWarning, survey

METHODS: dict[str, dict[str, Any]] = {
    "ECQ": {"bits": 4, "lam": 0.0},
    "EC2T": {"lam": 0.0},
    "FantastIC4x": {"lam": 0.0},
    "LSQ": {"bits": 4},
    "pruning": {"bits": 4, "sparsity": 0.5},
    "torchao": {"bits": 4, "group": 0},
}
every_method = pytest.mark.parametrize("name", METHODS)
WAYS: dict[str, Callable[..., Any]] = {
    "ECQx": ecqx.ECQx,
    "EC2T": ecqx.EC2T,
    "FantastIC4": ecqx.FantastIC4,
    "LSQ": lambda model, **names: LearnedSteps(model, 4, **names),
    "pruning": lambda model, **names: PrunedUniform(model, 4, 0.5, 1, **names),
}
every_way = pytest.mark.parametrize("way", WAYS)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.positions = nn.Parameter(torch.randn(4, 5))


@every_way
@pytest.mark.parametrize("setting", ["exclude", "include"])
@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ("fc", r"must be a sequence of names, not one: \('fc',\)$"),
        (None, "must be a sequence of names, not None$"),
        (["fc", 3], "must be a sequence of names, and 3 is none$"),
        ([""], "must be a sequence of names, and '' is none$"),
    ],
)
def test_a_string_is_no_list_of_letters(way: str, setting: str, parts: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{setting} {line}"):
        WAYS[way](Network(), **{setting: parts})


@every_method
def test_methods_and_the_table_refuse_it_before_there_is_a_model(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: exclude must be a sequence of names"):
        build_method(name, METHODS[name] | {"exclude": "fc"})
    with pytest.raises(ValueError, match=r"^include must be a sequence of names"):
        survey(Network(), include="fc")


@every_way
def test_a_part_that_matches_nothing_is_named(way: str) -> None:
    with pytest.warns(UnusedNameWarning) as caught:
        q = WAYS[way](Network(), exclude=["fc", "bn", "head"], include=["positions", "tokens"])
    assert list(q.weights) == ["positions", "conv.weight"]
    assert [str(warning.message) for warning in caught] == [
        "exclude: no parameter has 'bn' or 'head' in its name",
        "include: no parameter of more than one dimension has 'tokens' in its name",
    ]


@every_way
def test_the_name_of_a_module_means_that_module_alone(way: str) -> None:
    """As in ``bits``; ``conv2`` in the last list is the name of none."""
    every = [name for name, _ in weights_of(ecqx.models.build("resnet20"))]
    for parts, left in (
        (["conv1", "linear"], {"conv1.weight", "linear.weight"}),
        (["layer1.0.conv1.weight"], {"layer1.0.conv1.weight"}),
        (["layer1.0", "conv2"], {n for n in every if n.startswith("layer1.0.") or ".conv2." in n}),
    ):
        q = WAYS[way](ecqx.models.build("resnet20"), exclude=parts)
        assert set(every) - set(q.weights) == left


@every_way
def test_a_list_that_matches_nothing_is_refused(way: str) -> None:
    with pytest.raises(ValueError, match=r"^exclude: no parameter has 'bn' or 'FC' in its name$"):
        WAYS[way](Network(), exclude=["bn", "FC"])
    # A bias has a name, but nothing that a grid fits.
    with pytest.raises(ValueError, match=r"^include: no parameter of more than one dimension has"):
        WAYS[way](Network(), include=["bias"])


@every_way
def test_what_is_named_without_need_is_no_fault(way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = WAYS[way](Network(), exclude=("bias",), include={"fc.weight"})
    assert list(q.weights) == ["conv.weight", "fc.weight"]


@every_method
def test_in_a_suite_a_list_is_shared_between_networks(name: str) -> None:
    method = build_method(name, METHODS[name] | {"exclude": ("downsample",)})
    with pytest.warns(UnusedNameWarning, match="'downsample'"):
        quantizer = method.constrain(Network(), 1)
    assert list(quantizer.weights) == ["conv.weight", "fc.weight"]  # type: ignore[union-attr]
    # Outside of it, a list is that of one network again.
    with pytest.raises(ValueError, match="'downsample'"):
        ecqx.ECQx(Network(), exclude=["downsample"])
