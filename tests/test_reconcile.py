"""What others write into a quantized model is taken over or refused: its file is the model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from promise import assert_file_is_model, predictions
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import ecqx
from ecqx.methods.lsq import LearnedSteps
from ecqx.relevance import LRP

METHODS: dict[str, LRP | None] = {
    "ECQ": None,
    "stepped": LRP(),
    "quantized": LRP(of="quantized"),
}
methods = pytest.mark.parametrize("method", METHODS)
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
REFUSED = r"^{}: the model holds weights that are no centroids .*load_state_dict.*new quantizer$"


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return nn.Sequential(*layers).to(dtype)


def train(q: Any, steps: int = 4, lr: float = 0.05) -> None:
    """Training as a person writes it."""
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=lr, eps=1e-4)
    dtype = next(q.model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(q.model(X.to(dtype)).float(), Y).backward()
        q.transfer_gradients()
        optimizer.step()
        q.update(X.to(dtype), Y)


def through_data(model: nn.Module, state: dict[str, Tensor]) -> None:
    """As libraries for moving averages write: past torch's count of changes."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data.copy_(state[name])


def as_vector(model: nn.Module, state: dict[str, Tensor]) -> None:
    """One vector of all parameters, which puts other memory into each; then the buffers."""
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    vector_to_parameters(parameters_to_vector(other.parameters()), model.parameters())
    model.load_state_dict({n: t for n, t in state.items() if "running" in n}, strict=False)


RESTORES: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "load_state_dict": lambda model, state: model.load_state_dict(state),
    "through .data": through_data,
    "as a vector": as_vector,
}


@methods
@pytest.mark.parametrize("restore", RESTORES)
def test_a_restored_epoch_is_the_one_of_the_file(method: str, restore: str, tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.1, relevance=METHODS[method])
    train(q)
    best, integers = copy.deepcopy(q.model.state_dict()), q.integers()
    expected = predictions(q.model, X)
    train(q)
    latent = {name: tensor.detach().clone() for name, tensor in q.latent.items()}
    later = q.integers()
    assert any(not torch.equal(later[name], k) for name, k in integers.items())
    RESTORES[restore](q.model, best)
    assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")
    assert torch.equal(predictions(q.model, X), expected)
    for name, k in q.integers().items():
        assert torch.equal(k, integers[name])
        same = k == later[name]
        assert torch.equal(q.latent[name][same], latent[name][same])
        assert torch.equal(q.latent[name][~same], q.weights[name][~same])


@methods
@pytest.mark.parametrize("restore", RESTORES)
def test_the_next_step_starts_from_the_restored_epoch(method: str, restore: str) -> None:
    q = ecqx.ECQx(network(), lam=0.0, relevance=METHODS[method])
    train(q)
    best, integers = copy.deepcopy(q.model.state_dict()), q.integers()
    train(q)
    RESTORES[restore](q.model, best)
    train(q, steps=1, lr=0.0)
    assert all(torch.equal(k, integers[name]) for name, k in q.integers().items())
    # By an update alone, too.
    train(q)
    RESTORES[restore](q.model, best)
    q.update(X, Y)
    assert all(torch.equal(k, integers[name]) for name, k in q.integers().items())


def test_onnx_holds_the_restored_epoch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    q = ecqx.ECQx(network(), lam=0.1)
    best, expected = copy.deepcopy(q.model.state_dict()), predictions(q.model, X)
    train(q)
    through_data(q.model, best)
    ecqx.export_onnx(tmp_path / "model.onnx", q, X)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"input": X.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_restored_epoch_in_other_precisions(
    dtype: torch.dtype, bits: int, tmp_path: Path
) -> None:
    """In half precision several of the 256 centroids are one value."""
    q = ecqx.ECQx(network(dtype), bits=bits, lam=0.0)
    best = copy.deepcopy(q.model.state_dict())
    train(q)
    through_data(q.model, best)
    assert_file_is_model(q, network(dtype), X.to(dtype), tmp_path / "model.ecqx")
    for name, weight in q.weights.items():
        assert torch.equal(weight, best[name])


def test_a_merge_and_back_is_undone(tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.05)
    train(q)
    before, integers = copy.deepcopy(q.model.state_dict()), q.integers()
    for sign in (1, -1):
        torch.manual_seed(1)
        for weight in q.weights.values():
            weight.data += sign * torch.randn_like(weight)
    assert any(not torch.equal(before[name], weight) for name, weight in q.weights.items())
    assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")
    for name, weight in q.weights.items():
        assert torch.equal(weight, before[name])
        assert torch.equal(q.integers()[name], integers[name])


def averaged(q: Any) -> None:
    """Put the mean of two epochs into the model, as stochastic weight averaging does."""
    before = copy.deepcopy(q.model.state_dict())
    train(q)
    for name, weight in q.weights.items():
        weight.data.lerp_(before[name], 0.5)


READS: dict[str, Callable[[Any, Path], object]] = {
    "save": lambda q, path: ecqx.save(path, q),
    "export": lambda q, path: ecqx.export_onnx(path, q, X),
    "checkpoint": lambda q, path: q.save_checkpoint(path.with_suffix(".safetensors")),
    "coded_state": lambda q, path: q.coded_state(),
    "state_dict": lambda q, path: q.state_dict(),
    "integers": lambda q, path: q.integers(),
    "sparsity": lambda q, path: q.sparsity(),
    "summary": lambda q, path: q.summary(),
    "update": lambda q, path: q.update(X, Y),
    "step": lambda q, path: train(q, 1),
}


@pytest.mark.parametrize("read", READS)
def test_averaged_weights_are_refused_and_stay(read: str, tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.1)
    averaged(q)
    model = copy.deepcopy({n: w.detach() for n, w in q.weights.items()})
    with pytest.raises(ValueError, match=REFUSED.format(r"0\.weight")) as caught:
        READS[read](q, tmp_path / "model.ecqx")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(q.weights[name], tensor) for name, tensor in model.items())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [ecqx.EC2T, ecqx.FantastIC4, lambda m: LearnedSteps(m, 4)])
def test_averages_of_other_methods_are_refused(make: Callable[[nn.Module], Any]) -> None:
    q = make(network())
    averaged(q)
    with pytest.raises(ValueError, match=REFUSED.format(r"0\.weight")):
        q.coded_state()


def test_an_epoch_with_other_trained_centroids_is_refused_or_restored_by_the_quantizer(
    tmp_path: Path,
) -> None:
    q = ecqx.EC2T(network())
    train(q)
    best = copy.deepcopy(q.model.state_dict())
    whole, expected = copy.deepcopy(q.state_dict()), predictions(q.model, X)
    train(q)
    q.model.load_state_dict(best)
    with pytest.raises(ValueError, match="the quantizer's load_state_dict"):
        ecqx.save(tmp_path / "model.ecqx", q)
    q.load_state_dict(whole)
    assert torch.equal(predictions(q.model, X), expected)
    assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")


def assigned(q: Any) -> None:
    q.model.load_state_dict(copy.deepcopy(q.model.state_dict()), assign=True)


def new_head(q: Any) -> None:
    q.model[3] = nn.Linear(16, 3)


def new_parameter(q: Any) -> None:
    q.model[0].weight = nn.Parameter(q.model[0].weight.detach().clone())


@pytest.mark.parametrize(
    ("replace", "name"), [(assigned, "0"), (new_head, "3"), (new_parameter, "0")]
)
@pytest.mark.parametrize("read", READS)
def test_other_parameters_are_refused(
    replace: Callable[[Any], None], name: str, read: str, tmp_path: Path
) -> None:
    q = ecqx.ECQx(network(), lam=0.1)
    replace(q)
    with pytest.raises(ValueError, match=rf"^{name}\.weight: the model has another parameter"):
        READS[read](q, tmp_path / "model.ecqx")
    assert not any(tmp_path.iterdir())


def test_an_average_of_latent_weights_as_the_docs_say(tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.05, relevance=LRP())
    average = {name: tensor.detach().clone() for name, tensor in q.latent.items()}
    for _ in range(5):
        train(q, 1)
        for name, tensor in q.latent.items():
            average[name].lerp_(tensor.detach(), 0.5)
    with torch.no_grad():
        for name, tensor in q.latent.items():
            tensor.copy_(average[name])
    q.update(X, Y)
    assert_file_is_model(q, network(), X, tmp_path / "model.ecqx")
    assert all(torch.equal(q.latent[name], tensor) for name, tensor in average.items())


def by_pickle(q: Any) -> Any:
    return pickle.loads(pickle.dumps(q))


def by_torch(q: Any) -> Any:
    file = io.BytesIO()
    torch.save(q, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state(q: Any) -> Any:
    other = ecqx.ECQx(network(), lam=0.1, relevance=LRP())
    other.load_state_dict(copy.deepcopy(q.state_dict()))
    return other


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_torch, by_state])
def test_the_promise_holds_for_copies(copied: Callable[[Any], Any], tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.1, relevance=LRP())
    train(q)
    other = copied(q)
    train(q, 2)
    train(other, 2)
    for one in (q, other):
        assert_file_is_model(one, network(), X, tmp_path / "model.ecqx")
    assert all(torch.equal(k, q.integers()[name]) for name, k in other.integers().items())
    other.model.load_state_dict(q.model.state_dict())
    assert_file_is_model(other, network(), X, tmp_path / "model.ecqx")


def test_a_model_made_half_precision_afterwards(tmp_path: Path) -> None:
    q = ecqx.ECQx(network(), lam=0.1)
    train(q)
    q.model.bfloat16()
    assert_file_is_model(q, network(torch.bfloat16), X.bfloat16(), tmp_path / "model.ecqx")
