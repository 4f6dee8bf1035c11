"""Latent weights: the full-precision copies of a model's quantized weights, which are trained.

The model itself holds the quantized weights as plain parameters. Their gradients are passed on to
the latent weights, the optimizer steps those, and the quantized weights are computed from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ecqx.coding.storable import check_state
from ecqx.coding.tensor_files import section
from ecqx.modules import (
    HALF,
    Inputs,
    load_state,
    named_parameters,
    state_of,
    unwrapped,
)
from ecqx.quantizers.attach import Attachment
from ecqx.quantizers.parameters import survey, used_parts, warn_of_unknown_layers

_T = TypeVar("_T")


class LatentWeights(ABC):
    """A model whose weights are quantized, with their latent weights, in any training loop.

    Parameters
    ----------
    model : Module
        Changed in place. Unwrapped from DataParallel or ``torch.compile``, so that parameter names
        are those of the model itself.
    exclude, include : sequence of str
        As in `ecqx.quantizers.settings.QuantizerSettings`. A part that is in no name causes a
        warning.

    Attributes
    ----------
    model : Module
    survey : list of ModelParameter
        All parameters of the model, and why some are not quantized.
    weights, latent : dict of str to Parameter
        By name: the quantized weights in the model, and their latent weights, float32 where the
        weights have half precision.

    Raises
    ------
    ValueError
        If nothing is left to quantize, a parameter cannot be quantized
        (`ecqx.quantizers.parameters.survey`), all weights of one are zero, or no part in
        ``exclude`` or ``include`` is in a name.
    """

    def __init__(
        self, model: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> None:
        self.model = unwrapped(model)
        exclude = used_parts(self.model, "exclude", exclude)
        include = used_parts(self.model, "include", include)
        self.survey = survey(self.model, exclude, include)
        state = state_of(self.model)
        check_state(state)
        warn_of_unknown_layers(self.model, self.survey)
        quantized = [parameter for parameter in self.survey if not parameter.kept]
        self.weights: dict[str, nn.Parameter] = {
            parameter.name: parameter.tensor for parameter in quantized if not parameter.shared_with
        }
        # First name of each quantized parameter, by all its names.
        self._first_names = {p.name: p.shared_with or p.name for p in quantized}
        for name, first in self._first_names.items():
            if not _is_stored(self.weights[first], state.get(name)):
                raise ValueError(
                    f"{name}: the state_dict does not hold this parameter under its name (a hook "
                    f"renames or changes it), so no file could; exclude it (exclude=[{name!r}])"
                )
        self.latent: dict[str, nn.Parameter] = {}
        for name, weight in self.weights.items():
            if not weight.detach().float().any():
                raise ValueError(
                    f"{name}: all its weights are zero, so that no grid fits and they would hardly "
                    f"train; leave it out (exclude=[{name!r}]), or train the model before"
                )
            # Half precision would round most gradient steps away.
            latent = weight.detach().clone()
            latent = latent.float() if latent.dtype in HALF else latent
            # Whether it is trained is read from the weight, which may be frozen later, or unfrozen.
            self.latent[name] = nn.Parameter(latent)
        # Of each quantized weight when it was last written.
        self._versions: dict[str, tuple[int, int]] = {}
        # On a GPU: whether a step, which does not wait to look, found a weight changed.
        self._changed_on_device: Tensor | None = None
        # From `transfer_gradients` to `update`, while the optimizer may step quantized weights.
        self._in_step = False
        # Torch's count of changes of each trained parameter when it was last given a gradient.
        self._given: dict[nn.Parameter, int] = {}
        # A parameter that is not quantized, and its gradient then: `zero_grad` takes it away.
        self._witness: tuple[nn.Parameter, Tensor] | None = None
        self._attachment: Attachment | None = None

    def attach(self, optimizer: Optimizer, several_labels: bool = False) -> None:
        """Train the latent weights within ``optimizer.step()``; the loop stays as it was.

        The optimizer's state_dict holds that of the quantizer, too, and restores it.

        Parameters
        ----------
        optimizer : Optimizer
            Made from the model's parameters, in any groups. Wrappers of accelerate and Lightning
            are unwrapped. Weight decay acts on the latent weights.
        several_labels : bool
            What the model decides where `targets` gives none: for each logit whether it is
            positive, instead of the class with the largest.

        Raises
        ------
        ValueError
            If there is an optimizer already, the optimizer cannot hold the latent weights (LBFGS,
            SparseAdam, ZeroRedundancyOptimizer, one of `parameter_groups`, one without a weight
            that is trained), or the model is sharded (FSDP).
        """
        if self._attachment is not None:
            raise ValueError("attach: there is an optimizer already; call detach() before")
        self._attachment = Attachment(self, optimizer, several_labels)

    def detach(self) -> None:
        """Undo `attach`. The optimizer then no longer trains the latent weights."""
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment = None

    def targets(self, labels: Tensor) -> None:
        """Give the labels of the batch that the model is trained on, for relevance.

        For each batch, before the optimizer's step; of several micro-batches those of the last one
        count. Without them relevance is that of the model's own decision.
        """
        if self._attachment is None:
            raise ValueError("targets: call attach before, or give them to update")
        self._attachment.targets = labels

    @property
    def steps_quantized(self) -> bool:
        """Whether the optimizer also steps the quantized weights."""
        return False

    @property
    def needs_batch(self) -> bool:
        """Whether `update` looks at the batch."""
        return False

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: latent weights, and what is not quantized.

        ``weight_decay`` applies to the parameters that are not quantized. Frozen parameters are in
        the groups, too: they get no gradient while they are frozen, and are trained afterwards.
        """
        quantized = {id(weight) for weight in self.weights.values()}
        rest = [p for p in self.model.parameters() if id(p) not in quantized]
        return [
            {"params": list(self.latent.values()), "weight_decay": 0.0},
            {"params": rest, "weight_decay": weight_decay},
        ]

    def start_epoch(self) -> None:  # noqa: B027  (most subclasses do nothing)
        """Call it before the first batch of each epoch."""

    @abstractmethod
    def transfer_gradients(self) -> None:
        """Pass the gradients of the quantized weights on; call it before the optimizer's step.

        Once for a batch of several backward passes, after the last one, or once after each: the
        gradients add up until the step, or ``zero_grad``.
        """

    @abstractmethod
    def update(self, inputs: Inputs, targets: Tensor) -> None:
        """Compute the quantized weights; call it after the optimizer's step.

        ECQx measures the relevance of weights on the batch, ``inputs`` and ``targets``.
        """

    def _begin_transfer(self) -> None:
        """Begin a sum anew where the model's gradients were forgotten; call it before `_give`."""
        if self._attachment is not None:
            if not self._attachment.is_transferring:
                raise ValueError(
                    "transfer_gradients: the attached optimizer's step does that; remove the call, "
                    "or call detach() before"
                )
            self._forget_gradients()
        if self._witness is not None and self._witness[0].grad is not self._witness[1]:
            self._forget_gradients()
        if self._witness is None:
            quantized = {id(weight) for weight in self.weights.values()}
            for parameter in self.model.parameters():
                if parameter.grad is not None and id(parameter) not in quantized:
                    self._witness = parameter, parameter.grad
                    break

    def _gradient(self, name: str) -> Tensor | None:
        """The gradient of a quantized weight, dense; None while the weight is frozen.

        That of an embedding may be sparse, which Adam does not take.
        """
        weight = self.weights[name]
        if weight.grad is None or not weight.requires_grad:
            return None
        return weight.grad.to_dense()

    def _forget_gradients(self) -> None:
        """Begin the next sum of gradients anew."""
        self._given.clear()
        self._witness = None

    def _give(self, parameter: nn.Parameter, gradient: Tensor | None, is_sum: bool = False) -> None:
        """Give a parameter the gradient of a batch, or add it to those of other micro-batches.

        It starts anew after `update`, a step, or `zero_grad`. None is the gradient
        of a weight that the batch does not use; ``is_sum`` is for one that sums micro-batches
        itself.
        """
        earlier = None
        if self._given.get(parameter) == parameter._version:
            earlier = parameter.grad
        if gradient is None:
            parameter.grad = earlier
        elif earlier is None or is_sum:
            parameter.grad = gradient
        else:
            parameter.grad = earlier + gradient
        self._given[parameter] = parameter._version

    def rewrite(self) -> None:
        """Put quantized weights into the model again, after a step that was not finished."""
        self._in_step = False
        self._forget_gradients()
        for name in self.weights:
            self._write(name, self._present(name))

    @torch.no_grad()
    def _write(self, name: str, values: Tensor) -> None:
        """Put values into a quantized weight."""
        self.weights[name].copy_(values)
        self._note_version(name)

    def _note_version(self, name: str) -> None:
        self._versions[name] = _version(self.weights[name])

    @torch.no_grad()
    def reconcile(self, values: bool = True, wait: bool = True) -> None:
        """Take over what others wrote into the quantized weights, or refuse it.

        `update`, `state_dict`, `ecqx.save` and all that reads the integers call it. Weights that
        are centroids again, as of a restored epoch, set the integers; the latent weight becomes the
        centroid where the integer changes. A deviation within a thousandth of the distance of
        centroids is undone.

        Parameters
        ----------
        values : bool
            Compare all values. Without, only writes that torch counts or that move the memory are
            noticed: not those through ``.data``.
        wait : bool
            Wait for a GPU. Without, what was written there through ``.data`` is not taken over, but
            refused by the next call that waits.

        Raises
        ------
        ValueError
            If the model has other parameters than those that were quantized, or weights that are no
            centroids, such as averaged ones.
        """
        if self._attachment is not None:
            self._attachment.abandon()
        present = dict(named_parameters(self.model))
        for name, first in self._first_names.items():
            if present.get(name) is not self.weights[first]:
                raise ValueError(
                    f"{name}: the model has another parameter here than the quantizer; load values "
                    "into the parameter that it had (load_state_dict without assign=True), or make "
                    "a new quantizer"
                )
        changed = [name for name in self.weights if self._is_changed(name, values, wait)]
        if wait and self._changed_on_device is not None and bool(self._changed_on_device):
            self._changed_on_device = None
            raise ValueError(
                "weights were written through .data between two steps, and the later step undid "
                "it; write them by copy_ under torch.no_grad()"
            )
        # All are looked at before one is changed.
        taken = {name: self._centroids_of(name) for name in changed}
        for name, centroids in taken.items():
            moved = centroids != self._present(name)
            if moved.any():
                self.latent[name][moved] = centroids[moved].to(self.latent[name].dtype)
                self._take_over(name, centroids, moved)
            self._write(name, centroids)

    def _is_changed(self, name: str, values: bool, wait: bool) -> bool:
        """Whether a quantized weight holds something else than was last written."""
        weight = self.weights[name].detach()
        if weight.device != self.latent[name].device:
            raise ValueError(
                f"{name}: the model was moved to {weight.device}; move it before it is quantized"
            )
        counted = self._versions[name] != _version(self.weights[name])
        if not (counted or values):
            return False
        if counted or wait or weight.is_cpu:
            return not self._holds_present(name)
        changed = (weight != self._present(name).to(weight.dtype)).any()
        earlier = self._changed_on_device
        self._changed_on_device = changed if earlier is None else changed | earlier
        return False

    def _holds_present(self, name: str) -> bool:
        """Whether a quantized weight holds what was last written."""
        weight = self.weights[name].detach()
        return torch.equal(weight, self._present(name).to(weight.dtype))

    def _centroids_of(self, name: str) -> Tensor:
        """The centroids that a changed weight holds, or ``ValueError``."""
        weight, present = self.weights[name].detach(), self._present(name)
        values = self._centroids(name)
        distances = values.diff()
        distances = distances[distances > 0]
        allowed = float(distances.min()) / 1000 if len(distances) else 0.0
        exact = weight.to(values.dtype)
        bounds = (values[1:] + values[:-1]) / 2
        nearest = values[torch.bucketize(exact, bounds)]
        # In half precision two centroids may be one value: the present one is kept then.
        kept = (exact - present.to(weight.dtype).to(values.dtype)).abs() <= allowed
        near = (exact - nearest.to(weight.dtype).to(values.dtype)).abs() <= allowed
        if not (kept | near).all():
            raise ValueError(
                f"{name}: the model holds weights that are no centroids of the quantizer, such as "
                "averaged, merged or other ones; after optimizer.step() call update, restore an "
                "epoch by the quantizer's load_state_dict, average quantizer.latent instead of the "
                "model, or make a new quantizer"
            )
        return torch.where(kept, present, nearest)

    @abstractmethod
    def _centroids(self, name: str) -> Tensor:
        """The values that a layer's weights may have, float32, ascending."""

    @abstractmethod
    def _present(self, name: str) -> Tensor:
        """The centroids of a layer's weights as last written, float32."""

    def _take_over(  # noqa: B027  (most subclasses have no integers)
        self, name: str, values: Tensor, moved: Tensor
    ) -> None:
        """Set the integers of the weights that ``moved`` to other centroids, as the latent ones."""

    def sparsity(self) -> float:
        """Share of the quantized weights that are zero, in [0, 1]."""
        self.reconcile()
        zeros = sum(int(self._is_zero(name).sum()) for name in self.weights)
        return zeros / sum(weight.numel() for weight in self.weights.values())

    def _is_zero(self, name: str) -> Tensor:
        return self.weights[name] == 0

    def _by_every_name(self, tensors: Mapping[str, _T]) -> dict[str, _T]:
        """Values of the quantized weights, repeated for each name of a tied weight."""
        return {name: tensors[first] for name, first in self._first_names.items()}

    def _every_name(self) -> dict[str, list[str]]:
        """All names of each quantized weight, by its first one."""
        return {
            first: [name for name, own in self._first_names.items() if own == first]
            for first in self.weights
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, in one flat dict, to resume from.

        Returns
        -------
        dict of str to Tensor
            ``model.*``, ``latent.*`` and what a subclass adds.
        """
        self.reconcile()
        state = {f"model.{name}": tensor for name, tensor in state_of(self.model).items()}
        state |= {f"latent.{name}": latent.detach() for name, latent in self.latent.items()}
        return state | self._rest_of_state()

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state of the same model with the same settings.

        Raises
        ------
        ValueError
            If a tensor is missing or has another shape.
        """
        try:
            load_state(self.model, section(state, "model"))
            for name, latent in self.latent.items():
                latent.copy_(state[f"latent.{name}"])
            self._restore_rest(state)
        except (AttributeError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the state is not one of this quantizer: {error}") from error

    @abstractmethod
    def _rest_of_state(self) -> dict[str, Tensor]:
        """What `state_dict` holds beside model and latent weights."""

    @abstractmethod
    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `_rest_of_state` returned; the latent weights are restored already."""


def _is_stored(weight: Tensor, stored: object) -> bool:
    """Whether an entry of a state_dict is a parameter itself."""
    if not isinstance(stored, Tensor):
        return False
    return (stored.data_ptr(), stored.shape) == (weight.data_ptr(), weight.shape)


def _version(tensor: Tensor) -> tuple[int, int]:
    """Changes with each write that torch counts, and with the memory."""
    return tensor.data_ptr(), tensor._version
