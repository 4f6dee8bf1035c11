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


class RulePlacement:
    """The hooks of a model's modules.

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
        self.is_complete = False

    def place(self, model: nn.Module, run: Callable[[], object]) -> None:
        """Choose the hooks; ``run`` calls the model, which shows the order of the modules.

        Modules that are not called come last, in case a later batch calls them.
        """
        called: dict[nn.Module, None] = {}

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            called.setdefault(module)

        names = {module: name for name, module in model.named_modules()}
        handles = [module.register_forward_pre_hook(note) for module in names]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        # An earlier first batch may have failed.
        self.hooks, self.passage = {}, Passage()
        context: dict[str, Any] = {}
        for module in called | dict.fromkeys(names):
            hook = self.rules.module_map(context, names[module], module)
            if hook is not None:
                self.hooks[module] = hook.copy()

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The model with its hooks."""
        self.operations.weights = {}
        with ExitStack() as attached:
            for module, hook in self.hooks.items():
                attached.callback(hook.register(module).remove)
            for module in () if self.is_complete else model.modules():
                if module not in self.hooks:
                    claim = module.register_forward_hook(self.passage.claim, with_kwargs=True)
                    attached.callback(claim.remove)
            if self.operations.used or not self.is_complete:
                attached.enter_context(self.operations)
            yield

    def complete(self) -> None:
        """End the first batch; ``ValueError`` if nothing has a rule."""
        if not self.hooks and not self.operations.used:
            raise ValueError("no layer of the model has a rule of relevance; use ECQ")
        self.is_complete = True
