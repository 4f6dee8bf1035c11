"""What a network calls as functions, where hooks of modules do not see it: ``x + y``, softmax.

A ``TorchFunctionMode`` sees such a call and gives it its rule (`ecqx.relevance.operation_rules`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from ecqx.relevance.passage import carries_relevance, parameter_behind
from ecqx.relevance.settings import WeightRule

# Functions that multiply by weights; "matmul" is ``@``.
PRODUCTS = ("linear", "matmul", "mm", "bmm", "mv", "dot", "inner", "einsum")
ADDED_PRODUCTS = ("addmm", "baddbmm")
ATTENTION = "multi_head_attention_forward"
_WITH_WEIGHTS = frozenset((*PRODUCTS, *ADDED_PRODUCTS, ATTENTION))

# Where an argument stands: its position, or its keyword.
Place = int | str


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __getitem__(self, place: Place) -> Any:
        return self.args[place] if isinstance(place, int) else self.kwargs[place]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by keyword."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def places(self) -> Iterator[Place]:
        """The places of all tensors."""
        given: list[tuple[Place, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        yield from (place for place, value in given if isinstance(value, Tensor))

    def with_values(self, values: Mapping[Place, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with others at some places."""
        args = tuple(values.get(i, value) for i, value in enumerate(self.args))
        return args, {name: values.get(name, value) for name, value in self.kwargs.items()}


@dataclass(frozen=True)
class Operation(Arguments):
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
    carriers: tuple[Place, ...] = ()

    def operands(self) -> list[Tensor]:
        """The tensors that carry relevance."""
        return [self[place] for place in self.carriers]

    def run(self, values: Mapping[Place, Tensor] | None = None) -> Any:
        """Call the function with other tensors at some places; nothing is changed in place."""
        args, kwargs = self.with_values(values or {})
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
    free : collection of int
        Identities of the parameters that belong to no layer with a rule. A product with one of
        them has its rule even if its input carries no relevance: it may be the first layer.

    Attributes
    ----------
    weights : dict of int to Parameter
        What a linear operation has multiplied by, by identity. After the backward pass the
        gradients of these parameters are their relevances.
    used : set of str
        Names of the operations that had a rule.
    """

    def __init__(
        self,
        rules: Mapping[str, OperationRule],
        weight_rule: WeightRule,
        free: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.rules, self.weight_rule, self.free = rules, weight_rule, free
        self.weights: dict[int, nn.Parameter] = {}
        self.used: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            # Checkpointing runs parts of the network again in the backward pass.
            return self.by_own_code(func, args, kwargs)
        name = getattr(func, "__name__", "")
        rule = self.rules.get(name.removesuffix("_") if name[:1] != "_" else name)
        if rule is None:
            return func(*args, **kwargs)
        operation = Operation(args, kwargs, self, func)
        carriers = tuple(p for p in operation.places() if carries_relevance(operation[p]))
        if not carriers and not (name in _WITH_WEIGHTS and self._has_free_weight(operation)):
            return func(*args, **kwargs)
        self.used.add(name)
        if not name.endswith("_") or name.startswith("_"):
            return rule(replace(operation, carriers=carriers))
        # In place: the rule works with the values of before.
        changed = args[0]
        plain = name.removesuffix("_")
        function = getattr(torch, plain, None) or getattr(F, plain)
        before = (changed.clone(), *args[1:])
        return changed.copy_(rule(Operation(before, kwargs, self, function, carriers)))

    def _has_free_weight(self, operation: Operation) -> bool:
        parameters = (parameter_behind(operation[place]) for place in operation.places())
        return any(p is not None and id(p) in self.free for p in parameters)

    def by_own_code(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function of torch that is written in Python; the operations in it have rules."""
        # As it is, it would ask for its own rule again.
        own = {**function.__globals__, "has_torch_function": lambda tensors: False}
        body = FunctionType(function.__code__, own, function.__name__, function.__defaults__)
        body.__kwdefaults__ = function.__kwdefaults__
        with self:
            return body(*args, **kwargs)
