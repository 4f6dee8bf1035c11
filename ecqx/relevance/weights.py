"""Relevance of a model's weights on batches of data; the rule is in `ecqx.relevance.attribution`.

Paper: section on LRP for weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import AttributeCanonizer, Canonizer

from ecqx.modules import (
    HALF,
    Inputs,
    called,
    check_has_values,
    each_tensor,
    evaluation_mode,
    is_quantizable,
    main_output,
    plain_name,
    unwrapped,
)
from ecqx.relevance.attribution import with_weight_relevance
from ecqx.relevance.canonizers import build_canonizer
from ecqx.relevance.composites import (
    build_composite,
    build_operation_rules,
    types_without_rule,
)
from ecqx.relevance.operations import Operations
from ecqx.relevance.output import LabelCheck, output_relevance
from ecqx.relevance.placement import RulePlacement
from ecqx.relevance.settings import (
    DEFAULT_CANONIZER,
    DEFAULT_COMPOSITE,
    LRP,
    Output,
    RelevanceWarning,
    WeightRule,
)


def weight_relevance(
    model: nn.Module,
    inputs: Inputs,
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
        Returns logits, shape (B, C) or (B, C, H, W), or a dict with them under ``"out"`` or
        ``"logits"``. Used in eval mode and in float32, and restored afterwards. Unwrapped from
        DataParallel, so that parameter names are those of the model itself.
    inputs : Tensor, shape (B, …)
        Or a tuple of the model's positional arguments, or a dict of its keyword arguments.
    targets : Tensor
        Classes, shape (B,), where -100 is ignored; several labels, shape (B, C) of 0 and 1; or a
        label per pixel, shape (B, H, W), where -100 is ignored, and 255 if it is no class.
    composite, canonizer : str
        One of `ecqx.relevance.COMPOSITES` and of `ecqx.relevance.CANONIZERS`.
    output : {"output", "probability", "ones"}
        Relevance at the target's logit: the logit, its softmax (sigmoid for several labels), or
        one; each divided by the batch size.
    weight_rule : {"epsilon", "gamma"}
        See `WeightRelevanceHook`.

    Returns
    -------
    dict of str to Tensor
        Signed relevance by parameter name, summed over the batch, shape of the parameter; for
        the parameters of more than one dimension of layers that the composite has a rule for.

    Raises
    ------
    ValueError
        If a name is unknown, shapes do not fit, a label is out of range, or a layer has no rule.
    """
    lrp = LRP(composite, canonizer, output, weight_rule)
    attributor = Attributor(model, lrp)
    relevance = attributor(inputs, targets)
    attributor.labels.finish()
    warn_of_unruled(attributor)
    return relevance


class Attributor:
    """Relevance of the weights of one model, batch after batch: `weight_relevance` of the batch.

    The rewriting of the model is determined once, and the rule of each module with the first batch,
    so the model must keep its modules. After each batch the model is restored.

    Attributes
    ----------
    labels : LabelCheck
        What is known of the labels so far.
    unruled : tuple of str
        Types of modules, and operations, through which relevance passes as a plain gradient for
        want of a rule (`ecqx.relevance.passage.Passage.names`); known after the first batch.
    """

    def __init__(self, model: nn.Module, lrp: LRP | None = None) -> None:
        lrp = lrp or LRP()
        model = unwrapped(model)
        check_has_values(model)
        self.model, self.output = model, lrp.output
        self.names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        self.relevance: dict[str, Tensor] = {}
        self.labels = LabelCheck(waits=False)
        self.unruled: tuple[str, ...] = ()
        self._without_rule = types_without_rule(lrp.composite)
        rules = with_weight_relevance(
            build_composite(lrp.composite, lrp.additions), self._receive, lrp.weight_rule
        )
        operations = Operations(build_operation_rules(lrp.composite), lrp.weight_rule)
        self.placement = RulePlacement(rules, operations)
        rewrites = build_canonizer(lrp.canonizer).apply(model)
        try:
            self.rewrites = [(rewrite, _attributes(rewrite)) for rewrite in rewrites]
        finally:
            for rewrite in rewrites:
                rewrite.remove()
        modules = list(model.modules())
        self.inplace = [module for module in modules if getattr(module, "inplace", False)]

    def __call__(self, inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
        inputs = each_tensor(inputs, _without_history)
        try:
            no_casts = torch.autocast(targets.device.type, enabled=False)
            with (
                _uncompiled(),
                no_casts,
                _own_forward(self.model),
                _full_precision(self.model),
                self._attached(),
                torch.enable_grad(),
            ):
                logits = main_output(called(self.model, inputs))
                if not self.placement.is_complete:
                    self.placement.complete(self.model)
                    self.unruled = self.placement.passage.names(logits, self._without_rule)
                start = output_relevance(logits.detach(), targets, self.output, self.labels)
                if logits.requires_grad:
                    self._propagate(logits, start)
            found = self.relevance
        finally:
            self.relevance = {}
        return {name: found[name] for name in self.names.values() if name in found}

    def _propagate(self, logits: Tensor, start: Tensor) -> None:
        """Run the backward pass, in which the hooks measure."""
        anchors = [hook.anchor for hook in self.placement.hooks.values()]
        weights = self.placement.operations.weights.values()
        try:
            gradients = torch.autograd.grad(logits, [*anchors, *weights], start, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" in str(error):
                raise ValueError(
                    "relevance cannot pass reentrant checkpointing; call "
                    "torch.utils.checkpoint.checkpoint with use_reentrant=False"
                ) from error
            raise
        for weight, relevance in zip(weights, gradients[len(anchors) :], strict=True):
            if relevance is not None and id(weight) in self.names:
                self._receive(weight, relevance)

    def _receive(self, parameter: nn.Parameter, relevance: Tensor) -> None:
        """Add the relevance of a parameter from one call of its module."""
        name = self.names[id(parameter)]
        earlier = self.relevance.get(name)
        self.relevance[name] = relevance if earlier is None else earlier + relevance

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The model rewritten, with hooks, in eval mode, with gradients for the weights alone."""
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        done: list[Canonizer] = []
        try:
            for rewrite, attributes in self.rewrites:
                rewrite.register(rewrite.module, *attributes)
                done.append(rewrite)
            for module in self.inplace:
                module.inplace = False  # type: ignore[assignment]
            for p, _ in flags:
                p.requires_grad_(is_quantizable(p))
            with self.placement.attached(self.model), evaluation_mode(self.model):
                yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
            for module in self.inplace:
                module.inplace = True  # type: ignore[assignment]
            for rewrite in reversed(done):
                rewrite.remove()


def _uncompiled() -> AbstractContextManager[object]:
    """No use of compiled code, which does not see hooks."""
    if "torch._dynamo" in sys.modules:
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager
    return nullcontext()


@contextmanager
def _full_precision(model: nn.Module) -> Iterator[None]:
    """Half-precision parameters and buffers as float32: in half precision ε would be lost."""
    halves = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if _is_half(t)]
    try:
        for tensor, data in halves:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in halves:
            tensor.data = data


@contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """The model without the ``autocast`` that accelerate puts around its ``forward``."""
    given, own = (model.__dict__.get(name) for name in ("forward", "_original_forward"))
    if given is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = given


def _without_history(tensor: Tensor) -> Tensor:
    """An input in full precision and without its graph."""
    tensor = tensor.detach()
    return tensor.float() if _is_half(tensor) else tensor


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in HALF


def _attributes(rewrite: Canonizer) -> list[dict[str, Any]]:
    """The arguments that ``rewrite.register`` takes beside the module."""
    if not isinstance(rewrite, AttributeCanonizer):
        return []
    return [{key: getattr(rewrite.module, key) for key in rewrite.attribute_keys}]


def warn_of_unruled(attributor: Attributor) -> None:
    """Name what relevance passes without a rule, in one `RelevanceWarning`."""
    if attributor.unruled:
        warnings.warn(
            f"{without_rule(attributor.unruled)}; compare with ECQ (relevance=None)",
            RelevanceWarning,
            stacklevel=3,
        )


def without_rule(names: Sequence[str]) -> str:
    """The remark on what has no rule, to be continued by what to do."""
    return (
        f"LRP has no rule for {', '.join(names)}: relevance passes there as a plain gradient, and "
        "may grow or vanish; use layers and functions that have rules (docs/method.md)"
    )


def layers_without_rule(model: nn.Module, composite: str) -> list[str]:
    """Names of the parameters of more than one dimension whose layer has no rule."""
    built, context = build_composite(composite), dict[str, Any]()
    missing = []
    for prefix, module in model.named_modules():
        # The matrices of torch's attention are used by functions.
        is_ruled = built.module_map(context, prefix, module) is not None
        if not is_ruled and not isinstance(module, nn.MultiheadAttention):
            own = module.named_parameters(prefix, recurse=False)
            missing += [plain_name(name) for name, parameter in own if is_quantizable(parameter)]
    return missing


def check_rules(model: nn.Module, composite: str, names: Container[str]) -> None:
    """Raise ``ValueError`` for the first of the named parameters whose layer has no rule."""
    for name in layers_without_rule(model, composite):
        if name in names:
            raise ValueError(f"LRP has no rule for {name}; exclude it or use ECQ (relevance=None)")
