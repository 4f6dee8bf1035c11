"""A quantizer within an optimizer's step, so that a training loop stays as it was.

The model's parameters stay in the optimizer: clipping, unscaling, ``zero_grad`` and
DistributedDataParallel see the gradients that they know. From the beginning of a step to its end
the parameters hold the latent weights and the gradients of these; then `update` follows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ecqx.modules import HALF, Inputs, main_output

if TYPE_CHECKING:
    from ecqx.quantizers.latent import LatentWeights

# Optimizers that cannot hold latent weights for the time of one step, and why.
REFUSED = {
    "LBFGS": "runs the model several times a step",
    "SparseAdam": "takes sparse gradients alone",
    "ZeroRedundancyOptimizer": "divides its parameters among processes once and for all",
}
SHARDED = ("FullyShardedDataParallel", "FSDPModule")


class ModelHooks:
    """Hooks of a model's calls, which remember the last training batch. Copies do nothing.

    Attributes
    ----------
    inputs : Tensor, tuple or dict, optional
    logits : Tensor, optional
        What the model returned, without its graph.
    """

    def __init__(self, attachment: Attachment | None = None) -> None:
        self.attachment = attachment
        self.inputs: Inputs | None = None
        self.logits: Tensor | None = None

    def __reduce__(self) -> tuple[type[ModelHooks], tuple[()]]:
        return ModelHooks, ()

    def before(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Let the model compute with its quantized weights after a step that broke off."""
        if self.attachment is not None:
            self.attachment.abandon()

    def after(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Remember the batch of a training."""
        if self.attachment is None or not (model.training and torch.is_grad_enabled()):
            return
        if not kwargs:
            self.inputs = args[0] if len(args) == 1 else args
        else:
            names = list(inspect.signature(model.forward).parameters) if args else []
            self.inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        self.logits = main_output(output).detach()

    def forget(self) -> None:
        self.inputs = self.logits = None


class _Exchange:
    """A weight with the values and the gradient of its latent weight, and with its own again."""

    def __init__(self, weight: nn.Parameter, latent: nn.Parameter, gradient: Tensor | None) -> None:
        self.weight, self.latent, self.gradient = weight, latent, gradient
        self.keeps_place = _is_captured()
        self.values = weight.detach().clone() if self.keeps_place else weight.data
        weight.grad = None
        if self.keeps_place:
            weight.copy_(latent)
        else:
            weight.data = latent.data
        weight.grad = latent.grad

    def undo(self) -> None:
        self.weight.grad = self.latent.grad = None
        if self.keeps_place:
            self.latent.copy_(self.weight)
            self.weight.copy_(self.values)
        else:
            self.weight.data = self.values
        self.weight.grad = self.gradient


class Attachment:
    """What `LatentWeights.attach` puts into an optimizer and a model. Copies are not attached.

    Attributes
    ----------
    targets : Tensor, optional
        Labels of the last batch; None: the model's own decision.
    is_transferring : bool
        Whether the quantizer is passing gradients on for this optimizer's step.
    """

    def __init__(
        self, quantizer: LatentWeights, optimizer: Optimizer, several_labels: bool
    ) -> None:
        self.quantizer, self.optimizer = quantizer, _unwrapped(optimizer)
        self.several_labels = several_labels
        self.targets: Tensor | None = None
        self.is_transferring = False
        self._exchanged: list[_Exchange] = []
        # How many steps of base classes, by super().step(), run within the optimizer's own.
        self._nested = 0
        # Of each quantized weight a copy that the optimizer steps, for relevance of ``stepped``.
        self._copies: dict[str, nn.Parameter] = {}
        self._loaded: dict[str, Any] = {}
        # What the quantizer trains beside weights: step sizes, centroids.
        known = {*quantizer.latent.values(), *quantizer.model.parameters()}
        explicit = (p for group in quantizer.parameter_groups() for p in group["params"])
        self._numbers = [p for p in explicit if p not in known]
        self._check()
        if self._numbers:
            self._add_numbers()
        self._add_copies()
        self._batch = ModelHooks(self)
        self._handles = self._hooks(self.optimizer)
        if any(weight.dtype in HALF for weight in quantizer.weights.values()):
            # The state of earlier steps in float32, as the latent weights are.
            self.optimizer.load_state_dict(self.optimizer.state_dict())

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def _hooks(self, optimizer: Optimizer) -> list[Any]:
        # A compiled step runs them as they are.
        eager: Callable[[Any], Any] = torch.compiler.disable
        model = self.quantizer.model
        handles: list[Any] = [
            optimizer.register_step_pre_hook(eager(self._before_step)),
            optimizer.register_step_post_hook(eager(self._after_step)),
            optimizer.register_state_dict_post_hook(self._after_saving),
            optimizer.register_load_state_dict_pre_hook(self._before_loading),
            optimizer.register_load_state_dict_post_hook(self._after_loading),
            model.register_forward_pre_hook(self._batch.before),
        ]
        if self.quantizer.needs_batch:
            handles.append(model.register_forward_hook(self._batch.after, with_kwargs=True))
        return handles

    def _check(self) -> None:
        """Raise ``ValueError`` if the optimizer cannot train the latent weights."""
        for module in self.quantizer.model.modules():
            if any(kind.__name__ in SHARDED for kind in type(module).__mro__):
                raise ValueError(
                    "attach: the model is sharded (FSDP), and a quantizer needs whole weights; "
                    "use DistributedDataParallel"
                )
        kind = type(self.optimizer).__name__
        if kind in REFUSED:
            raise ValueError(f"attach: {kind} {REFUSED[kind]}; use another optimizer, such as Adam")
        held = {p for group in self.optimizer.param_groups for p in group["params"]}
        if not held.isdisjoint(self.quantizer.latent.values()):
            raise ValueError(
                "attach: the optimizer was made from parameter_groups(); make it from "
                "model.parameters(), or call transfer_gradients and update yourself"
            )
        for name, weight in self.quantizer.weights.items():
            if weight.requires_grad and weight not in held:
                raise ValueError(
                    f"attach: the optimizer does not hold {name}; make it from the parameters of "
                    "the model that is quantized (several optimizers: transfer_gradients, update)"
                )

    def _add_numbers(self) -> None:
        """Give the optimizer the trained numbers, as a group without weight decay."""
        groups, weights = self.optimizer.param_groups, {*self.quantizer.weights.values()}
        group = {**next((g for g in groups if not weights.isdisjoint(g["params"])), groups[0])}
        if "initial_lr" in group:
            raise ValueError(
                "attach: make the learning rate's scheduler after attach, which adds the trained "
                "centroids to the optimizer"
            )
        group |= {"params": self._numbers, "weight_decay": 0.0}
        if group.pop("param_names", None) is not None:
            group["params"] = [(f"numbers.{i}", p) for i, p in enumerate(self._numbers)]
        self.optimizer.add_param_group(group)

    def _add_copies(self) -> None:
        """Give the optimizer a copy of each weight that it holds, for relevance of ``stepped``."""
        if not self.quantizer.steps_quantized:
            return
        names = {weight: name for name, weight in self.quantizer.weights.items()}
        for group in self.optimizer.param_groups:
            for parameter in tuple(group["params"]):
                name = names.get(parameter)
                if name is not None and name not in self._copies:
                    self._copies[name] = nn.Parameter(parameter.detach())
                    group["params"].append(self._copies[name])
                    if "param_names" in group:
                        group["param_names"].append(f"stepped.{name}")

    def detach(self) -> None:
        """Take everything out of optimizer and model again."""
        self.abandon()
        for handle in self._handles:
            handle.remove()
        added, groups = {*self._copies.values(), *self._numbers}, self.optimizer.param_groups
        for group in groups:
            kept = [i for i, p in enumerate(group["params"]) if p not in added]
            for key in {"params", "param_names"} & group.keys():
                group[key][:] = [group[key][i] for i in kept]
        if self._numbers:
            groups[:] = [group for group in groups if group["params"]]
        for parameter in added:
            self.optimizer.state.pop(parameter, None)
        # An explicit loop would add to them: its optimizer does not hold these weights.
        for weight in self.quantizer.weights.values():
            weight.grad = None

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Let the optimizer find latent weights, if it has a closure, after that."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._enter()
            return None
        self.abandon()
        entering = self._then_enter(closure)
        if len(args) > 1:
            return (args[0], entering, *args[2:]), kwargs
        return args, {**kwargs, "closure": entering}

    def _then_enter(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def entering() -> Any:
            if self._exchanged:
                self.abandon()
                kind = type(self.optimizer).__name__
                raise ValueError(
                    f"attach: {kind} calls its closure several times a step; use another optimizer"
                )
            result = closure()
            self._enter()
            return result

        return entering

    @torch.no_grad()
    def _enter(self) -> None:
        """Put latent weights and their gradients into the parameters."""
        if self._exchanged:
            self._nested += 1
            return
        quantizer = self.quantizer
        gradients = {name: weight.grad for name, weight in quantizer.weights.items()}
        if quantizer.needs_batch and self._batch.inputs is None:
            if all(gradient is None for gradient in gradients.values()):
                return
            raise ValueError(
                "attach: relevance needs the batch, but since the last step the model was not "
                "called as a whole, by model(x), in training mode with gradients; call "
                "model.train(), or transfer_gradients and update yourself"
            )
        # The optimizer may have been given more parameters.
        self._add_copies()
        self.is_transferring = True
        try:
            quantizer.transfer_gradients()
        finally:
            self.is_transferring = False
        for name, copy in self._copies.items():
            copy.grad = quantizer.weights[name].grad
        self._exchange(gradients)

    def _exchange(self, gradients: dict[str, Tensor | None]) -> None:
        for name, weight in self.quantizer.weights.items():
            exchange = _Exchange(weight, self.quantizer.latent[name], gradients[name])
            self._exchanged.append(exchange)
            if name in self._copies:
                self._copies[name].data = exchange.values

    @torch.no_grad()
    def _leave(self) -> None:
        """Take the latent weights out of the parameters; gradients are as before."""
        for exchange in self._exchanged:
            exchange.undo()
        for parameter in (*self._copies.values(), *self._numbers):
            parameter.grad = None
        self._exchanged, self._nested = [], 0

    def _after_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Take the latent weights back, and compute the quantized ones."""
        if self._nested:
            self._nested -= 1
            return
        if not self._exchanged:
            return
        self._leave()
        nothing = torch.empty(0, device="cpu")
        inputs = nothing if self._batch.inputs is None else self._batch.inputs
        targets = nothing if self._batch.logits is None else self._labels(self._batch.logits)
        try:
            self.quantizer.update(inputs, targets)
        finally:
            self._batch.forget()
            self.targets = None

    def _labels(self, logits: Tensor) -> Tensor:
        """The targets of the last batch, or the model's decision."""
        if self.targets is not None:
            return self.targets
        if self.several_labels or logits.ndim < 2 or logits.shape[1] == 1:
            return (logits > 0).to(logits.dtype)
        return logits.argmax(dim=1)

    def abandon(self) -> None:
        """Undo a step that was begun and not finished, because the optimizer raised an error."""
        if not self._exchanged:
            return
        for exchange in self._exchanged:
            if exchange.weight.grad is None or not exchange.weight.grad.any():
                # By ``zero_grad`` since then.
                exchange.gradient = None
        self._leave()
        self.quantizer.rewrite()

    def _after_saving(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Save the quantizer with its optimizer: a model's own state has no latent weights."""
        state["quantizer"] = self.quantizer.state_dict()

    @torch.no_grad()
    def _before_loading(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Exchange, because torch gives an optimizer's state the data type of its parameter."""
        self.abandon()
        self._loaded = state.get("quantizer", {})
        self._exchange({name: weight.grad for name, weight in self.quantizer.weights.items()})

    def _after_loading(self, optimizer: Optimizer) -> None:
        self._leave()
        if self._loaded:
            self.quantizer.load_state_dict(self._loaded)
        self._loaded = {}


def _unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer inside the wrapper of accelerate or Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise ValueError(f"attach: a {kind} is no torch.optim.Optimizer")
    return optimizer


def _is_captured() -> bool:
    """Whether a CUDA graph is recorded, in which a weight has to keep its place in memory."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
