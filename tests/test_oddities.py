"""What once ended in a traceback: it works, or is one line."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

import ecqx
from ecqx.data.audio import decode
from ecqx.errors import InputError
from ecqx.modules import copied
from ecqx.relevance import LRP, weight_relevance

QUANTIZERS: dict[str, Callable[..., Any]] = {
    "ECQ": ecqx.ECQx,
    "ECQx stepped": lambda model, **settings: ecqx.ECQx(model, relevance=LRP(), **settings),
    "ECQx": lambda model, **settings: ecqx.ECQx(
        model, relevance=LRP(of="full_precision"), **settings
    ),
    "EC2T": lambda model, **settings: ecqx.EC2T(model, relevance=LRP(), **settings),
}


def steps(q: Any, model: nn.Module, x: Tensor, count: int = 3) -> None:
    optimizer = torch.optim.Adam(q.parameter_groups(), lr=0.02)
    y = torch.arange(len(x)) % 3
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        q.transfer_gradients()
        optimizer.step()
        q.update(x, y)


def assert_trained_alike(first: nn.Module, second: nn.Module, x: Tensor, method: str) -> None:
    """Two forms of one network end with the same weights."""
    for model in (first, second):
        steps(QUANTIZERS[method](model, lam=0.05), model, x)
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other), name


# -- sparse gradients ------------------------------------------------------------------------------


class Words(nn.Module):
    """Embeddings, the mean of words by an embedding or by a bag of them."""

    def __init__(self, sparse: bool, bag: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = (
            nn.EmbeddingBag(20, 8, sparse=sparse) if bag else nn.Embedding(20, 8, sparse=sparse)
        )
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x)
        logits: Tensor = self.head(words if words.ndim == 2 else words.mean(1))
        return logits


IDS = torch.arange(60).reshape(12, 5) % 19


@pytest.mark.parametrize("method", QUANTIZERS)
def test_a_sparse_embedding_trains_like_a_dense_one(method: str) -> None:
    assert_trained_alike(Words(True), Words(False), IDS, method)


def test_a_sparse_bag_of_embeddings_trains_like_a_dense_one() -> None:
    assert_trained_alike(Words(True, bag=True), Words(False, bag=True), IDS, "ECQ")


def test_the_relevance_of_a_sparse_embedding_is_that_of_a_dense_one() -> None:
    y = torch.arange(12) % 3
    sparse, dense = (weight_relevance(Words(kind), IDS, y) for kind in (True, False))
    assert all(not r.is_sparse and torch.equal(r, dense[name]) for name, r in sparse.items())


# -- checkpointing ---------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """An MLP whose middle is computed again in the backward pass."""

    def __init__(self, use_reentrant: bool | None, whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Linear(6, 8), nn.ReLU()
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)
        self.use_reentrant, self.whole = use_reentrant, whole

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        if self.use_reentrant is None:
            return self.head(self.middle(h))
        if self.whole:
            return checkpoint(self.head, self.middle(h), use_reentrant=self.use_reentrant)
        return self.head(checkpoint(self.middle, h, use_reentrant=self.use_reentrant))


X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("method", QUANTIZERS)
def test_checkpointing_without_reentry_trains_like_none(method: str, whole: bool) -> None:
    assert_trained_alike(Checkpointed(False, whole), Checkpointed(None), X, method)


@pytest.mark.parametrize("whole", [False, True])
def test_reentrant_checkpointing_is_one_line_for_relevance(whole: bool) -> None:
    assert_trained_alike(Checkpointed(True, whole), Checkpointed(None), X, "ECQ")
    model = Checkpointed(True, whole)
    q = ecqx.ECQx(model, relevance=LRP())
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    with pytest.raises(ValueError, match=r"^relevance cannot pass reentrant checkpointing; ") as e:
        q.update(X, torch.arange(12) % 3)
    assert "\n" not in str(e.value)
    assert all(torch.equal(q.state_dict()[name], tensor) for name, tensor in before.items())


class Backbone(nn.Module):
    """A first part that runs without gradients, in one of two ways."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.reentrant = nn.Linear(6, 8), nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant:
            return self.head(checkpoint(self.backbone, x, use_reentrant=True))
        with torch.no_grad():
            h = self.backbone(x)
        return self.head(h)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_part_without_gradients_is_one_line(reentrant: bool) -> None:
    q = ecqx.ECQx(Backbone(reentrant), relevance=LRP())
    with pytest.raises(
        ValueError, match=r"^no relevance reaches backbone\.weight: .* runs without"
    ):
        q.update(X, torch.arange(12) % 3)


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shared",
    [
        lambda: torch.randn(1, 6).expand(8, 6),
        lambda: torch.randn(8, 1).expand(8, 6),
        lambda: torch.randn(13).as_strided((8, 6), (1, 1)),
    ],
)
@pytest.mark.parametrize("method", QUANTIZERS)
def test_elements_in_one_place_of_memory_are_one_line(
    shared: Callable[[], Tensor], method: str
) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight = nn.Parameter(shared())
    with pytest.raises(ValueError, match=r"^0\.weight: several of its elements are one number"):
        QUANTIZERS[method](model)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())
    steps(QUANTIZERS[method](model), model, X)


def test_what_is_not_quantized_may_be_expanded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight = nn.Parameter(torch.randn(1, 6).expand(8, 6), requires_grad=False)
    model[0].bias = nn.Parameter(torch.ones(1).expand(8), requires_grad=False)
    q = ecqx.ECQx(model, exclude=["0."])
    steps(q, model, X)
    ecqx.save(tmp_path / "model.ecqx", q)
    for name, tensor in ecqx.load(tmp_path / "model.ecqx").items():
        assert torch.equal(tensor, model.state_dict()[name])


# -- networks that keep what they computed ---------------------------------------------------------


class Keeping(nn.Module):
    """Keeps activations, in an attribute, a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.features: Tensor | None = None
        self.seen: list[Tensor] = []
        self.by_name: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.relu(self.layer(x))
        self.seen.append(self.features)
        self.by_name["last"] = (self.features, x)
        logits: Tensor = self.head(self.features)
        return logits


def with_old_weight_norm() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[0])
    return model


def with_spectral_norm() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.utils.spectral_norm(model[0])
    return model


KEEPING: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "an activation": (Keeping, []),
    "old weight norm": (with_old_weight_norm, ["0."]),
    "old spectral norm": (with_spectral_norm, ["0."]),
}


@pytest.mark.parametrize("kind", KEEPING)
def test_a_network_that_keeps_what_it_computed_is_exported(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    make, exclude = KEEPING[kind]
    model = make()
    q = ecqx.ECQx(model, exclude=exclude)
    steps(q, model, X)
    with pytest.raises(RuntimeError, match="deepcopy protocol"):
        copy.deepcopy(model)
    ecqx.save(tmp_path / "model.ecqx", q)
    ecqx.export_onnx(tmp_path / "a.onnx", q, X[:2])
    ecqx.export_onnx(tmp_path / "b.onnx", model, X[:2], file=tmp_path / "model.ecqx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": X.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model.eval()(X).detach())


def test_a_copy_has_all_that_was_kept_but_its_graph() -> None:
    model = Keeping()
    logits = model(X)
    other = copied(model)
    assert other.features is not model.features
    assert torch.equal(other.features, model.features)
    assert other.features is other.seen[0] is other.by_name["last"][0]
    assert other.features.grad_fn is None
    assert model.features.grad_fn is not None
    logits.sum().backward()
    assert all(p.grad is None for p in other.parameters())


# -- sound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_a_sound_with_a_sample_that_is_no_number_is_one_line(value: float, rate: int) -> None:
    soundfile = pytest.importorskip("soundfile")
    sound = np.zeros((rate, 2), np.float32)
    sound[rate // 2, 1] = value
    content = io.BytesIO()
    soundfile.write(content, sound, rate, format="WAV", subtype="FLOAT")
    with pytest.raises(InputError, match=r"^a\.wav: holds samples that are NaN or infinite"):
        decode("a.wav", content.getvalue())
