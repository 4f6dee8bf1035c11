"""Relevance of a model's weights on batches of data; the rule is in `ecqx.relevance.attribution`.

Paper: section on LRP for weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import AttributeCanonizer, Canonizer
from zennit.core import Composite

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
    warn(attributor)
    return relevance


class Attributor:
    """Relevance of the weights of one model, batch after batch: `weight_relevance` of the batch.

    The rewriting of the model is determined once, and the rule of each module with the first batch,
    so the model must keep its modules. After each batch the model is restored.

    Attributes
    ----------
    labels : LabelCheck
        What is known of the labels so far.
    remarks : tuple of str
        What a user should know of the rules; known after the first batch. One names the types of
        modules, and operations, that have no rule (`ecqx.relevance.passage.Passage.names`).
    """

    def __init__(self, model: nn.Module, lrp: LRP | None = None) -> None:
        self.lrp = lrp or LRP()
        model = unwrapped(model)
        check_has_values(model)
        self.model = model
        self.names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        self.relevance: dict[str, Tensor] = {}
        self.labels = LabelCheck(waits=False)
        self.remarks: tuple[str, ...] = ()
        composite = build_composite(self.lrp.composite, self.lrp.additions)
        weight_rule = self.lrp.weight_rule
        self._free = _without_layer(model, composite)
        operations = Operations(build_operation_rules(self.lrp.composite), weight_rule, self._free)
        rules = with_weight_relevance(composite, self._receive, weight_rule)
        self.placement = RulePlacement(rules, operations)
        rewrites = build_canonizer(self.lrp.canonizer).apply(model)
        try:
            self.rewrites = [(rewrite, _attributes(rewrite)) for rewrite in rewrites]
        finally:
            for rewrite in rewrites:
                rewrite.remove()
        modules = list(model.modules())
        self.inplace = [module for module in modules if getattr(module, "inplace", False)]

    def __call__(self, inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
        inputs = each_tensor(inputs, _without_history)
        no_casts = torch.autocast(targets.device.type, enabled=False)
        try:
            with (
                _uncompiled(),
                no_casts,
                _own_forward(self.model),
                _full_precision(self.model),
                self._prepared(),
                torch.enable_grad(),
            ):
                if not self.placement.is_complete:
                    self.placement.place(self.model, lambda: called(self.model, inputs))
                with self.placement.attached(self.model):
                    self._measure(inputs, targets)
            found = self.relevance
        finally:
            self.relevance = {}
        return {name: found[name] for name in self.names.values() if name in found}

    def without_relevance(self, names: Sequence[str]) -> str:
        """Why the named parameters have none; names the first one."""
        free = {self.names[key] for key in self._free}
        unruled = [name for name in names if name in free]
        first, *others = unruled or names
        more = f" and {len(others)} more" if others else ""
        if unruled:
            return f"LRP has no rule for {first}{more}"
        return (
            f"no relevance reaches {first}{more}: it has no part in the output, is used without a "
            "call of its layer, or runs without gradients (no_grad, reentrant checkpointing)"
        )

    def _measure(self, inputs: Inputs, targets: Tensor) -> None:
        logits = main_output(called(self.model, inputs))
        if not self.placement.is_complete:
            self.placement.complete()
            self.remarks = tuple(self._remarks(logits))
        start = output_relevance(logits.detach(), targets, self.lrp.output, self.labels)
        if logits.requires_grad:
            self._propagate(logits, start)

    def _remarks(self, logits: Tensor) -> Iterator[str]:
        composite, used = self.lrp.composite, self.placement.operations.used
        unruled = self.placement.passage.names(logits, types_without_rule(composite))
        if unruled:
            yield (
                f"LRP has no rule for {', '.join(unruled)}: relevance passes there as a plain "
                "gradient, and may grow or vanish; use layers and functions that have rules "
                "(docs/method.md)"
            )
        attends = "softmax" in used and used & {"matmul", "bmm", "baddbmm", "einsum"}
        if (attends or "layer_norm" in used) and not composite.startswith("attnlrp"):
            yield (
                f"the network has {'attention' if attends else 'LayerNorm'}, for which the "
                f"composite attnlrp is made; {composite} is made for convolutional networks "
                "(docs/method.md)"
            )

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
    def _prepared(self) -> Iterator[None]:
        """The model rewritten, in eval mode, with gradients for the weights alone."""
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
            with evaluation_mode(self.model):
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


def _without_layer(model: nn.Module, composite: Composite) -> set[int]:
    """Identities of the parameters of more than one dimension whose module has no rule."""
    context: dict[str, Any] = {}
    free = set[int]()
    for name, module in model.named_modules():
        if composite.module_map(context, name, module) is None:
            own = module.parameters(recurse=False)
            free.update(id(parameter) for parameter in own if is_quantizable(parameter))
    return free


def warn(attributor: Attributor) -> None:
    """Give the remarks as `RelevanceWarning`."""
    for remark in attributor.remarks:
        text = f"{remark}; compare with ECQ (relevance=None)"
        warnings.warn(text, RelevanceWarning, stacklevel=3)
