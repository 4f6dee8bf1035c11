"""Entropy-constrained quantization of a model in training: gradients, relevance, assignment.

Paper: section 3, the training procedure of ECQ and ECQx. `ecqx.quantizers.ecqx` and
`ecqx.quantizers.trained_centroids` define where the centroids lie.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ecqx.assignment import loops
from ecqx.assignment.assign import assign_layers, check_finite, extremes
from ecqx.assignment.centroids import Centroids, GridStack
from ecqx.assignment.mixed_precision import bits_of_weights
from ecqx.coding.coded_state import write_coded_state
from ecqx.coding.quantized import Quantized, first_order_entropy
from ecqx.coding.tensor_files import section
from ecqx.errors import input_errors
from ecqx.modules import Inputs, check_has_values, named_parameters, state_of, unwrapped
from ecqx.quantizers.latent import LatentWeights
from ecqx.quantizers.parameters import ParameterRecord, records_of, table
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.average import RelevanceAverage
from ecqx.relevance.processes import Group, processes_of
from ecqx.relevance.settings import LRP

_T = TypeVar("_T")


class Quantizer(LatentWeights):
    """Entropy-constrained quantizer of a model's weights, whose centroids a subclass defines.

    Attributes
    ----------
    settings : QuantizerSettings
    bit_widths : dict of str to int
        Bit width of each weight.
    relevance : RelevanceAverage, optional
        None without relevance.
    grids : mapping of str to Centroids
    index : dict of str to Tensor
        Index of each weight's centroid in ``grids[name].values``, int32.
    """

    grids: Mapping[str, Centroids]
    _stack: GridStack

    def __init__(
        self,
        model: nn.Module,
        settings: QuantizerSettings,
        relevance: LRP | None,
        process_group: Group,
    ) -> None:
        self.processes = processes_of(model, process_group)
        if self.processes is not None:
            check_has_values(unwrapped(model))
            self.processes.take_values_of_first(unwrapped(model))
        super().__init__(model, settings.exclude, settings.include)
        self.settings = settings
        self.bit_widths = bits_of_weights(settings.bits, self._every_name())
        self.relevance = None if relevance is None else RelevanceAverage(relevance, self.processes)
        self.largest_layer_size = max(weight.numel() for weight in self.weights.values())
        self.index = {
            name: torch.empty(latent.shape, dtype=torch.int32, device=latent.device)
            for name, latent in self.latent.items()
        }
        self._fit()
        self._assign_all(relevances=None)

    @abstractmethod
    def _fit(self) -> None:
        """Set `grids` and `_stack` from the latent weights; called once."""

    @abstractmethod
    def _coded(self, name: str, integers: Tensor) -> Quantized:
        """What `ecqx.save` writes of a weight tensor."""

    @abstractmethod
    def _grid_state(self, name: str) -> dict[str, Tensor]:
        """The tensors that restore a layer's centroids, by the prefix of their name in a state."""

    @abstractmethod
    def _restore_grids(self, state: Mapping[str, Tensor]) -> None:
        """Set `grids` and `_stack` from a state that holds `_grid_state` of every layer."""

    def _of_each_layer(self, function: Callable[[Tensor, int], _T]) -> dict[str, _T]:
        """A function of each layer's latent weights and bits; a ``ValueError`` names the layer."""
        results = {}
        for name, latent in self.latent.items():
            with input_errors(f"{name}: "):
                results[name] = function(latent, self.bit_widths[name])
        return results

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of the base class (published decay: 5e-6).

        For relevance of the ``stepped`` weights also the quantized weights, whose step `update`
        discards.
        """
        groups = super().parameter_groups(weight_decay)
        if self.steps_quantized:
            groups.append({"params": list(self.weights.values()), "weight_decay": 0.0})
        return groups

    @property
    def steps_quantized(self) -> bool:
        """Whether the optimizer also steps the quantized weights, for relevance of ``stepped``."""
        return self.relevance is not None and self.relevance.lrp.of == "stepped"

    @property
    def needs_batch(self) -> bool:
        """Whether relevance is measured: without an information term distances decide alone."""
        return self.relevance is not None and self.settings.lam != 0

    @torch.no_grad()
    def transfer_gradients(self) -> None:
        """Give the latent weights the scaled gradients of the quantized weights."""
        self._begin_step()
        for name, weight in self.weights.items():
            latent, gradient = self.latent[name], self._gradient(name)
            # Otherwise the optimizer does not hold these weights and would not reset gradients.
            weight.grad = gradient if self.steps_quantized else None
            if gradient is not None:
                gradient = self._scaled(gradient.to(latent.dtype), name)
            self._give(latent, gradient, is_sum=self.steps_quantized)

    def _give(self, parameter: nn.Parameter, gradient: Tensor | None, is_sum: bool = False) -> None:
        before = parameter.grad
        super()._give(parameter, gradient, is_sum)
        adds = gradient is not None and before is not None and parameter.grad is not gradient
        if adds and self.processes is not None:
            raise ValueError(
                "with several processes call transfer_gradients once for all micro-batches, after "
                "the last backward pass, which averages the gradients (no_sync)"
            )

    def _begin_step(self) -> None:
        """Take over what was written into the model before the first backward pass of a step."""
        self._begin_transfer()
        if not self._in_step:
            # `update` compares the values, unless the optimizer has stepped them.
            self.reconcile(values=self.steps_quantized, wait=False)
        self._in_step = True

    def _scaled(self, gradient: Tensor, name: str) -> Tensor:
        """A layer's gradient times the factor of `QuantizerSettings.gradient`."""
        kind = self.settings.gradient
        if kind == "identity":
            return gradient.clone()
        grid = self.grids[name]
        factors = grid.values.clone() if kind == "published" else grid.values.abs()
        factors[grid.zero] = 1.0
        return _select(factors.to(gradient.dtype), self.index[name]).mul_(gradient)

    def start_epoch(self) -> None:
        """Forget the averaged relevance if `LRP.restart` is set (published)."""
        if self.relevance is not None:
            self.relevance.start_epoch()

    def update(self, inputs: Inputs, targets: Tensor) -> None:
        """Measure relevance on a batch (ECQx), assign, and put the centroids into the model.

        Call it after the optimizer's step.

        Parameters
        ----------
        inputs, targets : Tensor
            The batch, as for `ecqx.weight_relevance`; not used by ECQ.

        Raises
        ------
        ValueError
            If the layer of a quantized weight has no rule of relevance or no part in the output, a
            label is out of range, or a weight is not finite. The integers are then as before.
        """
        if not (self._in_step and self.steps_quantized):
            self.reconcile(wait=False)
        self._in_step = False
        self._forget_gradients()
        if self.relevance is None or not self.needs_batch:
            self._assign_all(relevances=None)
            return
        try:
            with self._weights_to_measure(self.relevance.lrp):
                relevances = self.relevance.update(self.model, inputs, targets, self.weights)
            self._assign_all(relevances)
        except BaseException:
            # The optimizer may have stepped the quantized weights: leave centroids behind.
            self._write_centroids()
            raise

    @contextmanager
    def _weights_to_measure(self, lrp: LRP) -> Iterator[None]:
        """The model with the weights whose relevance is measured (`LRP.of`).

        The optimizer has already stepped the quantized weights where ``of`` is ``stepped``.
        """
        quantized = {name: weight.data for name, weight in self.weights.items()}
        try:
            if lrp.of == "full_precision":
                for name, weight in self.weights.items():
                    weight.data = self.latent[name].data
            yield
        finally:
            for name, weight in self.weights.items():
                weight.data = quantized[name]

    @torch.no_grad()
    def _assign_all(self, relevances: Mapping[str, Tensor] | None) -> None:
        assign_layers(
            list(self.latent),
            self._for_assignment(self.latent),
            self._stack,
            self.settings,
            None if relevances is None else self._for_assignment(relevances),
            self.largest_layer_size,
            list(self.index.values()),
        )
        self._write_centroids()

    def _for_assignment(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Those of the quantized weights, as `assign_layers` takes them."""
        return [tensors[name].detach().float().contiguous() for name in self.latent]

    @torch.no_grad()
    def _write_centroids(self) -> None:
        for name, weight in self.weights.items():
            values, index = self.grids[name].values.to(weight.dtype), self.index[name]
            if weight.is_contiguous():
                torch.index_select(values, 0, index.view(-1), out=weight.detach().view(-1))
                self._note_version(name)
            else:
                self._write(name, _select(values, index))

    def _holds_present(self, name: str) -> bool:
        weight, values = self.weights[name].detach(), self.grids[name].values
        if not (weight.is_cpu and weight.is_contiguous() and weight.dtype == values.dtype):
            return super()._holds_present(name)
        bits, centroids = (t.view(-1).view(torch.int32).numpy() for t in (weight, values))
        return loops.are_selected(bits, centroids, self.index[name].view(-1).numpy())

    def _centroids(self, name: str) -> Tensor:
        return self.grids[name].values

    def _present(self, name: str) -> Tensor:
        return _select(self.grids[name].values, self.index[name])

    def _take_over(self, name: str, values: Tensor, moved: Tensor) -> None:
        found = torch.searchsorted(self.grids[name].values, values[moved])
        self.index[name][moved] = found.to(torch.int32)

    def integers(self) -> dict[str, Tensor]:
        """The integers k of the weights ``k * step``, int16, by parameter name."""
        self.reconcile()
        return {
            name: (index - self.grids[name].zero).to(torch.int16)
            for name, index in self.index.items()
        }

    def sparsity(self) -> float:
        """Share of quantized weights that are zero, in [0, 1].

        Raises
        ------
        ValueError
            If weights, codebooks or relevances are not finite, or a label was out of range. On a
            GPU `update` does not look, so that no step waits.
        """
        if self.relevance is not None:
            self.relevance.check_labels()
        ends = {
            "weight": extremes(self._for_assignment(self.latent)),
            "codebook": extremes(self._stack.values),
        }
        if self.relevance is not None and self.relevance.values:
            ends["relevance"] = extremes(self._for_assignment(self.relevance.values))
        check_finite(list(self.latent), ends)
        return super().sparsity()

    def _is_zero(self, name: str) -> Tensor:
        return self.index[name] == self.grids[name].zero

    def layers(self) -> list[dict[str, Any]]:
        """For each quantized tensor its name, elements, sparsity and entropy in bits per weight."""
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
        return state_of(self.model), self._by_every_name(coded)

    def parameter_records(self) -> list[ParameterRecord]:
        """One record for every parameter of the model under each of its names."""
        numbers = {}
        for layer in self.layers():
            name = layer.pop("layer")
            del layer["elements"]
            step = getattr(self.grids[name], "step", None)
            numbers[name] = {"bits": self.bit_widths[name], "step": step, **layer}
        return records_of(self.survey, numbers)

    def summary(self) -> str:
        """A table of `parameter_records` to print."""
        return table(self.parameter_records())

    def _rest_of_state(self) -> dict[str, Tensor]:
        """``integers.*``, ``relevance.*`` and their count, and what restores the centroids."""
        state = {}
        for name, k in self.integers().items():
            state[f"integers.{name}"] = k
            grid = self._grid_state(name)
            state |= {f"{prefix}.{name}": tensor for prefix, tensor in grid.items()}
        if self.relevance is not None:
            for name, tensor in self.relevance.values.items():
                state[f"relevance.{name}"] = tensor
            state["relevance_steps"] = torch.tensor(self.relevance.steps, device="cpu")
        return state

    def _restore_rest(self, state: Mapping[str, Tensor]) -> None:
        self._restore_grids(state)
        for name, latent in self.latent.items():
            k = state[f"integers.{name}"].to(latent.device, torch.int32)
            index = (k + self.grids[name].zero).reshape(latent.shape)
            if index.min() < 0 or index.max() >= len(self.grids[name].values):
                width = self.bit_widths[name]
                raise ValueError(f"{name} has integers that {width} bits do not allow")
            self.index[name] = index
        self._write_centroids()
        if self.relevance is not None:
            averaged, parameters = section(state, "relevance"), dict(named_parameters(self.model))
            self.relevance.values = {
                name: r.to(parameters[name].device, copy=True) for name, r in averaged.items()
            }
            self.relevance.steps = int(state["relevance_steps"])

    def save_checkpoint(self, path: str | Path) -> None:
        """Write the quantized model to a safetensors file for ``ecqx encode``.

        It holds integers, centroids and all that is not quantized: enough to encode, not to resume
        training (that is `state_dict`).
        """
        write_coded_state(path, *self.coded_state())


def _select(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, ten times faster for int32."""
    return values.index_select(0, index.flatten()).reshape(index.shape)
