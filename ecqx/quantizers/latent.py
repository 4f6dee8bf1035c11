"""Latent weights: the full-precision copies of a model's quantized weights, which are trained.

The model itself holds the quantized weights as plain parameters. Their gradients are passed on to
the latent weights, the optimizer steps those, and the quantized weights are computed from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ecqx.coding.tensor_files import section
from ecqx.modules import HALF, check_has_values, unwrapped
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
        (`ecqx.quantizers.parameters.survey`), or no part in ``exclude`` or ``include`` is in a
        name.
    """

    def __init__(
        self, model: nn.Module, exclude: Sequence[str] = (), include: Sequence[str] = ()
    ) -> None:
        self.model = unwrapped(model)
        check_has_values(self.model)
        exclude = used_parts(self.model, "exclude", exclude)
        include = used_parts(self.model, "include", include)
        self.survey = survey(self.model, exclude, include)
        warn_of_unknown_layers(self.model, self.survey)
        quantized = [parameter for parameter in self.survey if not parameter.kept]
        self.weights: dict[str, nn.Parameter] = {
            parameter.name: parameter.tensor for parameter in quantized if not parameter.shared_with
        }
        # First name of each quantized parameter, by all its names.
        self._first_names = {p.name: p.shared_with or p.name for p in quantized}
        self.latent: dict[str, nn.Parameter] = {}
        for name, weight in self.weights.items():
            # Half precision would round most gradient steps away.
            latent = weight.detach().clone()
            latent = latent.float() if latent.dtype in HALF else latent
            self.latent[name] = nn.Parameter(latent, requires_grad=weight.requires_grad)

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: latent weights, and what is not quantized.

        ``weight_decay`` applies to the parameters that are not quantized.
        """
        quantized = {id(weight) for weight in self.weights.values()}
        rest = [p for p in self.model.parameters() if id(p) not in quantized and p.requires_grad]
        latent = [p for p in self.latent.values() if p.requires_grad]
        return [
            {"params": latent, "weight_decay": 0.0},
            {"params": rest, "weight_decay": weight_decay},
        ]

    def start_epoch(self) -> None:  # noqa: B027  (most subclasses do nothing)
        """Call it before the first batch of each epoch."""

    @abstractmethod
    def transfer_gradients(self) -> None:
        """Pass the gradients of the quantized weights on; call it before the optimizer's step."""

    @abstractmethod
    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Compute the quantized weights; call it after the optimizer's step.

        ECQx measures the relevance of weights on the batch, ``inputs`` and ``targets``.
        """

    def share_relevance(  # noqa: B027  (most subclasses have none)
        self, combine: Callable[[dict[str, Tensor], int], dict[str, Tensor]]
    ) -> None:
        """Average relevances over processes from now on, by ``combine``.

        It is `ecqx.training.distributed.Replicas.combined`.
        """

    def sparsity(self) -> float:
        """Share of the quantized weights that are zero, in [0, 1]."""
        zeros = sum(int(self._is_zero(name).sum()) for name in self.weights)
        return zeros / sum(weight.numel() for weight in self.weights.values())

    def _is_zero(self, name: str) -> Tensor:
        return self.weights[name] == 0

    def _by_every_name(self, tensors: Mapping[str, _T]) -> dict[str, _T]:
        """Values of the quantized weights, repeated for each name of a tied weight."""
        return {name: tensors[first] for name, first in self._first_names.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, in one flat dict, to resume from.

        Returns
        -------
        dict of str to Tensor
            ``model.*``, ``latent.*`` and what a subclass adds.
        """
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
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
            self.model.load_state_dict(section(state, "model"))
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
