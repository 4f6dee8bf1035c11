"""Relevance of a model's weights on batches of data; the rule is in `ecqx.relevance.attribution`.

Paper: section on LRP for weights.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import AttributeCanonizer, Canonizer

from ecqx.modules import (
    HALF,
    IGNORED_LABEL,
    check_has_values,
    evaluation_mode,
    is_weight,
    main_output,
    plain_name,
    unwrapped,
)
from ecqx.relevance.attribution import WeightRelevanceHook, with_weight_relevance
from ecqx.relevance.canonizers import build_canonizer
from ecqx.relevance.composites import build_composite
from ecqx.relevance.settings import (
    DEFAULT_CANONIZER,
    DEFAULT_COMPOSITE,
    LRP,
    Output,
    WeightRule,
)


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
        eval mode and in float32, and restored afterwards. Unwrapped from DataParallel, so that
        parameter names are those of the model itself.
    inputs : Tensor, shape (B, …)
    targets : Tensor
        Classes, shape (B,); several labels, shape (B, C) of 0 and 1; or a label per pixel, shape
        (B, H, W), where 255 is ignored.
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
        the weights (`ecqx.modules.is_weight`) of layers that the composite has a rule for.

    Raises
    ------
    ValueError
        If a name is unknown, shapes do not fit, or a layer has no rule.
    """
    lrp = LRP(composite, canonizer, output, weight_rule)
    return Attributor(model, lrp)(inputs, targets)


class Attributor:
    """Relevance of the weights of one model, batch after batch: `weight_relevance` of the batch.

    The rule of each module and the rewriting of the model are determined once, so the model must
    keep its modules. After each batch the model is restored.
    """

    def __init__(self, model: nn.Module, lrp: LRP | None = None) -> None:
        lrp = lrp or LRP()
        model = unwrapped(model)
        check_has_values(model)
        self.model, self.output = model, lrp.output
        self.names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        self.relevance: dict[str, Tensor] = {}
        composite = build_composite(lrp.composite)
        rules = with_weight_relevance(composite, self._receive, lrp.weight_rule)
        rewrites = build_canonizer(lrp.canonizer).apply(model)
        try:
            self.rewrites = [(rewrite, _attributes(rewrite)) for rewrite in rewrites]
            context: dict[str, Any] = {}
            self.hooks: list[tuple[nn.Module, WeightRelevanceHook]] = []
            for name, module in model.named_modules():
                hook = rules.module_map(context, name, module)
                if hook is not None:
                    self.hooks.append((module, hook.copy()))
        finally:
            for rewrite in rewrites:
                rewrite.remove()
        if not self.hooks:
            raise ValueError(f"no layer of the model has a rule in {lrp.composite}; use ECQ")
        modules = list(model.modules())
        self.inplace = [module for module in modules if getattr(module, "inplace", False)]

    def __call__(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        anchors = [hook.anchor for _, hook in self.hooks]
        inputs = inputs.detach()
        try:
            no_casts = torch.autocast(inputs.device.type, enabled=False)
            with (
                _uncompiled(),
                no_casts,
                _full_precision(self.model),
                self._attached(),
                torch.enable_grad(),
            ):
                logits = main_output(self.model(inputs.float() if _is_half(inputs) else inputs))
                start = output_relevance(logits.detach(), targets, self.output)
                torch.autograd.grad(logits, anchors, start, allow_unused=True)
            found = self.relevance
        finally:
            self.relevance = {}
        return {name: found[name] for name in self.names.values() if name in found}

    def _receive(self, parameter: nn.Parameter, relevance: Tensor) -> None:
        """Add the relevance of a parameter from one call of its module."""
        name = self.names[id(parameter)]
        earlier = self.relevance.get(name)
        self.relevance[name] = relevance if earlier is None else earlier + relevance

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The model rewritten, with hooks, in eval mode, with gradients for the weights alone."""
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        done: list[Any] = []
        try:
            for rewrite, attributes in self.rewrites:
                rewrite.register(rewrite.module, *attributes)
                done.append(rewrite)
            done += [hook.register(module) for module, hook in self.hooks]
            for module in self.inplace:
                module.inplace = False  # type: ignore[assignment]
            for p, _ in flags:
                p.requires_grad_(is_weight(p))
            with evaluation_mode(self.model):
                yield
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)
            for module in self.inplace:
                module.inplace = True  # type: ignore[assignment]
            for attached in reversed(done):
                attached.remove()


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


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in HALF


def _attributes(rewrite: Canonizer) -> list[dict[str, Any]]:
    """The arguments that ``rewrite.register`` takes beside the module."""
    if not isinstance(rewrite, AttributeCanonizer):
        return []
    return [{key: getattr(rewrite.module, key) for key in rewrite.attribute_keys}]


def output_relevance(logits: Tensor, targets: Tensor, output: Output) -> Tensor:
    """Relevance at the network's output, shape of ``logits``: zero but at the targets' logits.

    Logits have shape (B, C) or (B, C, H, W); ``targets`` and ``output`` as for `weight_relevance`.

    Raises
    ------
    ValueError
        If the shape of the targets does not fit the logits.
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


def layers_without_rule(model: nn.Module, composite: str) -> list[str]:
    """Names of the weights whose layer has no rule in a composite."""
    built, context = build_composite(composite), dict[str, Any]()
    missing = []
    for prefix, module in model.named_modules():
        if built.module_map(context, prefix, module) is None:
            own = module.named_parameters(prefix, recurse=False)
            missing += [plain_name(name) for name, parameter in own if is_weight(parameter)]
    return missing


def check_rules(model: nn.Module, composite: str, names: Container[str]) -> None:
    """Raise ``ValueError`` for the first of the named parameters whose layer has no rule."""
    for name in layers_without_rule(model, composite):
        if name in names:
            raise ValueError(f"LRP has no rule for {name}; exclude it or use ECQ (relevance=None)")
