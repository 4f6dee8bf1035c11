"""Rules for Layer-wise Relevance Propagation that zennit lacks, or computes at twice the cost.

Each is a zennit hook and composes with any zennit composite. Sources: the composites of the
published code (2024); Montavon et al. (2019) for the gamma rule, Bach et al. (2015) for zplus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import zennit.rules
from torch import Tensor, nn
from zennit.core import BasicHook, ParamMod
from zennit.rules import ClampMod, GammaMod

EPSILON = 1e-6
WEIGHT_GAMMA = 0.25


def stabilized(z: Tensor) -> Tensor:
    """z + ε·sign z, where sign 0 = 1: zennit's ``stabilize`` in half the passes over memory."""
    # Adding zero makes zeros of either sign positive.
    return z.new_full((), EPSILON).copysign(z + 0.0).add_(z)


def quotient(relevance: Tensor, z: Tensor) -> Tensor:
    """R / (z + ε·sign z): the relevance per unit of an output z.

    On one CPU thread memory bandwidth limits it, so a compiled loop takes a single pass. The loop
    is neither parallel nor differentiable: otherwise torch's operations do it. ``ValueError`` if
    the shapes differ: a layer must put out the same shape whenever it is run.
    """
    if relevance.shape != z.shape:
        raise ValueError(
            f"a layer put out shape {tuple(relevance.shape)}, and {tuple(z.shape)} when a rule of "
            "relevance ran it again; exclude it or use ECQ (relevance=None)"
        )
    fits_loop = all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous()
        for t in (relevance, z)
    )
    if not fits_loop or relevance.requires_grad or torch.get_num_threads() > 1:
        return relevance / stabilized(z)
    from ecqx.relevance import loops

    result = torch.empty_like(z)
    flat_relevance, flat_z, flat_result = (
        tensor.view(-1).numpy() for tensor in (relevance, z.detach(), result)
    )
    loops.quotient(flat_relevance, flat_z, np.float32(EPSILON), flat_result)
    return result


def shares(factors: Sequence[Tensor], output: Tensor, relevance: Tensor) -> list[Tensor | None]:
    """v ⊙ ∂⟨z, R/(z + ε sign z)⟩/∂v for inputs or weights v of the output z; None if not used."""
    if not output.requires_grad:
        return [None] * len(factors)
    gradients = torch.autograd.grad(output, factors, quotient(relevance, output), allow_unused=True)
    # Those of an embedding may be sparse.
    return [
        None if g is None else v.detach() * g.to_dense()
        for v, g in zip(factors, gradients, strict=True)
    ]


def raised(weight: Tensor) -> Tensor:
    """W + 0.25·W⁺, which the weight rule ``gamma`` has in place of W."""
    return weight + WEIGHT_GAMMA * weight.clamp(min=0)


class Proportional:
    """A rule that gives each input its share of the output: x ⊙ ∂⟨z, R/(z + ε·sign z)⟩/∂x.

    `WeightRelevanceHook` computes this gradient together with that of the weights, from the
    module's own forward pass; zennit would run the module again.
    """


class Epsilon(Proportional, zennit.rules.Epsilon):  # type: ignore[misc]
    """The epsilon rule with ε = 1e-6."""

    def __init__(self) -> None:
        super().__init__(EPSILON)


class Norm(Proportional, zennit.rules.Norm):  # type: ignore[misc]
    """The norm rule: the epsilon rule of layers without parameters."""

    def __init__(self) -> None:
        super().__init__(EPSILON)


# The parts x⁺ and x⁻ of an input.
positive, negative = partial(torch.clamp, min=0), partial(torch.clamp, max=0)


class ZPlus(BasicHook):  # type: ignore[misc]
    """The zplus rule; without negative inputs, at half the cost of ``zennit.rules.ZPlus``.

    The denominator is x⁺w⁺ + x⁻w⁻ + b⁺ with the bias b, which takes its share of the relevance.
    Behind a ReLU x⁻ is zero, so one forward and one backward pass replace zennit's two of each.
    """

    def __init__(self) -> None:
        super().__init__(
            input_modifiers=[positive, negative],
            param_modifiers=[ClampMod(min=0.0), ClampMod(max=0.0, zero_params=["bias"])],
        )

    def copy(self) -> ZPlus:
        return ZPlus()

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
        original = self.stored_tensors["input"][0]
        x = original.detach()
        if _is_nonnegative(original):
            inputs = [x]
        else:
            inputs = [modify(x) for modify in self.input_modifiers]
        outputs = []
        # Of inputs without a negative part zip takes the first modifier alone.
        for part, modify in zip(inputs, self.param_modifiers, strict=False):
            with ParamMod.ensure(modify)(module) as modified, torch.enable_grad():
                outputs.append(modified.forward(part.requires_grad_()))
        share = quotient(grad_output[0], _total(outputs).detach())
        gradients = torch.autograd.grad(outputs, inputs, [share] * len(outputs))
        return (_total([g.mul_(x.detach()) for x, g in zip(inputs, gradients, strict=True)]),)


def mark_nonnegative(x: Tensor) -> None:
    """Record that no element is negative; valid until the tensor is changed in place."""
    x._ecqx_nonnegative = x._version  # type: ignore[attr-defined]


def is_known_nonnegative(x: Tensor) -> bool:
    """Whether `mark_nonnegative` was called on the present values."""
    return getattr(x, "_ecqx_nonnegative", None) == x._version


def _is_nonnegative(x: Tensor) -> bool:
    """Whether no element is negative; on a GPU only if marked: the minimum would synchronize."""
    return is_known_nonnegative(x) or (x.device.type == "cpu" and float(x.min()) >= 0)


def _total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of one tensor or two; a single one is not copied."""
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class GammaPlus(BasicHook):  # type: ignore[misc]
    """The published gamma rule: W + γ·W⁺ in place of W, bias likewise.

    zennit's generalized Gamma switches to W + γ·W⁻ where the output is negative: another rule.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__(param_modifiers=[GammaMod(gamma, min=0.0)])


class GammaAdapt(BasicHook):  # type: ignore[misc]
    """Per output, contributions of the stronger sign are weighted 1 + γ.

    With A = x⁺w⁺ + x⁻w⁻ + b⁺ and B = x⁺w⁻ + x⁻w⁺ + b⁻ summed per output, α is 1 + γ where A ≥ |B|,
    β where |B| > A, else they are 1. The denominator is αA + βB, and the contributions are those of
    A times α and those of B times β.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__(
            input_modifiers=[positive, negative, positive, negative],
            param_modifiers=[
                ClampMod(min=0.0),
                ClampMod(max=0.0, zero_params=["bias"]),
                ClampMod(max=0.0),
                ClampMod(min=0.0, zero_params=["bias"]),
            ],
            gradient_mapper=_adaptive_quotients(gamma),
        )


class GammaBnConv(BasicHook):  # type: ignore[misc]
    """`GammaAdapt` with the positive inputs alone: A = x⁺w⁺ + b⁺, B = x⁺w⁻ + b⁻."""

    def __init__(self, gamma: float) -> None:
        super().__init__(
            input_modifiers=[positive, positive],
            param_modifiers=[ClampMod(min=0.0), ClampMod(max=0.0)],
            gradient_mapper=_adaptive_quotients(gamma),
        )


def _adaptive_quotients(
    gamma: float,
) -> Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]]:
    """Gradient mapper of the adaptive gamma rules: αR/(αA + βB) and βR/(αA + βB).

    The first half of the outputs adds up to A, the second to B.
    """

    def mapper(relevance: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        half = len(outputs) // 2
        A = torch.stack(tuple(outputs[:half])).sum(0)
        B = torch.stack(tuple(outputs[half:])).sum(0)
        positive_wins = B.abs() <= A
        alpha = 1 + gamma * positive_wins
        beta = 1 + gamma * ~positive_wins
        share = quotient(relevance, alpha * A + beta * B)
        return (alpha * share,) * half + (beta * share,) * half

    return mapper
