"""Rules of functions, against a second and slow implementation in matrix form, with numpy.

The oracle knows of each operation the matrix from every operand to the output. Relevance of an
operand's element is the sum over the outputs of its contribution over the sum of contributions,
times their relevance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

import ecqx
from ecqx.layers import ResidualSum
from ecqx.models import build
from ecqx.relevance import LRP, weight_relevance
from ecqx.relevance.composites import build_operation_rules
from ecqx.relevance.operation_rules import attributed
from ecqx.relevance.operations import Operations
from ecqx.relevance.weights import Attributor

Array = NDArray[np.float64]
EPSILON = 1e-6


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def relevances(
    function: Callable[..., Tensor], *operands: Tensor, composite: str = "attnlrp"
) -> tuple[Array, list[Array]]:
    """The relevance drawn for the output, and that of the operands, all of them activations."""
    leaves = [x.clone().requires_grad_() for x in operands]
    carriers = [attributed(x, lambda relevance: [relevance], [x]) for x in leaves]
    with Operations(build_operation_rules(composite), "epsilon"):
        output = function(*carriers)
    torch.testing.assert_close(output, function(*(x.clone() for x in operands)))
    R = random(*output.shape, seed=7)
    return R.numpy(), [g.numpy() for g in torch.autograd.grad(output, leaves, R)]


# -- the oracle ------------------------------------------------------------------------------------


def quotient(R: Array, z: Array) -> Array:
    return R / (z + np.where(z >= 0, EPSILON, -EPSILON))


def by_matrix(M: Array, x: Array, R: Array, shift: float | Array = 0.0) -> Array:
    """Relevance of x, where the output is M x plus a shift."""
    z = M @ x + shift
    result = np.zeros_like(x)
    for j, share in enumerate(quotient(R, z)):
        for i in range(len(x)):
            result[i] += M[j, i] * x[i] * share
    return result


def product_oracle(A: Array, B: Array, R: Array) -> tuple[Array, Array]:
    """Relevance of both factors of a matrix product."""
    of_a, of_b = np.zeros_like(A), np.zeros_like(B)
    share = quotient(R, A @ B) / 2
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            for k in range(A.shape[1]):
                contribution = A[i, k] * B[k, j] * share[i, j]
                of_a[i, k] += contribution
                of_b[k, j] += contribution
    return of_a, of_b


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    result: Array = e / e.sum(-1, keepdims=True)
    return result


def softmax_oracle(x: Array, R: Array) -> Array:
    """x times the Jacobian's product with R, row by row."""
    result = np.zeros_like(x)
    for row, (values, relevance) in enumerate(zip(x, R, strict=True)):
        s = softmax(values)
        # Where R is the relevance of s, R/s is the gradient at s.
        jacobian = np.diag(s) - np.outer(s, s)
        result[row] = values * (jacobian.T @ (relevance / s))
    return result


def norm_matrix(x: Array, weight: Array, eps: float) -> Array:
    """The matrix of mean and scale; the deviation is that of x, a constant."""
    n = len(x)
    return np.diag(weight) @ (np.eye(n) - np.ones((n, n)) / n) / math.sqrt(x.var() + eps)


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_an_addition(sign: int) -> None:
    """With broadcasting: the smaller operand receives from all that it was added to."""
    a, b = random(3, 4), random(4, seed=1)
    R, (of_a, of_b) = relevances(lambda a, b: a + b if sign > 0 else a - b, a, b)
    share = quotient(R, (a + sign * b).numpy())
    np.testing.assert_allclose(of_a, a.numpy() * share)
    np.testing.assert_allclose(of_b, sign * (b.numpy() * share).sum(0))


def test_a_product_of_elements() -> None:
    a, b = random(3, 4), random(3, 1, seed=1)
    R, (of_a, of_b) = relevances(torch.mul, a, b)
    np.testing.assert_allclose(of_a, R / 2)
    np.testing.assert_allclose(of_b, R.sum(1, keepdims=True) / 2)


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "@": lambda a, b: a @ b,
    "mm": torch.mm,
    "bmm": lambda a, b: a[None].bmm(b[None])[0],
    "einsum": lambda a, b: torch.einsum("ik,kj->ij", a, b),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_matrix_product(kind: str) -> None:
    a, b = random(3, 4), random(4, 5, seed=1)
    R, found = relevances(PRODUCTS[kind], a, b)
    for relevance, expected in zip(found, product_oracle(a.numpy(), b.numpy(), R), strict=True):
        np.testing.assert_allclose(relevance, expected)


@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_products_and_softmax_of_any_size(
    sizes: tuple[int, int, int], scale: float, seed: int
) -> None:
    rows, inner, columns = sizes
    a, b = scale * random(rows, inner, seed=seed), random(inner, columns, seed=seed + 1)
    R, found = relevances(torch.matmul, a, b)
    for relevance, expected in zip(found, product_oracle(a.numpy(), b.numpy(), R), strict=True):
        np.testing.assert_allclose(relevance, expected, rtol=1e-6, atol=1e-9)
    R, (of_x,) = relevances(lambda x: x.softmax(-1), random(rows, inner, seed=seed))
    expected = softmax_oracle(random(rows, inner, seed=seed).numpy(), R)
    np.testing.assert_allclose(of_x, expected, rtol=1e-6, atol=1e-9)


def test_a_product_with_a_constant_matrix() -> None:
    x, matrix = random(4), random(3, 4, seed=1)
    R, (found,) = relevances(lambda x: matrix @ x, x)
    np.testing.assert_allclose(found, by_matrix(matrix.numpy(), x.numpy(), R))


def test_softmax() -> None:
    x = random(3, 5)
    R, (found,) = relevances(lambda x: x.softmax(-1), x)
    np.testing.assert_allclose(found, softmax_oracle(x.numpy(), R))


def test_masked_elements_of_softmax_have_no_relevance() -> None:
    x, mask = random(3, 5), torch.arange(5) < 2
    R, (found,) = relevances(lambda x: x.masked_fill(mask, -math.inf).softmax(-1)[:, 2:], x)
    assert not found[:, :2].any()
    np.testing.assert_allclose(found[:, 2:], softmax_oracle(x.numpy()[:, 2:], R))


@pytest.mark.parametrize("kind", ["sum", "mean", "adaptive_avg_pool1d"])
def test_sums_and_means(kind: str) -> None:
    x = random(1, 6)
    weight = np.full((1, 6), 1.0 if kind == "sum" else 1 / 6)
    function = {
        "sum": lambda x: x.sum(1),
        "mean": lambda x: x.mean(1),
        "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x, 1).squeeze(1),
    }[kind]
    R, (found,) = relevances(function, x)
    np.testing.assert_allclose(found[0], by_matrix(weight, x.numpy()[0], R))


@pytest.mark.parametrize("kind", ["layer_norm", "group_norm", "instance_norm"])
def test_norms_have_a_constant_deviation(kind: str) -> None:
    x, weight, bias = random(2, 4, 3), random(4, seed=1), random(4, seed=2)
    if kind == "layer_norm":
        weight, bias = random(3, seed=1), random(3, seed=2)
        function = lambda x: F.layer_norm(x, (3,), weight, bias, 1e-3)  # noqa: E731
        groups = [(np.s_[b, c], weight, bias) for b in range(2) for c in range(4)]
    elif kind == "group_norm":
        function = lambda x: F.group_norm(x, 2, weight, bias, 1e-3)  # noqa: E731
        groups = [
            (np.s_[b, c], weight[c].repeat_interleave(3), bias[c].repeat_interleave(3))
            for b in range(2)
            for c in (slice(0, 2), slice(2, 4))
        ]
    else:
        function = lambda x: F.instance_norm(x, None, None, weight, bias, eps=1e-3)  # noqa: E731
        groups = [
            (np.s_[b, c], weight[c].expand(3), bias[c].expand(3))
            for b in range(2)
            for c in range(4)
        ]
    R, (found,) = relevances(function, x)
    for place, scale, shift in groups:
        values = x.numpy()[place].ravel()
        matrix = norm_matrix(values, scale.numpy(), 1e-3)
        expected = by_matrix(matrix, values, R[place].ravel(), shift.numpy())
        np.testing.assert_allclose(found[place].ravel(), expected)


PASSING: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "clamp": lambda x: x.clamp(0, 6),
    "scaled": lambda x: 3 * x,
    "divided": lambda x: x / 3,
    "negative": lambda x: -x,
    "from one": lambda x: 1 - x,
    "rms_norm": lambda x: F.rms_norm(x, (4,)),
    "rms_norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "normalize by hand": lambda x: x / x.norm(dim=-1, keepdim=True),
    "local_response_norm": lambda x: F.local_response_norm(x[None], 3)[0],
}


@pytest.mark.parametrize("kind", PASSING)
def test_functions_of_single_elements_pass_relevance(kind: str) -> None:
    composite = "epsilon_plus_flat_bn_pass" if kind == "from one" else "attnlrp"
    R, (found,) = relevances(PASSING[kind], random(3, 4), composite=composite)
    np.testing.assert_array_equal(found, R)


def test_a_gated_linear_unit() -> None:
    R, (found,) = relevances(lambda x: F.glu(x, 1), random(3, 4))
    np.testing.assert_allclose(found, np.concatenate([R, R], 1) / 2)
    _, (by_hand,) = relevances(lambda x: x[:, :2] * x[:, 2:].sigmoid(), random(3, 4))
    np.testing.assert_allclose(by_hand, found)


def test_a_layer_norm_by_hand_is_a_layer_norm() -> None:
    """As networks write it for channels that come first."""

    def by_hand(x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5)

    x = random(3, 5)
    _, (expected,) = relevances(lambda x: F.layer_norm(x, (5,)), x)
    _, (found,) = relevances(by_hand, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_constant_keeps_its_share_or_none() -> None:
    x, shift = random(3, 4), random(4, seed=1)
    R, (found,) = relevances(lambda x: x + shift, x)
    np.testing.assert_allclose(found, x.numpy() * quotient(R, (x + shift).numpy()))
    R, (found,) = relevances(lambda x: x + shift, x, composite="epsilon_plus_flat_bn_pass")
    np.testing.assert_array_equal(found, R)


def in_place(x: Tensor, y: Tensor) -> Tensor:
    z = x * 2
    z += y
    return F.hardtanh_(F.relu(z.mul_(3), inplace=True), -1, 6)


def test_operations_in_place_are_those_out_of_place() -> None:
    x, y = random(3, 4), random(3, 4, seed=1)
    _, found = relevances(in_place, x, y)
    _, expected = relevances(lambda x, y: F.hardtanh((x * 2 + y) * 3, 0, 6), x, y)
    for relevance, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(relevance, other)


def test_an_operand_that_changes_later_is_one_line() -> None:
    def change(x: Tensor, y: Tensor) -> Tensor:
        x = x * 1
        z = x + y
        x.zero_()
        return z

    leaves = [random(3).requires_grad_() for _ in range(2)]
    carriers = [attributed(x, lambda relevance: [relevance], [x]) for x in leaves]
    with Operations(build_operation_rules("attnlrp"), "epsilon"):
        output = change(*carriers)
    with pytest.raises(ValueError, match=r"^the network changes an operand of add in place, which"):
        output.sum().backward()


# -- attention -------------------------------------------------------------------------------------


def attention_oracle(
    q: Array, k: Array, v: Array, mask: Array, R: Array
) -> tuple[Array, Array, Array]:
    """One head: relevance of queries, keys and values; a mask added to the scores keeps its share.

    All in one: R of scores per unit of score, since scores are scaled and masked in between.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    scores = q @ k.T * scale + mask
    A = softmax(scores)
    of_a, of_v = product_oracle(A, v, R)
    allowed = np.isfinite(scores)
    finite = np.where(allowed, scores, 0)
    of_product = finite * (of_a - A * of_a.sum(-1, keepdims=True))
    if allowed.all() and mask.any():
        of_product = q @ k.T * scale * quotient(of_product, scores)
    of_q, of_k = product_oracle(q, k.T, of_product)
    return of_q, of_k.T, of_v


@pytest.mark.parametrize("kind", ["plain", "causal", "added", "boolean", "grouped"])
def test_scaled_dot_product_attention(kind: str) -> None:
    q, k, v = random(4, 6, 8), random(4, 6, 8, seed=1), random(4, 6, 8, seed=2)
    mask, settings = np.zeros((6, 6)), dict[str, Any]()
    causal = torch.ones(6, 6).tril().bool()
    if kind == "causal":
        mask, settings = np.where(causal, 0, -np.inf), {"is_causal": True}
    elif kind == "added":
        added = random(6, 6, seed=3)
        mask, settings = added.numpy(), {"attn_mask": added}
    elif kind == "boolean":
        mask, settings = np.where(causal, 0, -np.inf), {"attn_mask": causal}
    elif kind == "grouped":
        k, v, settings = k[:2], v[:2], {"enable_gqa": True}
    R, found = relevances(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **settings), q, k, v
    )
    expected = [np.zeros_like(x.numpy()) for x in (q, k, v)]
    for head in range(4):
        shared = head // (4 // len(k))
        heads = (q[head], k[shared], v[shared])
        parts = attention_oracle(*(x.numpy() for x in heads), mask, R[head])
        for total, place, part in zip(expected, (head, shared, shared), parts, strict=True):
            total[place] += part
    for relevance, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(relevance, other, rtol=1e-5, atol=1e-7)


def test_relevance_stopped_at_softmax_takes_the_way_through_the_values() -> None:
    """The weights of attention are a constant matrix then."""
    q, k, v = random(6, 8), random(6, 8, seed=1), random(6, 8, seed=2)

    def attend(v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    R, (of_v,) = relevances(attend, v, composite="attnlrp_values")
    weights = softmax((q @ k.T).numpy() / math.sqrt(8))
    for column in range(8):
        expected = by_matrix(weights, v.numpy()[:, column], R[:, column])
        np.testing.assert_allclose(of_v[:, column], expected)
    model = Attending(SelfAttention(torch_s=True))
    found = weight_relevance(model, INPUTS, LABELS, "attnlrp_values", output="ones")
    of_q, of_k, of_v = found["attention.own.in_proj_weight"].chunk(3)
    assert not of_q.any()
    assert not of_k.any()
    assert float(of_v.sum()) == pytest.approx(1, abs=1e-2)


INPUTS, LABELS = random(6, 5, 8).float(), torch.arange(6) % 3


class SelfAttention(nn.Module):
    """Torch's attention, or the same by layers and functions."""

    def __init__(self, torch_s: bool, need_weights: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        self.torch_s, self.need_weights = torch_s, need_weights
        self.layers = nn.ModuleList()
        if not torch_s:
            parts = (*self.own.in_proj_weight.chunk(3), self.own.out_proj.weight)
            self.layers.extend(nn.Linear(8, 8, bias=False) for _ in parts)
            for layer, part in zip(self.layers, parts, strict=True):
                layer.weight = nn.Parameter(part.detach().clone())
            del self.own

    def forward(self, x: Tensor) -> Tensor:
        if self.torch_s:
            result: Tensor = self.own(x, x, x, need_weights=self.need_weights)[0]
            return result
        *heads, last = self.layers
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in heads)
        scores = q @ k.transpose(-2, -1) / math.sqrt(4)
        joined: Tensor = last((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return joined


class Attending(nn.Module):
    """Attention and a linear layer."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        torch.manual_seed(1)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.attention(x).mean(1))
        return logits


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
def test_torch_s_attention_is_attention_by_hand(weight_rule: str, need_weights: bool) -> None:
    """Its matrices are one parameter, which is used by a function."""
    by_torch = Attending(SelfAttention(True, need_weights))
    by_hand = Attending(SelfAttention(False))
    torch.testing.assert_close(by_torch(INPUTS), by_hand(INPUTS))
    found, expected = (
        weight_relevance(model, INPUTS, LABELS, "attnlrp", weight_rule=weight_rule)  # type: ignore[arg-type]
        for model in (by_torch, by_hand)
    )
    *heads, last, head = expected.values()
    for relevance, other in zip(found.values(), (torch.cat(heads), last, head), strict=True):
        torch.testing.assert_close(relevance, other, rtol=1e-3, atol=1e-5)


def test_attention_to_another_sequence() -> None:
    """Separate matrices for keys and values of other widths; a padding mask; biases of its own."""
    torch.manual_seed(0)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(
                8, 2, kdim=4, vdim=4, add_bias_kv=True, batch_first=True
            )
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            memory = self.first(x)[..., :4]
            padding = torch.arange(5).expand(len(x), 5) > 3
            attended, _ = self.attention(x, memory, memory, key_padding_mask=padding)
            logits: Tensor = self.head(attended.mean(1))
            return logits

    found = weight_relevance(Decoder(), INPUTS, LABELS, "attnlrp")
    expected = {f"attention.{p}_proj_weight" for p in "qkv"} | {"attention.out_proj.weight"}
    assert found.keys() == expected | {"first.weight", "head.weight"}
    assert all(relevance.any() and relevance.isfinite().all() for relevance in found.values())


# -- networks --------------------------------------------------------------------------------------


class Way(nn.Module):
    """The same network by layers or by functions."""

    def __init__(self, by_functions: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.relu, self.gelu, self.sum = nn.ReLU(), nn.GELU(), ResidualSum()
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.by_functions = by_functions

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.by_functions:
            h = F.relu(h)
            h = h + F.gelu(F.linear(h, self.second.weight, self.second.bias))
            pooled = F.adaptive_avg_pool1d(h.mT, 1).flatten(1)
            return F.linear(pooled, self.last.weight, bias=self.last.bias)
        h = self.relu(h)
        h = self.sum(torch.stack([h, self.gelu(self.second(h))]))
        logits: Tensor = self.last(self.pool(h.mT).flatten(1))
        return logits


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("composite", ["epsilon_plus_flat_bn_pass", "attnlrp"])
def test_functions_have_the_rules_of_layers(composite: str, weight_rule: str) -> None:
    by_layers, by_functions = (
        weight_relevance(Way(way), INPUTS, LABELS, composite, weight_rule=weight_rule)  # type: ignore[arg-type]
        for way in (False, True)
    )
    assert by_layers.keys() == by_functions.keys()
    for name, relevance in by_layers.items():
        torch.testing.assert_close(by_functions[name], relevance, rtol=1e-4, atol=1e-7)


class Functional(nn.Module):
    """Linear layers by functions alone: even the first one, whose input carries no relevance."""

    def __init__(self, by_functions: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        first, last = nn.Linear(8, 6), nn.Linear(6, 3, bias=False)
        if by_functions:
            self.first, self.last = nn.Parameter(first.weight), nn.Parameter(last.weight)
            self.bias = nn.Parameter(first.bias)
        else:
            self.first, self.last = first, last
        self.by_functions = by_functions

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1)
        if self.by_functions:
            return torch.relu(F.linear(x, self.first, self.bias)) @ self.last.T
        logits: Tensor = self.last(torch.relu(self.first(x)))
        return logits


@pytest.mark.parametrize("weight_rule", ["epsilon", "gamma"])
def test_a_network_without_layers_has_the_relevance_of_layers(weight_rule: str) -> None:
    labels = torch.arange(30) % 3
    settings = {"composite": "attnlrp", "weight_rule": weight_rule}
    expected, found = (
        weight_relevance(Functional(way), INPUTS, labels, **settings)  # type: ignore[arg-type]
        for way in (False, True)
    )
    for name in ("first", "last"):
        torch.testing.assert_close(found[name], expected[f"{name}.weight"], rtol=1e-4, atol=1e-7)
    q = ecqx.ECQx(Functional(True), include=["first", "last"], relevance=LRP("attnlrp"))
    q.update(INPUTS, labels)
    assert list(q.weights) == ["first", "last"]


class Tied(nn.Module):
    """Words whose embedding is the matrix of the last layer, too."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.hidden = nn.Embedding(9, 5), nn.Linear(5, 5)
        self.last = nn.Linear(5, 9, bias=False)
        self.last.weight = nn.Parameter(self.words.weight.detach().clone())
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.hidden(self.words(x).mean(1)))
        return h @ self.words.weight.T if self.tied else self.last(h)


def test_a_tied_matrix_has_the_relevance_of_both_uses() -> None:
    x = torch.arange(24).reshape(6, 4) % 9
    tied, apart = (weight_relevance(Tied(way), x, torch.arange(6)) for way in (True, False))
    expected = apart["words.weight"] + apart["last.weight"]
    torch.testing.assert_close(tied["words.weight"], expected)


@pytest.mark.parametrize(
    "name", ["mlp_gsc", "resnet20", "resnet56", "vgg16_bn", "resnet18", "deeplabv3_resnet50"]
)
def test_the_suites_networks_call_no_operation_with_a_rule(name: str) -> None:
    """So their relevance is that of their layers alone, and no step is slower."""
    inputs = {"in_features": 12} if name == "mlp_gsc" else {}
    model = build(name, num_classes=3, **inputs)
    x = torch.rand(2, 12) if inputs else torch.rand(2, 3, 32, 32)
    y = torch.zeros(2, 32, 32).long() if "deeplab" in name else torch.tensor([0, 1])
    attributor = Attributor(model)
    attributor(x, y)
    assert not attributor.placement.operations.used


class Checkpointed(nn.Module):
    """A block of a transformer whose activations are computed again in the backward pass."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
        self.last = nn.Linear(8, 3)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = checkpoint(self.block, h, use_reentrant=False) if self.again else self.block(h)
        logits: Tensor = self.last(h.mean(1))
        return logits


def test_checkpointing_changes_nothing() -> None:
    found, expected = (
        weight_relevance(Checkpointed(again), INPUTS, LABELS, "attnlrp") for again in (True, False)
    )
    assert len(expected) == 6
    for name, relevance in expected.items():
        assert torch.equal(found[name], relevance)


def test_every_batch_has_the_rules_of_the_first() -> None:
    attributor = Attributor(Checkpointed(again=False), LRP("attnlrp"))
    first, again = (attributor(INPUTS, LABELS) for _ in range(2))
    assert attributor.placement.operations.used
    assert attributor.remarks == ()
    for name, relevance in first.items():
        assert torch.equal(again[name], relevance)
