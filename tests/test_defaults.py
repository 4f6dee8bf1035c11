"""No result depends on torch's default dtype or default device.

With ``meta`` as default device, a tensor that is made without naming its device has no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ecqx
from ecqx.assignment import codebooks
from ecqx.assignment.assign import assign
from ecqx.assignment.centroids import CentroidGrid
from ecqx.assignment.codebooks import Codebook, binary_basis, ternary
from ecqx.coding.coded_state import read_coded_state
from ecqx.data import Split
from ecqx.data.tensors import Preparation
from ecqx.methods.lsq import LearnedSteps
from ecqx.methods.pruning import PrunedUniform
from ecqx.relevance import LRP
from ecqx.training.settings import FitSettings
from ecqx.training.trainer import Trainer

DEFAULTS = [torch.float64, torch.float16, torch.bfloat16, "meta"]
defaults = pytest.mark.parametrize("value", DEFAULTS, ids=str)


@contextmanager
def default(value: torch.dtype | str) -> Iterator[None]:
    """A default dtype, or a default device; nothing is kept from before."""
    codebooks._all_members.cache_clear()
    before = torch.get_default_dtype()
    try:
        if isinstance(value, str):
            with torch.device(value):
                yield
        else:
            torch.set_default_dtype(value)
            yield
    finally:
        torch.set_default_dtype(before)
        codebooks._all_members.cache_clear()


W = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32))
R = W.flip(0)
FITS: dict[str, Callable[[], Any]] = {
    "grid": lambda: CentroidGrid.fit(W, 4),
    "grid of positive weights": lambda: CentroidGrid.fit(W.abs(), 3),
    "values": lambda: Codebook.of("values", ternary(W)),
    "sums": lambda: Codebook.of("sums", binary_basis(W)),
}


@defaults
@pytest.mark.parametrize("kind", FITS)
def test_assignment(value: Any, kind: str) -> None:
    def results() -> list[Tensor]:
        centroids = FITS[kind]()
        found = [centroids.values]
        for settings in ({}, {"pmf": "normalized"}, {"lambda_max": "derived"}, {"lam": 0.0}):
            settings = {"lam": 0.3, **settings}
            found.append(assign(W, centroids, **settings))
            found.append(assign(W, centroids, relevance=R, sparsity_band=(0.05, 0.1), **settings))
        return found

    expected = results()
    with default(value):
        found = results()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def network() -> nn.Sequential:
    """Made on the CPU in float32, whatever the defaults are."""
    with torch.device("cpu"):
        torch.manual_seed(0)
        layers = (nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(64, 10, dtype=torch.float32)).float()


X = W[:576].reshape(32, 1, 18).clone()
Y = torch.arange(32) % 10
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "ECQ": lambda m: ecqx.ECQx(m, lam=0.2),
    "ECQx": lambda m: ecqx.ECQx(m, lam=0.2, relevance=LRP()),
    "probability": lambda m: ecqx.ECQx(m, lam=0.2, relevance=LRP(output="probability")),
    "EC2T": ecqx.EC2T,
    "FantastIC4": ecqx.FantastIC4,
    "FantastIC4x": lambda m: ecqx.FantastIC4(m, relevance=LRP(of="quantized")),
    "LSQ": lambda m: LearnedSteps(m, 4),
    "pruning": lambda m: PrunedUniform(m, 4, 0.5, 4),
}


def trained(method: str, model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """A state after three steps of plain gradient descent, and what its file holds."""
    q = METHODS[method](model)
    for _ in range(3):
        F.cross_entropy(model(X), Y).backward()
        q.transfer_gradients()
        with torch.no_grad():
            for group in q.parameter_groups():
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter -= 0.5 * parameter.grad
                        parameter.grad = None
        q.update(X, Y)
    state = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    ecqx.save(folder / "model.ecqx", q)
    state |= {f"file.{name}": tensor for name, tensor in ecqx.load(folder / "model.ecqx").items()}
    q.load_state_dict(q.state_dict())
    assert q.sparsity() < 1
    return state


@defaults
@pytest.mark.parametrize("method", METHODS)
def test_training_and_files(value: Any, method: str, tmp_path: Path) -> None:
    models = network(), network()
    expected = trained(method, models[0], tmp_path)
    with default(value):
        found = trained(method, models[1], tmp_path)
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@defaults
@pytest.mark.parametrize("method", ["ECQ", "FantastIC4"])
def test_checkpoints_and_export(value: Any, method: str, tmp_path: Path) -> None:
    q = METHODS[method](network())
    expected = q.model.state_dict()
    with default(value):
        q.save_checkpoint(tmp_path / "model.safetensors")
        read = read_coded_state(tmp_path / "model.safetensors")
        ecqx.save(tmp_path / "model.ecqx", read)
    found = ecqx.load(tmp_path / "model.ecqx")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@defaults
def test_relevance(value: Any) -> None:
    model = network()
    expected = ecqx.weight_relevance(model, X, Y)
    with default(value):
        found = ecqx.weight_relevance(model, X, Y)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("value", DEFAULTS[:-1], ids=str)
def test_the_training_loop(value: Any) -> None:
    """Augmentation, learning rates and normalization."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 1, 6, 6), np.uint8))
    prepared = Preparation(mean=(0.3,), deviation=(0.7,), padding=1, flip=True)
    split = Split(images, torch.arange(64) % 10, prepared)
    settings = FitSettings(epochs=2, lr=0.01, batch_size=16, schedule="cosine", optimizer="sgd")
    states = []
    for default_value in (torch.float32, value):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
        with default(default_value):
            Trainer(model, split, split, settings, 1, ecqx.ECQx(model, lam=0.1)).fit()
        states.append(model.state_dict())
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
