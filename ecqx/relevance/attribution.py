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

    ``arguments`` is None for a call with the input alone. ``version`` is autograd's count of
    in-place changes of ``output`` at the end of the call.
    """

    hook: WeightRelevanceHook
    module: nn.Module
    input: Tensor
    arguments: _Arguments | None
    output: Tensor
    version: int

    def own_output(self) -> Tensor:
        """The module's output, recomputed if it was changed in place (``out += shortcut``)."""
        if self.output._version == self.version:
            return self.output
        with torch.enable_grad():
            again: Tensor = self.module.forward(self.input)
        return again


@dataclass(frozen=True)
class _Arguments:
    """The arguments of a module's call; ``place`` is that of the one tensor, its input."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str

    @classmethod
    def of(cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
        """``ValueError`` unless one argument is a tensor, and none holds any inside."""
        given = dict(enumerate(args)) | kwargs
        tensors = {place: _count_tensors(value) for place, value in given.items()}
        places = [place for place, value in given.items() if isinstance(value, Tensor)]
        if sum(tensors.values()) != 1 or not places:
            raise ValueError(
                f"LRP has no rule for a {type(module).__name__} with {sum(tensors.values())} "
                "inputs; use ECQ (relevance=None) or exclude the layers around it"
            )
        return cls(args, kwargs, places[0])

    @property
    def input(self) -> Tensor:
        value: Tensor = (
            self.args[self.place] if isinstance(self.place, int) else self.kwargs[self.place]
        )
        return value

    def with_input(self, input: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with another input."""
        if isinstance(self.place, str):
            return self.args, {**self.kwargs, self.place: input}
        return (*self.args[: self.place], input, *self.args[self.place + 1 :]), self.kwargs


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
        # During a call: its input in the autograd graph, and the same detached from the graph.
        self.uncut: Tensor | None = None
        self.input: Tensor | None = None
        self.arguments: _Arguments | None = None
        self.anchor = torch.zeros((), requires_grad=True)

    def copy(self) -> WeightRelevanceHook:
        """A hook for another module, with a copy of the rule."""
        return WeightRelevanceHook(self.rule.copy(), self.weight_rule, self.sink)

    def remove(self) -> None:
        """Release the tensors that an interrupted pass left behind."""
        self.uncut = self.input = self.arguments = None
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
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            self.uncut = args[0]
        else:
            self.arguments = _Arguments.of(module, args, kwargs)
            self.uncut = self.arguments.input
        self.input = self.uncut.detach()
        if is_known_nonnegative(self.uncut):
            mark_nonnegative(self.input)
        # `attribute` differentiates this call's output by it; other rules run the module again.
        if isinstance(self.rule, Proportional):
            self.input.requires_grad_(self.uncut.requires_grad)
        # A module that works in place would change the output of the layer before it.
        given = self.input.clone() if getattr(module, "inplace", False) else self.input
        return ((given,), {}) if self.arguments is None else self.arguments.with_input(given)

    def post_forward(self, module: nn.Module, input: Any, output: Tensor) -> Tensor:
        """Connect the output to the uncut input by `_Attribution`."""
        assert self.uncut is not None
        assert self.input is not None
        call = _Call(self, module, self.input, self.arguments, output, output._version)
        attributed: Tensor = _Attribution.apply(self.uncut, self.anchor, call)
        self.uncut = self.input = self.arguments = None
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
    module, arguments = call.module, call.arguments
    parameters = dict(module._parameters)
    forward, own = module.forward, module.__dict__.get("forward")

    def repeated(input: Tensor) -> Any:
        assert arguments is not None
        args, kwargs = arguments.with_input(input)
        return forward(*args, **kwargs)

    try:
        if arguments is not None:
            module.forward = repeated
        yield
    finally:
        module._parameters.update(parameters)
        if arguments is not None:
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
