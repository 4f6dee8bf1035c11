"""Entropy-constrained quantization of a model in training: gradients, relevance, assignment.

Paper: section 3, the training procedure of ECQ and ECQx. Where the centroids lie is left to
`ecqx.quantizers.ecqx` and `ecqx.quantizers.trained_centroids`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.assignment.assign import assign_layers
from ecqx.assignment.centroids import Centroids, GridStack, is_finite
from ecqx.coding.coded_state import write_coded_state
from ecqx.coding.quantized import Quantized, first_order_entropy
from ecqx.coding.tensor_files import section
from ecqx.quantizers.latent import LatentWeights
from ecqx.quantizers.parameters import ParameterRecord, records_of, table
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.average import RelevanceAverage, check_reached
from ecqx.relevance.settings import LRP


class Quantizer(LatentWeights):
    """Entropy-constrained quantizer of a model's weights, whose centroids a subclass defines.

    Attributes
    ----------
    settings : QuantizerSettings
    relevance : RelevanceAverage, optional
        None without relevance.
    grids : mapping of str to Centroids
    index : dict of str to Tensor
        Place of each weight's centroid in ``grids[name].values``, int32.
    """

    grids: Mapping[str, Centroids]
    _stack: GridStack

    def __init__(
        self, model: nn.Module, settings: QuantizerSettings, relevance: LRP | None
    ) -> None:
        super().__init__(model, settings.exclude)
        self.settings = settings
        self._assignment = settings.assignment
        self.relevance = None if relevance is None else RelevanceAverage(relevance)
        self.largest_layer_size = max(weight.numel() for weight in self.weights.values())
        self._rules_checked = False
        self.index = {
            name: torch.empty(latent.shape, dtype=torch.int32, device=latent.device)
            for name, latent in self.latent.items()
        }
        self._fit()
        self._assign_all(relevances=None)

    @abstractmethod
    def _fit(self) -> None:
        """Set `grids` and `_stack` from the latent weights; done once."""

    @abstractmethod
    def _coded(self, name: str, integers: Tensor) -> Quantized:
        """What `ecqx.save` writes of a weight tensor."""

    @abstractmethod
    def _grid_state(self, name: str) -> dict[str, Tensor]:
        """All that a layer's centroids are restored from, by prefix of the name in a state."""

    @abstractmethod
    def _restore_grids(self, state: Mapping[str, Tensor]) -> None:
        """Set `grids` and `_stack` from a state that holds `_grid_state` of every layer."""

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of the base class (published decay: 5e-6).

        For relevance of the ``stepped`` weights also the quantized weights, whose step `update`
        throws away.
        """
        groups = super().parameter_groups(weight_decay)
        if self._steps_quantized:
            stepped = [w for w in self.weights.values() if w.requires_grad]
            groups.append({"params": stepped, "weight_decay": 0.0})
        return groups

    @property
    def _steps_quantized(self) -> bool:
        """Whether the optimizer also steps the quantized weights, for relevance of ``stepped``."""
        return self.relevance is not None and self.relevance.lrp.of == "stepped"

    @torch.no_grad()
    def transfer_gradients(self) -> None:
        """Hand the gradients at the quantized weights, scaled, to the latent weights."""
        for name, weight in self.weights.items():
            latent = self.latent[name]
            latent.grad = None
            if weight.grad is not None:
                latent.grad = weight.grad.to(latent.dtype) * self._scale(name)
            if not self._steps_quantized:
                # No optimizer holds these, so none would set them to zero for the next batch.
                weight.grad = None

    def _scale(self, name: str) -> Tensor | float:
        """Factor on a layer's gradient: its centroids, one in the zero cluster."""
        gradient = self.settings.gradient
        if gradient == "identity":
            return 1.0
        grid = self.grids[name]
        factors = grid.values.clone() if gradient == "published" else grid.values.abs()
        factors[grid.zero] = 1.0
        return _select(factors, self.index[name])

    def start_epoch(self) -> None:
        """Forget the averaged relevance where the settings ask for it (published)."""
        if self.relevance is not None:
            self.relevance.start_epoch()

    def share_relevance(
        self, combine: Callable[[dict[str, Tensor], int], dict[str, Tensor]]
    ) -> None:
        """Average over the relevances that ``combine`` makes of those of this process's part."""
        if self.relevance is not None:
            self.relevance.combine = combine

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Measure relevance on a batch (ECQx), assign, and put the centroids into the model.

        Call it after the optimizer's step.

        Parameters
        ----------
        inputs, targets : Tensor
            The batch, as for `ecqx.weight_relevance`; not looked at by ECQ.

        Raises
        ------
        ValueError
            If a layer that is quantized has no rule of relevance or no part in the output, or a
            weight is not finite.
        """
        if self.relevance is None or self.settings.lam == 0:
            # Without an information term distances decide, and relevance is ignored.
            self._assign_all(relevances=None)
            return
        try:
            self._check_rules()
            with self._judged_weights():
                relevances = self.relevance.update(self.model, inputs, targets)
            check_reached(self.weights, relevances)
            self._assign_all(relevances)
        except BaseException:
            # The optimizer may have stepped the quantized weights: leave centroids behind.
            self._write_centroids()
            raise

    def _check_rules(self) -> None:
        """Raise ``ValueError`` for a quantized layer that LRP has no rule for; asked once."""
        if self._rules_checked or self.relevance is None:
            return
        from ecqx.relevance.weights import check_rules

        check_rules(self.model, self.relevance.lrp.composite, self.weights)
        self._rules_checked = True

    @contextmanager
    def _judged_weights(self) -> Iterator[None]:
        """The model with the weights that relevance is asked of (`LRP.of`).

        The optimizer has stepped the quantized weights already, so ``stepped`` finds them in place.
        """
        assert self.relevance is not None
        of = self.relevance.lrp.of
        quantized = {name: weight.data for name, weight in self.weights.items()}
        try:
            if of == "full_precision":
                for name, weight in self.weights.items():
                    weight.data = self.latent[name].data
            yield
        finally:
            for name, weight in self.weights.items():
                weight.data = quantized[name]

    @torch.no_grad()
    def _assign_all(self, relevances: Mapping[str, Tensor] | None) -> None:
        weights = {n: w.detach().float().contiguous() for n, w in self.latent.items()}
        judged = None
        if relevances is not None:
            judged = {name: relevances[name].float().contiguous() for name in weights}
        if self._stack.values.device.type == "cpu":
            self._check_finite()
        assign_layers(
            list(weights.values()),
            self._stack,
            self._assignment,
            None if judged is None else list(judged.values()),
            self.largest_layer_size,
            list(self.index.values()),
        )
        self._write_centroids()

    def _check_finite(self) -> None:
        """Raise ``ValueError`` for the first layer whose weights or relevances are not finite.

        Another device would be waited for: there `sparsity` looks, once an epoch.
        """
        averaged = {} if self.relevance is None else self.relevance.values
        for kind, tensors in (("weight", self.latent), ("relevance", averaged)):
            for name in self.weights.keys() & tensors.keys():
                if not is_finite(tensors[name].detach()):
                    raise ValueError(f"{name}: {kind} holds NaN or infinite values")

    @torch.no_grad()
    def _write_centroids(self) -> None:
        for name, weight in self.weights.items():
            weight.copy_(_select(self.grids[name].values, self.index[name]))

    def integers(self) -> dict[str, Tensor]:
        """The integers k of the weights ``k * step``, int16, by parameter name."""
        return {
            name: (index - self.grids[name].zero).to(torch.int16)
            for name, index in self.index.items()
        }

    def sparsity(self) -> float:
        """Share of quantized weights that are zero, in [0, 1].

        Raises
        ------
        ValueError
            If weights, relevances or centroids are not finite.
        """
        self._check_finite()
        return super().sparsity()

    def _is_zero(self, name: str) -> Tensor:
        return self.index[name] == self.grids[name].zero

    def layers(self) -> list[dict[str, Any]]:
        """One record a quantized tensor: name, elements, sparsity, entropy in bits per weight."""
        return [
            {
                "layer": name,
                "elements": k.numel(),
                "sparsity": float((k == 0).double().mean()),
                "entropy_bits_per_weight": first_order_entropy(k),
            }
            for name, k in self.integers().items()
        ]

    def coded_state(self) -> tuple[dict[str, Tensor], dict[str, Quantized]]:
        """What `ecqx.save` writes: the model's state_dict, and which tensors are integers."""
        coded = {name: self._coded(name, k) for name, k in self.integers().items()}
        return self.model.state_dict(), self._by_every_name(coded)

    def parameter_records(self) -> list[ParameterRecord]:
        """What becomes of every parameter of the model, by every name it has, and why."""
        numbers = {record.pop("layer"): record for record in self.layers()}
        for name, grid in self.grids.items():
            del numbers[name]["elements"]
            numbers[name] |= {"bits": self.settings.bits, "step": getattr(grid, "step", None)}
        return records_of(self._survey, numbers)

    def summary(self) -> str:
        """A table of every parameter of the model, and what becomes of it, for a person."""
        return table(self.parameter_records())

    def _rest_of_state(self) -> dict[str, Tensor]:
        """What `state_dict` holds beside model and latent weights.

        Returns
        -------
        dict of str to Tensor
            ``integers.*``, what the centroids are restored from (``step.*`` in float64 and
            ``first.*``, the lowest integer of the grid, or ``codebook.*``) and, where there is
            one, ``relevance.*``.
        """
        state = {}
        for name, k in self.integers().items():
            state[f"integers.{name}"] = k
            grid = self._grid_state(name)
            state |= {f"{prefix}.{name}": tensor for prefix, tensor in grid.items()}
        if self.relevance is not None:
            for name, tensor in self.relevance.values.items():
                state[f"relevance.{name}"] = tensor
        return state

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        self._restore_grids(state)
        for name, latent in self.latent.items():
            k = state[f"integers.{name}"].to(latent.device, torch.int32)
            index = (k + self.grids[name].zero).reshape(latent.shape)
            if index.min() < 0 or index.max() >= len(self.grids[name].values):
                raise ValueError(f"{name} has integers that {self.settings.bits} bits do not allow")
            self.index[name] = index
        if self.relevance is not None:
            averaged = section(state, "relevance")
            self.relevance.values = {
                name: r.to(self.model.get_parameter(name).device, copy=True)
                for name, r in averaged.items()
            }

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the quantized model to a safetensors file that ``ecqx encode`` takes as it is.

        Integers, centroids and what is not quantized: enough to encode, not to train on (that is
        `state_dict`).
        """
        write_coded_state(path, *self.coded_state())


def _select(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, ten times faster for int32."""
    return table.index_select(0, index.flatten()).reshape(index.shape)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the parameter's name in front of an error about its values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
