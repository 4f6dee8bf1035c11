"""Gradients of several backward passes: micro-batches, dropped batches, clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import clip_grad_norm_

import ecqx
from ecqx.methods.lsq import LearnedSteps
from ecqx.relevance import LRP

KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "ECQ": lambda m: ecqx.ECQx(m, lam=0.1),
    "stepped": lambda m: ecqx.ECQx(m, lam=0.1, relevance=LRP()),
    "full precision": lambda m: ecqx.ECQx(m, lam=0.1, relevance=LRP(of="full_precision")),
    "EC2T": ecqx.EC2T,
    "EC2T stepped": lambda m: ecqx.EC2T(m, relevance=LRP()),
    "FantastIC4": ecqx.FantastIC4,
    "LSQ": lambda m: LearnedSteps(m, 4),
}
kinds = pytest.mark.parametrize("kind", KINDS)
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def made(kind: str) -> Any:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return KINDS[kind](nn.Sequential(*layers))


def backward(q: Any, part: slice = slice(None), share: float = 1.0) -> None:
    (F.cross_entropy(q.model(X[part]), Y[part]) * share).backward()


def gradients(q: Any) -> list[Tensor | None]:
    """Of all that the optimizer trains, but the discarded steps of quantized weights."""
    stepped = {id(weight) for weight in q.weights.values()}
    trained = [p for group in q.parameter_groups() for p in group["params"] if id(p) not in stepped]
    return [None if p.grad is None else p.grad.clone() for p in trained]


def assert_close(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    assert any(g is not None and g.any() for g in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@kinds
@pytest.mark.parametrize("sizes", [(24,), (12, 12), (8, 4, 12)])
def test_micro_batches_add_up(kind: str, sizes: tuple[int, ...]) -> None:
    expected, start = [], 0
    whole, once, each = made(kind), made(kind), made(kind)
    for step in range(3):
        backward(whole)
        whole.transfer_gradients()
        start = 0
        for size in sizes:
            part, start = slice(start, start + size), start + size
            backward(once, part, size / 24)
            backward(each, part, size / 24)
            each.transfer_gradients()
        once.transfer_gradients()
        expected = gradients(whole)
        assert_close(gradients(once), expected)
        assert_close(gradients(each), expected)
        for q in (whole, once, each):
            # Either way of forgetting gradients; no step, so that all stay equal.
            q.update(X, Y)
            if step == 0:
                q.model.zero_grad()
            else:
                torch.optim.SGD(q.parameter_groups(), lr=0.0).zero_grad(set_to_none=step == 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "LSQ"])
def test_a_step_without_update_starts_anew(kind: str) -> None:
    """With assignment at every second step, say, and gradients forgotten by the model alone."""
    q = made(kind)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.0)
    for _ in range(3):
        q.model.zero_grad()
        backward(q)
        q.transfer_gradients()
        found = gradients(q)
        optimizer.step()
    expected = made(kind)
    backward(expected)
    expected.transfer_gradients()
    assert_close(found, gradients(expected))


@kinds
@pytest.mark.parametrize("zeroed", ["optimizer", "optimizer, in place", "model"])
def test_a_dropped_batch_leaves_nothing(kind: str, zeroed: str) -> None:
    """As after a loss that is not finite: no step, no update."""
    q = made(kind)
    optimizer = torch.optim.SGD(q.parameter_groups(), lr=0.1)
    backward(q, share=100.0)
    q.transfer_gradients()
    if zeroed == "model":
        q.model.zero_grad()
    else:
        optimizer.zero_grad(set_to_none="place" not in zeroed)
    backward(q)
    q.transfer_gradients()
    expected = made(kind)
    backward(expected)
    expected.transfer_gradients()
    assert_close(gradients(q), gradients(expected))


@kinds
def test_a_layer_that_one_micro_batch_does_not_use(kind: str) -> None:
    q = made(kind)
    backward(q)
    q.transfer_gradients()
    expected = gradients(q)
    q.model[2].weight.grad = None
    q.transfer_gradients()
    assert q.latent["2.weight"].grad is not None
    torch.testing.assert_close(gradients(q)[1], expected[1])


@kinds
def test_clipping_before_the_transfer_as_the_docs_say(kind: str) -> None:
    """The norm of the model's gradients is that of what follows from them."""
    q = made(kind)
    backward(q)
    other = made(kind)
    backward(other)
    norm = float(clip_grad_norm_(q.model.parameters(), 1e-3))
    assert norm > 1e-3
    for q_ in (q, other):
        q_.transfer_gradients()
    for clipped, full in zip(gradients(q), gradients(other), strict=True):
        torch.testing.assert_close(clipped, full * (1e-3 / norm), rtol=1e-3, atol=1e-9)
