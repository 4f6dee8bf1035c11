"""Rules for functions: additions, products, softmax, attention, norms, activations.

Each gives the call of a function a node of its own in the autograd graph, whose gradient is the
relevance of the operands. Source: Achtibat et al., "AttnLRP" (ICML 2024), whose equations are named
below. A norm is a layer here, not an identity, so that its mean and shift have a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ecqx.relevance.operations import (
    ADDED_PRODUCTS,
    ATTENTION,
    PRODUCTS,
    Operation,
    OperationRule,
)
from ecqx.relevance.passage import parameter_behind
from ecqx.relevance.rules import raised, shares

# Relevance of the output to that of the operands.
Attribute = Callable[[Tensor], Sequence[Tensor | None]]


class _Operation(torch.autograd.Function):
    """The output of an operation, whose gradient is the relevance of its operands."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, attribute: Attribute, *operands: Tensor) -> Tensor:
        ctx.attribute = attribute
        return output.detach()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.attribute(relevance))


def attributed(output: Tensor, attribute: Attribute, operands: Sequence[Tensor]) -> Tensor:
    """An output with a gradient that is the relevance of the operands."""
    result: Tensor = _Operation.apply(output.detach(), attribute, *operands)
    return result


# -- rules -----------------------------------------------------------------------------------------


def passed(operation: Operation) -> Any:
    """Relevance passes unchanged; several factors have equal parts of it.

    For functions of single elements, f(x) is x times f(x)/x, a constant (AttnLRP, equations 9, 7).
    """
    operands = operation.operands()
    with torch.no_grad():
        output = operation.run()

    def attribute(relevance: Tensor) -> list[Tensor]:
        part = relevance / len(operands) if len(operands) > 1 else relevance
        return [part.sum_to_size(x.shape) for x in operands]

    return attributed(output, attribute, operands)


def divided(operation: Operation) -> Any:
    """A division by a constant is a factor; any other has no rule."""
    return passed(operation) if operation.carriers == (0,) else operation.run()


def shared(operation: Operation) -> Any:
    """The epsilon rule of what is linear in all operands together: each has its share of the sum.

    Constants keep theirs, as biases do (AttnLRP, equation 8).
    """
    return _proportional(operation, dict.fromkeys(operation.carriers, 1.0))


def shared_by_branches(operation: Operation) -> Any:
    """The same, but constants have no share: relevance passes whole where there is one branch."""
    return passed(operation) if len(operation.carriers) == 1 else shared(operation)


def multiplied(operation: Operation) -> Any:
    """The epsilon rule of what is linear in each operand: activations have equal parts.

    AttnLRP, section 3.3.2: R_A = A ⊙ (R / 2(O + ε)) Vᵀ for O = A V, and R_V likewise.
    A weight has all of the relevance, beside the activations, as the weight of a layer has.
    """
    parts = {place: 1 / len(operation.carriers) for place in operation.carriers}
    for place in operation.places():
        parameter = parameter_behind(operation[place])
        if parameter is not None and parameter.ndim > 1:
            operation.mode.weights[id(parameter)] = parameter
            parts[place] = 1.0
    return _proportional(operation, parts) if parts else operation.run()


def expanded(operation: Operation) -> Any:
    """Softmax by its expansion of first order: x ⊙ (R - softmax(x)·ΣR).

    It does not conserve relevance. Masked elements have none.
    """
    (x,) = operation.operands()
    dim = operation.argument(1, "dim")
    if dim is None:
        dim = 0 if x.ndim in (0, 1, 3) else 1
    with torch.no_grad():
        output = operation.run()
    values = x.detach()

    def attribute(relevance: Tensor) -> list[Tensor]:
        gradient = relevance - output * relevance.sum(dim, keepdim=True)
        return [torch.where(output == 0, 0.0, values * gradient)]

    return attributed(output, attribute, [x])


def constant(operation: Operation) -> Any:
    """The result counts as a constant, through which no relevance passes."""
    with torch.no_grad():
        return operation.run()


def normalized(linear: Callable[..., Tensor]) -> OperationRule:
    """The epsilon rule of a norm whose deviation is constant; ``linear`` computes it so."""

    def rule(operation: Operation) -> Any:
        with torch.no_grad():
            output = operation.run()
        linearized = replace(operation, function=linear)
        return _proportional(linearized, dict.fromkeys(operation.carriers, 1.0), output)

    return rule


def by_parts(function: Callable[..., Tensor]) -> OperationRule:
    """What ``function`` computes instead, by operations that have rules."""

    def rule(operation: Operation) -> Any:
        with operation.mode:
            return function(*operation.args, **operation.kwargs)

    return rule


def multi_head_attention(operation: Operation) -> Any:
    """torch's own code of multi-head attention; the operations in it have rules."""
    return operation.mode.by_own_code(operation.function, operation.args, operation.kwargs)


def _proportional(
    operation: Operation, parts: Mapping[int | str, float], output: Tensor | None = None
) -> Any:
    """Relevance in proportion to the contributions, times a part for each operand.

    ``output`` is what the function puts out, where it is not run as it is.
    """
    operands = [operation[place] for place in parts]
    leaves = {place: operation[place].detach().requires_grad_() for place in parts}
    versions = [leaf._version for leaf in leaves.values()]
    with torch.enable_grad():
        z = operation.run(leaves)
    version = z._version

    def attribute(relevance: Tensor) -> list[Tensor | None]:
        if [leaf._version for leaf in leaves.values()] != versions:
            raise ValueError(
                f"the network changes an operand of {operation.function.__name__} in place, which "
                "its rule of relevance needs; compute a new tensor, or use ECQ (relevance=None)"
            )
        own = z
        if z._version != version:
            with torch.enable_grad():
                own = operation.run(leaves)
        found = shares(list(leaves.values()), own, relevance)
        if operation.mode.weight_rule == "gamma":
            found = _by_gamma(operation, leaves, found, relevance)
        return [
            r if r is None or part == 1 else r * part
            for r, part in zip(found, parts.values(), strict=True)
        ]

    return attributed(z if output is None else output, attribute, operands)


def _by_gamma(
    operation: Operation,
    leaves: Mapping[int | str, Tensor],
    found: list[Tensor | None],
    relevance: Tensor,
) -> list[Tensor | None]:
    """The relevances with those of weights by the gamma rule."""
    weights = [place for place in leaves if place not in operation.carriers]
    if not weights:
        return found
    modified = {place: leaf.detach() for place, leaf in leaves.items()}
    for place in weights:
        modified[place] = raised(modified[place]).requires_grad_()
    bias = operation.argument(2, "bias")
    if operation.function.__name__ == "linear" and bias is not None:
        modified[2 if len(operation.args) > 2 else "bias"] = raised(bias.detach())
    with torch.enable_grad():
        output = operation.run(modified)
    by_weight = dict(zip(leaves, found, strict=True))
    factors = [modified[place] for place in weights]
    by_weight.update(zip(weights, shares(factors, output, relevance), strict=True))
    return list(by_weight.values())


# -- functions that rules take in place of torch's -------------------------------------------------


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _addmm(input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return input * beta + torch.matmul(a, b) * alpha


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's ``scaled_dot_product_attention`` computes, without dropout."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    centered = input - input.mean(dims, keepdim=True)
    variance = centered.detach().pow(2).mean(dims, keepdim=True)
    return _affine(centered * torch.rsqrt(variance + eps), weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    groups = input.reshape(len(input), num_groups, -1)
    normalized = _layer_norm(groups, groups.shape[-1:], eps=eps).reshape(input.shape)
    by_channel = (-1, *[1] * (input.ndim - 2))
    return _affine(normalized, *(t if t is None else t.reshape(by_channel) for t in (weight, bias)))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if use_input_stats:
        return _group_norm(input, input.shape[1], weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


# -- the rules by name -----------------------------------------------------------------------------

_ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "logsigmoid", "tanh"),
    *("softplus", "softsign", "hardshrink", "softshrink", "tanhshrink", "threshold"),
    *("clamp", "clip", "clamp_min", "clamp_max"),
)
_GROUPS: tuple[tuple[OperationRule, tuple[str, ...]], ...] = (
    (passed, _ACTIVATIONS),
    (passed, ("mul", "multiply", "neg", "negative", "rms_norm", "normalize")),
    (passed, ("local_response_norm",)),
    (divided, ("div", "divide", "true_divide")),
    (shared, ("sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d")),
    (shared, ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")),
    (multiplied, PRODUCTS),
    (by_parts(_addmm), ADDED_PRODUCTS),
    (constant, ("rsqrt", "sqrt", "var", "std", "norm", "vector_norm")),
    (by_parts(_glu), ("glu",)),
    (normalized(_layer_norm), ("layer_norm",)),
    (normalized(_group_norm), ("group_norm",)),
    (normalized(_instance_norm), ("instance_norm",)),
    (by_parts(_attention), ("scaled_dot_product_attention",)),
    (multi_head_attention, (ATTENTION,)),
)
_ADDITIONS = ("add", "sub", "subtract", "__radd__", "__rsub__", "rsub")


def operation_rules(addition: OperationRule, softmax: OperationRule) -> dict[str, OperationRule]:
    """Rules by the names of functions; those of additions and of softmax are the caller's."""
    groups = (*_GROUPS, (addition, _ADDITIONS), (softmax, ("softmax",)))
    return {name: rule for rule, names in groups for name in names}
