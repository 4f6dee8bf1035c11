"""How much each weight matters: relevance of weights by Layer-wise Relevance Propagation.

Paper: section on LRP for weights. For a layer with input x, weight W, its own output z and the
relevance R_out of that output, the epsilon weight rule is
``R_W = W ⊙ ∂⟨z, R_out / (z + ε·sign z)⟩ / ∂W`` with the quotient held constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import (
    BasicHook,
    Composite,
    Hook,
    RemovableHandle,
    RemovableHandleList,
)
from zennit.rules import GammaMod, Pass

from ecqx.modes import evaluation_mode
from ecqx.objectives import IGNORED_LABEL, main_output
from ecqx.relevance.canonizers import build_canonizer
from ecqx.relevance.composites import build_composite
from ecqx.relevance.rules import stabilized
from ecqx.relevance.settings import (
    DEFAULT_CANONIZER,
    DEFAULT_COMPOSITE,
    OUTPUTS,
    WEIGHT_RULES,
    Output,
    WeightRule,
    check_choice,
)

WEIGHT_GAMMA = 0.25

Sink = Callable[[nn.Parameter, Tensor], None]


@dataclass(frozen=True)
class _Call:
    """One call of a module: what its attribution needs, kept until relevance arrives."""

    hook: WeightRelevanceHook
    module: nn.Module
    input: Tensor
    output: Tensor


class _Attribution(torch.autograd.Function):
    """Identity on a module's output whose gradient is the module's relevance of its input.

    It takes the place of the module in the autograd graph, so the module's own backward pass,
    which zennit runs and throws away, is not computed.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return ctx.call.hook.attribute(ctx.call, relevance), None


class WeightRelevanceHook(Hook):  # type: ignore[misc]
    """Adds the relevance of weights to any zennit rule.

    Parameters
    ----------
    rule : zennit.core.Hook
        Rule that distributes relevance from the module's output to its input.
    weight_rule : {"epsilon", "gamma"}
        Rule for the module's parameters of more than one dimension; ``gamma`` takes
        W + 0.25·W⁺ (bias likewise) in place of W everywhere.
    sink : callable
        Receives ``(parameter, relevance)`` once per call of the module.

    Notes
    -----
    Modules with exactly one tensor input are supported. The rule sees the module as zennit would
    show it: ``stored_tensors["input"]``, and relevance as gradient of the output.
    """

    def __init__(self, rule: Hook, weight_rule: WeightRule, sink: Sink) -> None:
        super().__init__()
        self.rule = rule
        self.weight_rule = weight_rule
        self.sink = sink
        self.input: Tensor | None = None

    def copy(self) -> WeightRelevanceHook:
        """Return a hook for another module, with a copy of the rule."""
        return WeightRelevanceHook(self.rule.copy(), self.weight_rule, self.sink)

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Attach to ``module``; the returned handles detach again."""
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self.pre_forward),
                module.register_forward_hook(self.post_forward),
            ]
        )

    def pre_forward(self, module: nn.Module, input: tuple[Any, ...]) -> Tensor:
        """Cut the graph in front of the module."""
        if len(input) != 1 or not isinstance(input[0], Tensor):
            raise ValueError(
                f"LRP has no rule for a {type(module).__name__} with {len(input)} inputs; "
                "use ECQ (relevance=None) or exclude the layers around it"
            )
        self.input = input[0]
        cut = self.input.detach()
        # Overwriting the input would change the output that the layer before it is judged by.
        return cut.clone() if getattr(module, "inplace", False) else cut

    def post_forward(self, module: nn.Module, input: Any, output: Tensor) -> Tensor:
        """Connect the output to the uncut input by `_Attribution`."""
        assert self.input is not None
        uncut, self.input = self.input, None
        attributed: Tensor = _Attribution.apply(uncut, _Call(self, module, uncut.detach(), output))
        return attributed

    def attribute(self, call: _Call, relevance: Tensor) -> Tensor:
        """Give the parameters their relevance, return that of the input."""
        with _keeping_parameters(call.module):
            parameters = [p for p in call.module.parameters(recurse=False) if p.requires_grad]
            if parameters:
                relevances = self._parameter_relevance(call, parameters, relevance)
                for parameter, r in zip(parameters, relevances, strict=True):
                    self.sink(parameter, r)
            return self._input_relevance(call, relevance)

    def _input_relevance(self, call: _Call, relevance: Tensor) -> Tensor:
        """What the rule makes of the relevance; the gradient where it leaves that as it is."""
        gradient = self._input_gradient(call, relevance)
        # zennit 1.0 stores a call's keyword arguments beside its input.
        self.rule.stored_tensors.update(input=(call.input,), kwargs={})
        arriving = self.rule.backward(call.module, (gradient,), (relevance,))
        self.rule.stored_tensors.clear()
        return gradient if arriving is None else arriving[0]

    def _input_gradient(self, call: _Call, relevance: Tensor) -> Tensor:
        """zennit's ``grad_input``, of which all rules but a few for ReLU see only the shape."""
        if isinstance(self.rule, BasicHook | Pass):
            return call.input
        input = call.input.detach().requires_grad_()
        with torch.enable_grad():
            output = call.module.forward(input.clone())
        return torch.autograd.grad(output, input, relevance)[0]

    def _parameter_relevance(
        self, call: _Call, parameters: list[nn.Parameter], relevance: Tensor
    ) -> list[Tensor]:
        """R_W = W ⊙ ∂⟨z, R/(z + ε sign z)⟩/∂W; ``epsilon`` shares the call's forward pass."""
        if self.weight_rule == "epsilon":
            return _weight_times_gradient(parameters, call.output, relevance)
        names = {id(p): name for name, p in call.module.named_parameters(recurse=False)}
        with GammaMod(WEIGHT_GAMMA, min=0.0)(call.module), torch.enable_grad():
            modified = [getattr(call.module, names[id(p)]) for p in parameters]
            output = call.module.forward(call.input)
        return _weight_times_gradient(modified, output, relevance)


@contextmanager
def _keeping_parameters(module: nn.Module) -> Iterator[None]:
    """Leave the module with the very parameters it has: zennit 1.0 puts others in their place."""
    parameters = dict(module._parameters)
    try:
        yield
    finally:
        module._parameters.update(parameters)


def _weight_times_gradient(
    parameters: list[nn.Parameter], output: Tensor, relevance: Tensor
) -> list[Tensor]:
    quotient = relevance / stabilized(output.detach())
    gradients = torch.autograd.grad(output, parameters, quotient)
    return [p.detach() * g for p, g in zip(parameters, gradients, strict=True)]


def with_weight_relevance(
    composite: Composite, sink: Sink, weight_rule: WeightRule = "epsilon"
) -> Composite:
    """Return a composite whose every rule also gives the weights their relevance.

    Parameters
    ----------
    composite : zennit.core.Composite
        Any composite; its rules and canonizers are kept.
    sink : callable
        Receives ``(parameter, relevance)`` for each call of a module whose parameter requires a
        gradient.
    weight_rule : {"epsilon", "gamma"}
        See `WeightRelevanceHook`.

    Returns
    -------
    zennit.core.Composite
    """

    def module_map(ctx: dict[str, Any], name: str, module: nn.Module) -> Hook | None:
        rule = composite.module_map(ctx, name, module)
        return None if rule is None else WeightRelevanceHook(rule, weight_rule, sink)

    return Composite(module_map=module_map, canonizers=composite.canonizers)


def weight_relevance(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    composite: str = DEFAULT_COMPOSITE,
    canonizer: str = DEFAULT_CANONIZER,
    output: Output = "output",
    weight_rule: WeightRule = "epsilon",
) -> dict[str, Tensor]:
    """Relevance of a model's weights for the decisions on one batch.

    Parameters
    ----------
    model : Module
        Returns logits, shape (B, C) or (B, C, H, W), or a dict with them under ``"out"``. Used in
        eval mode; its modes and flags are restored.
    inputs : Tensor, shape (B, …)
    targets : Tensor
        Classes, shape (B,); several labels, shape (B, C) of 0 and 1; or a label per pixel, shape
        (B, H, W), where 255 is ignored.
    composite : str
        One of `ecqx.relevance.COMPOSITES`.
    canonizer : str
        One of `ecqx.relevance.CANONIZERS`.
    output : {"output", "probability", "ones"}
        Relevance the target's logit starts with: the logit, its softmax (for several labels its
        sigmoid), or one; each divided by the batch size.
    weight_rule : {"epsilon", "gamma"}
        See `WeightRelevanceHook`.

    Returns
    -------
    dict of str to Tensor
        Signed relevance by parameter name, summed over the batch, shape of the parameter; for the
        parameters of more than one dimension in layers that the composite has a rule for.

    Raises
    ------
    ValueError
        If a name is unknown, shapes do not fit, or a layer has no rule.
    """
    check_choice("lrp_output", output, OUTPUTS)
    check_choice("weight_rule", weight_rule, WEIGHT_RULES)
    names = {id(p): name for name, p in model.named_parameters()}
    result: dict[str, Tensor] = {}

    def sink(parameter: nn.Parameter, relevance: Tensor) -> None:
        name = names[id(parameter)]
        result[name] = result[name] + relevance if name in result else relevance

    if not inputs.is_floating_point():
        raise ValueError(f"LRP needs floating-point inputs, not {inputs.dtype}; use ECQ")
    base = build_composite(composite)
    base.canonizers = [build_canonizer(canonizer)]
    attributing = with_weight_relevance(base, sink, weight_rule)
    start = inputs.detach().clone().requires_grad_()
    with _prepared(model), torch.enable_grad(), attributing.context(model) as attributed:
        logits = main_output(attributed(start))
        torch.autograd.grad(logits, start, output_relevance(logits.detach(), targets, output))
    return {name: result[name] for name in names.values() if name in result}


def output_relevance(logits: Tensor, targets: Tensor, output: Output) -> Tensor:
    """Relevance at the output of the network: at the targets' logits, divided by the batch size.

    Parameters
    ----------
    logits : Tensor, shape (B, C) or (B, C, H, W)
    targets : Tensor
        As for `weight_relevance`.
    output : {"output", "probability", "ones"}

    Returns
    -------
    Tensor, shape of ``logits``

    Raises
    ------
    ValueError
        If the shapes of logits and targets do not belong together.
    """
    several_labels = targets.shape == logits.shape
    if several_labels:
        present = targets.to(logits.dtype)
    elif targets.shape == logits.shape[:1] + logits.shape[2:]:
        valid = targets != IGNORED_LABEL
        classes = torch.where(valid, targets, 0).unsqueeze(1).long()
        present = torch.zeros_like(logits).scatter_(1, classes, 1.0) * valid.unsqueeze(1)
    else:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    if output == "output":
        start = logits
    elif output == "probability":
        start = logits.sigmoid() if several_labels else logits.softmax(dim=1)
    else:
        start = torch.ones_like(logits)
    return present * start / logits.shape[0]


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients for the weights alone, no module that overwrites its input."""
    inplace = [module for module in model.modules() if getattr(module, "inplace", False)]
    parameters = list(model.parameters())
    flags = [p.requires_grad for p in parameters]
    try:
        for module in inplace:
            module.inplace = False  # type: ignore[assignment]
        for p in parameters:
            p.requires_grad_(p.ndim > 1)
        with evaluation_mode(model):
            yield
    finally:
        for module in inplace:
            module.inplace = True  # type: ignore[assignment]
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)


def layers_without_rule(model: nn.Module, composite: str) -> list[str]:
    """Names of the parameters of more than one dimension whose layer a composite has no rule for.

    Parameters
    ----------
    model : Module
    composite : str
        One of `ecqx.relevance.COMPOSITES`.

    Returns
    -------
    list of str
    """
    built, context = build_composite(composite), dict[str, Any]()
    missing = []
    for prefix, module in model.named_modules():
        if built.module_map(context, prefix, module) is None:
            own = module.named_parameters(prefix, recurse=False)
            missing += [name for name, parameter in own if parameter.ndim > 1]
    return missing
