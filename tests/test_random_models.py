"""Thirty models at random keep the promise of their files; tests/long tries five hundred."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_models import EVENTS, LAYERS, Recipe, keep_the_promise, recipes

FIXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=FIXED)
@given(recipe=recipes())
def test_a_file_is_the_model_or_the_model_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    keep_the_promise(recipe, tmp_path / "model.ecqx")


@pytest.mark.parametrize("event", EVENTS)
def test_the_promise_is_kept_after(event: str, tmp_path: Path) -> None:
    layers = ["linear", "relu", "batch norm", "twice"]
    chosen = ("ECQx", "stepped", {"lam": 0.05}, False, [event, event])
    recipe = Recipe(layers, 0, torch.float32, True, False, *chosen)
    assert keep_the_promise(recipe, tmp_path / "model.ecqx") == ""


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_is_kept_or_refused(name: str, tmp_path: Path) -> None:
    refused = {"adapted": "all its", "weight norm": "computed", "extra state": "_extra_state"}
    recipe = Recipe([name], 0, torch.float32, False, False, "ECQx", None, {"lam": 0.05})
    assert refused.get(name, "") in keep_the_promise(recipe, tmp_path / "model.ecqx")
    assert (name in refused) == (not (tmp_path / "model.ecqx").exists())
