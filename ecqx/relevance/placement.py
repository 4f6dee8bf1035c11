"""Which module has which rule: composites are asked in the order in which modules are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from zennit.core import Composite

from ecqx.relevance.attribution import WeightRelevanceHook
from ecqx.relevance.operations import Operations
from ecqx.relevance.passage import Passage

# What a hook in front of a module returns: its arguments.
_Call = tuple[tuple[Any, ...], dict[str, Any]]


class RulePlacement:
    """The hooks of a model's modules, found while its first batch is on the way.

    The rule of a first layer (Flat) is for the first one in execution, whatever the order in which
    layers were assigned to attributes.

    Parameters
    ----------
    rules : Composite
        Its rules are `WeightRelevanceHook`.
    operations : Operations
        The rules of functions. If the first batch calls none of them, later ones are not observed,
        which takes no time then.

    Attributes
    ----------
    hooks : dict of Module to WeightRelevanceHook
    passage : Passage
        What the first batch passed outside these modules.
    is_complete : bool
        Whether a first batch has passed.
    """

    def __init__(self, rules: Composite, operations: Operations) -> None:
        self.rules, self.operations = rules, operations
        self.hooks: dict[nn.Module, WeightRelevanceHook] = {}
        self.passage = Passage()
        self._context: dict[str, Any] = {}
        self.is_complete = False

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The model with its hooks; its pass in the block gives them out if there are none yet."""
        if not self.is_complete:
            # A pass that failed may have begun.
            self.hooks, self._context, self.passage = {}, {}, Passage()
        self.operations.weights = {}
        with ExitStack() as attached:
            for module, hook in self.hooks.items():
                attached.callback(hook.register(module).remove)
            for name, module in () if self.is_complete else model.named_modules():
                first = self._at_its_first_call(name, attached)
                handle = module.register_forward_pre_hook(first, with_kwargs=True)
                attached.callback(handle.remove)
            if self.operations.is_used or not self.is_complete:
                attached.enter_context(self.operations)
            yield

    def _at_its_first_call(
        self, name: str, attached: ExitStack
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], _Call | None]:
        """A hook that gives a module its rule when it is called for the first time."""
        was_called = False

        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
            nonlocal was_called
            if was_called:
                return None
            was_called = True
            hook = self.rules.module_map(self._context, name, module)
            if hook is None:
                claim = module.register_forward_hook(self.passage.claim, with_kwargs=True)
                attached.callback(claim.remove)
                return None
            self.hooks[module] = hook.copy()
            attached.callback(self.hooks[module].register(module).remove)
            # A hook that is registered during a call comes into effect behind the module.
            return self.hooks[module].pre_forward(module, args, kwargs)

        return give

    def complete(self, model: nn.Module) -> None:
        """Give the modules that the first pass did not call their rules, in case a later one does.

        ``ValueError`` if no module has a rule.
        """
        for name, module in model.named_modules():
            if module not in self.hooks:
                hook = self.rules.module_map(self._context, name, module)
                if hook is not None:
                    self.hooks[module] = hook.copy()
        if not self.hooks and not self.operations.is_used:
            raise ValueError("no layer of the model has a rule of relevance; use ECQ")
        self.is_complete = True
