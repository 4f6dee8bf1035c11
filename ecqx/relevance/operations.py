"""What a network calls as functions, where hooks of modules do not see it: ``x + y``, softmax.

A ``TorchFunctionMode`` sees such a call and gives it its rule (`ecqx.relevance.operation_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from ecqx.relevance.passage import carries_relevance
from ecqx.relevance.settings import WeightRule

ATTENTION = "multi_head_attention_forward"


@dataclass(frozen=True)
class Operation:
    """One call of a function.

    Attributes
    ----------
    mode : Operations
        Within it, what a rule calls has rules, too.
    carriers : tuple of int or str
        Places of the operands that relevance flows to: activations, not constants.
    """

    mode: Operations
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    carriers: tuple[int | str, ...] = ()

    def __getitem__(self, place: int | str) -> Any:
        return self.args[place] if isinstance(place, int) else self.kwargs[place]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by keyword."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def operands(self) -> list[Tensor]:
        """The tensors that carry relevance."""
        return [self[place] for place in self.carriers]

    def places(self) -> Iterator[int | str]:
        """The places of all tensors among the arguments."""
        given: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        yield from (place for place, value in given if isinstance(value, Tensor))

    def run(self, values: Mapping[int | str, Tensor] | None = None) -> Any:
        """Call the function with other tensors at some places; nothing is changed in place."""
        values = values or {}
        args = tuple(values.get(i, value) for i, value in enumerate(self.args))
        kwargs = {name: values.get(name, value) for name, value in self.kwargs.items()}
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        return self.function(*args, **kwargs)


OperationRule = Callable[[Operation], Any]


class Operations(TorchFunctionMode):
    """Gives operations their rules.

    Parameters
    ----------
    rules : mapping of str to callable
        Rules by the names of functions and methods of torch.
    weight_rule : {"epsilon", "gamma"}
        See `WeightRelevanceHook`.

    Attributes
    ----------
    weights : dict of int to Parameter
        What a linear operation has multiplied by, by identity. After the backward pass the
        gradients of these parameters are their relevances.
    is_used : bool
        Whether any operation had a rule.
    """

    def __init__(self, rules: Mapping[str, OperationRule], weight_rule: WeightRule) -> None:
        super().__init__()
        self.rules, self.weight_rule = rules, weight_rule
        self.weights: dict[int, nn.Parameter] = {}
        self.is_used = False
        self.in_attention = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            # Checkpointing runs parts of the network again in the backward pass.
            return self._by_own_code(func, args, kwargs)
        name = getattr(func, "__name__", "")
        rule = self.rules.get(name.removesuffix("_") if name[:1] != "_" else name)
        if rule is None:
            return func(*args, **kwargs)
        operation = Operation(self, func, args, kwargs)
        carriers = tuple(p for p in operation.places() if carries_relevance(operation[p]))
        # The first layer may be attention, whose input carries no relevance, but whose weights do.
        is_first = name == ATTENTION or (name == "linear" and self.in_attention)
        if not carriers and not is_first:
            return func(*args, **kwargs)
        self.is_used = True
        if not name.endswith("_") or name.startswith("_"):
            return rule(replace(operation, carriers=carriers))
        # In place: the rule works with the values of before.
        changed = args[0]
        plain = name.removesuffix("_")
        function = getattr(torch, plain, None) or getattr(F, plain)
        before = (changed.clone(), *args[1:])
        return changed.copy_(rule(Operation(self, function, before, kwargs, carriers)))

    def _by_own_code(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of torch that is written in Python; the operations in it have rules."""
        # As it is, it would ask for its own rule again.
        own = {**function.__globals__, "has_torch_function": lambda tensors: False}
        body = FunctionType(function.__code__, own, function.__name__, function.__defaults__)
        body.__kwdefaults__ = function.__kwdefaults__
        with self:
            return body(*args, **kwargs)

    def attend(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Multi-head attention by torch's own code."""
        self.in_attention, before = True, self.in_attention
        try:
            return self._by_own_code(function, args, kwargs)
        finally:
            self.in_attention = before
