"""A zennit hook that also gives the weights of a layer their relevance.

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
from zennit.core import BasicHook, Composite, Hook, RemovableHandle, RemovableHandleList
from zennit.rules import GammaMod, Pass

from ecqx.relevance.operations import Arguments, Place
from ecqx.relevance.rules import (
    WEIGHT_GAMMA,
    Proportional,
    is_known_nonnegative,
    mark_nonnegative,
    shares,
)
from ecqx.relevance.settings import WeightRule

Sink = Callable[[nn.Parameter, Tensor], None]


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module: what its attribution needs later, in the backward pass.

    ``place`` is that of the input among the arguments. ``version`` is autograd's count of in-place
    changes of ``output`` at the end of the call.
    """

    hook: WeightRelevanceHook
    module: nn.Module
    input: Tensor
    arguments: Arguments
    place: Place
    output: Tensor
    version: int

    def own_output(self) -> Tensor:
        """The module's output, recomputed if it was changed in place (``out += shortcut``)."""
        if self.output._version == self.version:
            return self.output
        with torch.enable_grad():
            again: Tensor = self.module.forward(self.input)
        return again


def _place_of_input(module: nn.Module, arguments: Arguments) -> Place:
    """``ValueError`` unless one argument is a tensor, and none holds any inside."""
    places = list(arguments.places())
    count = _count_tensors((arguments.args, arguments.kwargs))
    if len(places) != 1 or count != 1:
        raise ValueError(
            f"LRP has no rule for a {type(module).__name__} with {count} inputs; use ECQ "
            "(relevance=None) or exclude the layers around it"
        )
    return places[0]


def _count_tensors(value: Any) -> int:
    """How many tensors an argument is or holds."""
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, dict):
        value = tuple(value.values())
    return sum(map(_count_tensors, value)) if isinstance(value, list | tuple) else 0


class _Attribution(torch.autograd.Function):
    """Identity on a module's output whose gradient is the module's relevance of its input.

    It takes the module's place in the autograd graph, so that the module's own backward pass is not
    run; zennit runs it and discards the result. The anchor is a scalar that requires a gradient
    even where the input does not, so that the weights of a first layer have a relevance, too.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, anchor: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, None, None]:
        arriving = ctx.call.hook.attribute(ctx.call, relevance, ctx.needs_input_grad[0])
        return arriving, None, None


class WeightRelevanceHook(Hook):  # type: ignore[misc]
    """Adds the relevance of weights to any zennit rule.

    Parameters
    ----------
    rule : zennit.core.Hook
        Rule that distributes relevance from the module's output to its input.
    weight_rule : {"epsilon", "gamma"}
        Rule for the module's parameters of more than one dimension; ``gamma`` computes both z and
        R_W with W + 0.25·W⁺ (bias likewise) in place of W.
    sink : callable
        Receives ``(parameter, relevance)`` once per call of the module.

    Notes
    -----
    Modules with exactly one tensor input are supported, by position or by keyword; whatever else a
    call is given, the module is given again when a rule runs it. The rule finds what zennit would
    give it: ``stored_tensors["input"]``, and relevance as gradient of the output.
    """

    def __init__(self, rule: Hook, weight_rule: WeightRule, sink: Sink) -> None:
        super().__init__()
        self.rule = rule
        self.weight_rule = weight_rule
        self.sink = sink
        # During a call: its input in the autograd graph; the same cut from it, its place, all else.
        self.uncut: Tensor | None = None
        self.running: tuple[Tensor, Place, Arguments] | None = None
        self.anchor = torch.zeros((), requires_grad=True)

    def copy(self) -> WeightRelevanceHook:
        """A hook for another module, with a copy of the rule."""
        return WeightRelevanceHook(self.rule.copy(), self.weight_rule, self.sink)

    def remove(self) -> None:
        """Release the tensors that an interrupted pass left behind."""
        self.uncut = self.running = None
        self.rule.stored_tensors.clear()
        super().remove()

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Attach to ``module``; the returned handles detach again."""
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self.pre_forward, with_kwargs=True),
                module.register_forward_hook(self.post_forward),
            ]
        )

    def pre_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Cut the graph in front of the module."""
        arguments = Arguments(args, kwargs)
        place = _place_of_input(module, arguments)
        self.uncut = arguments[place]
        input = self.uncut.detach()
        if is_known_nonnegative(self.uncut):
            mark_nonnegative(input)
        # `attribute` differentiates this call's output by it; other rules run the module again.
        if isinstance(self.rule, Proportional):
            input.requires_grad_(self.uncut.requires_grad)
        self.running = input, place, arguments
        # A module that works in place would change the output of the layer before it.
        given = input.clone() if getattr(module, "inplace", False) else input
        return arguments.with_values({place: given})

    def post_forward(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Connect the output to the uncut input by `_Attribution`."""
        assert self.running is not None
        input, place, arguments = self.running
        call = _Call(self, module, input, arguments, place, output, output._version)
        attributed: Tensor = _Attribution.apply(self.uncut, self.anchor, call)
        self.uncut = self.running = None
        if isinstance(module, nn.ReLU | nn.ReLU6):
            mark_nonnegative(attributed)
        return attributed

    def attribute(self, call: _Call, relevance: Tensor, input_wanted: bool) -> Tensor | None:
        """Send the relevance of the parameters to the sink; return that of the input if wanted."""
        own = call.module._parameters.values()
        parameters = [p for p in own if p is not None and p.requires_grad]
        if isinstance(self.rule, Pass) and not parameters:
            return relevance
        # Input and parameters have the same rule: one backward pass gives both relevances.
        jointly = isinstance(self.rule, Proportional) and self.weight_rule == "epsilon"
        arriving: Tensor | None
        with _as_called(call):
            if jointly and input_wanted:
                arriving, *relevances = shares(
                    [call.input, *parameters], call.own_output(), relevance
                )
            else:
                relevances = self._parameter_relevance(call, parameters, relevance)
                arriving = self._input_relevance(call, relevance) if input_wanted else None
        for parameter, r in zip(parameters, relevances, strict=True):
            if r is not None:
                self.sink(parameter, r)
        return arriving

    def _input_relevance(self, call: _Call, relevance: Tensor) -> Tensor:
        """The relevance of the input by the rule; the gradient where the rule returns None."""
        gradient = self._input_gradient(call, relevance)
        # zennit 1.0 stores a call's keyword arguments beside its input.
        self.rule.stored_tensors.update(input=(call.input,), kwargs={})
        arriving = self.rule.backward(call.module, (gradient,), (relevance,))
        self.rule.stored_tensors.clear()
        return gradient if arriving is None else arriving[0]

    def _input_gradient(self, call: _Call, relevance: Tensor) -> Tensor:
        """zennit's ``grad_input``; the input where the rule reads only its shape."""
        if isinstance(self.rule, BasicHook | Pass):
            return call.input
        input = call.input.detach().requires_grad_()
        with torch.enable_grad():
            output = call.module.forward(input.clone())
        return torch.autograd.grad(output, input, relevance)[0]

    def _parameter_relevance(
        self, call: _Call, parameters: list[nn.Parameter], relevance: Tensor
    ) -> list[Tensor | None]:
        """R_W = W ⊙ ∂⟨z, R/(z + ε sign z)⟩/∂W; ``epsilon`` reuses the call's forward pass."""
        if not parameters:
            return []
        if self.weight_rule == "epsilon":
            return shares(parameters, call.own_output(), relevance)
        names = {id(p): name for name, p in call.module.named_parameters(recurse=False)}
        with GammaMod(WEIGHT_GAMMA, min=0.0)(call.module), torch.enable_grad():
            # `GammaMod` has put other parameters in place, under the same names.
            modified = [getattr(call.module, names[id(p)]) for p in parameters]
            output = call.module.forward(call.input)
        return shares(modified, output, relevance)


@contextmanager
def _as_called(call: _Call) -> Iterator[None]:
    """Within the block ``module.forward(input)`` has the other arguments of the call.

    Afterwards the module has its own parameters: zennit 1.0 leaves new ones of the same values.
    """
    module, parameters = call.module, dict(call.module._parameters)
    forward, own = module.forward, module.__dict__.get("forward")
    has_more = len(call.arguments.args) + len(call.arguments.kwargs) > 1

    def repeated(input: Tensor) -> Any:
        args, kwargs = call.arguments.with_values({call.place: input})
        return forward(*args, **kwargs)

    try:
        if has_more or call.place != 0:
            module.forward = repeated
        yield
    finally:
        module._parameters.update(parameters)
        if module.__dict__.get("forward") is repeated:
            del module.forward
            if own is not None:
                module.forward = own


def with_weight_relevance(
    composite: Composite, sink: Sink, weight_rule: WeightRule = "epsilon"
) -> Composite:
    """The composite with a `WeightRelevanceHook` around each of its rules.

    ``sink`` receives ``(parameter, relevance)`` for each call of a module whose parameter requires
    a gradient.
    """

    def module_map(ctx: dict[str, Any], name: str, module: nn.Module) -> Hook | None:
        rule = composite.module_map(ctx, name, module)
        return None if rule is None else WeightRelevanceHook(rule, weight_rule, sink)

    return Composite(module_map=module_map, canonizers=composite.canonizers)
