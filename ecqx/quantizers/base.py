"""Attaches quantization to a torch model: full-precision copies, gradients, assignment.

Paper: section 3, the training procedure of ECQ and ECQx. The model itself holds the quantized
weights, so its forward pass, its state_dict and zennit see plain parameters; the full-precision
copies that take the gradient steps live in the quantizer. Where the centroids lie is left to
`ecqx.quantizers.ecqx` and `ecqx.quantizers.trained_centroids`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ecqx.assignment.assign import AssignmentSettings, assign_layers
from ecqx.assignment.centroids import Centroids, GridStack, is_finite
from ecqx.assignment.information import LambdaMax, Pmf
from ecqx.coding.coded_state import write_coded_state
from ecqx.coding.quantized import Quantized, first_order_entropy
from ecqx.coding.tensor_files import section
from ecqx.modules import HALF, unwrapped
from ecqx.quantizers.parameters import ParameterRecord, records_of, survey, table
from ecqx.relevance.average import RelevanceAverage, check_reached
from ecqx.relevance.settings import LRP

Gradient = Literal["magnitude", "published", "identity"]
GRADIENTS: tuple[Gradient, ...] = ("magnitude", "published", "identity")


class Quantizer(ABC):
    """Entropy-constrained quantizer of a model's weights, whose centroids a subclass tells.

    Attributes
    ----------
    model : Module
    weights, full_precision : dict of str to Parameter
        The quantized weights in the model, and the copies that take the gradient steps.
    grids : mapping of str to Centroids
    index : dict of str to Tensor
        Place of each weight's centroid in ``grids[name].values``, int32.
    """

    grids: Mapping[str, Centroids]
    _stack: GridStack

    def __init__(
        self,
        model: nn.Module,
        bits: int,
        lam: float,
        relevance: LRP | None,
        p: float,
        sparsity_band: tuple[float, float] | None,
        gradient: Gradient,
        exclude: Sequence[str],
        pmf: Pmf,
        lambda_max: LambdaMax,
    ) -> None:
        self._assignment = AssignmentSettings(lam, p, sparsity_band, pmf, lambda_max)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, not {gradient!r}")
        self.model = unwrapped(model)
        self.bits = bits
        self.lam = lam
        self.gradient = gradient
        self.relevance = None if relevance is None else RelevanceAverage(relevance)
        self._survey = survey(self.model, exclude)
        quantized = [parameter for parameter in self._survey if not parameter.kept]
        self.weights: dict[str, nn.Parameter] = {
            parameter.name: parameter.tensor for parameter in quantized if not parameter.shared_with
        }
        # Every name of a quantized parameter, and its first one.
        self._first_names = {p.name: p.shared_with or p.name for p in quantized}
        self.largest_layer_size = max(weight.numel() for weight in self.weights.values())
        self._rules_checked = False
        self.full_precision: dict[str, nn.Parameter] = {}
        self.index: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            # A step of training is lost in the few digits of half precision.
            copy = weight.detach().clone()
            copy = copy.float() if copy.dtype in HALF else copy
            self.full_precision[name] = nn.Parameter(copy, requires_grad=weight.requires_grad)
            self.index[name] = torch.empty(copy.shape, dtype=torch.int32, device=copy.device)
        self._fit()
        self._assign_all(relevances=None)

    @abstractmethod
    def _fit(self) -> None:
        """Set `grids` and `_stack` from the full-precision copies; done once."""

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
        """Parameter groups for an optimizer.

        Parameters
        ----------
        weight_decay : float
            For the parameters that are not quantized; the quantized ones have none (published:
            5e-6).

        Returns
        -------
        list of dict
            The full-precision copies, everything that is not quantized and, for relevance of the
            ``stepped`` weights, the quantized weights, whose step `update` throws away.
        """
        quantized = {id(weight) for weight in self.weights.values()}
        rest = [p for p in self.model.parameters() if id(p) not in quantized and p.requires_grad]
        copies = [p for p in self.full_precision.values() if p.requires_grad]
        groups = [
            {"params": copies, "weight_decay": 0.0},
            {"params": rest, "weight_decay": weight_decay},
        ]
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
        """Hand the gradients at the quantized weights, scaled, to the full-precision copies."""
        for name, weight in self.weights.items():
            copy = self.full_precision[name]
            copy.grad = None
            if weight.grad is not None:
                copy.grad = weight.grad.to(copy.dtype) * self._scale(name)
            if not self._steps_quantized:
                # No optimizer holds these, so none would set them to zero for the next batch.
                weight.grad = None

    def _scale(self, name: str) -> Tensor | float:
        """Factor on a layer's gradient: its centroids, one in the zero cluster."""
        if self.gradient == "identity":
            return 1.0
        grid = self.grids[name]
        factors = grid.values.clone() if self.gradient == "published" else grid.values.abs()
        factors[grid.zero] = 1.0
        return _select(factors, self.index[name])

    def start_epoch(self) -> None:
        """Forget the averaged relevance where the settings ask for it (published)."""
        if self.relevance is not None:
            self.relevance.start_epoch()

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
        if self.relevance is None or self.lam == 0:
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
                    weight.data = self.full_precision[name].data
            yield
        finally:
            for name, weight in self.weights.items():
                weight.data = quantized[name]

    @torch.no_grad()
    def _assign_all(self, relevances: Mapping[str, Tensor] | None) -> None:
        weights = {n: w.detach().float().contiguous() for n, w in self.full_precision.items()}
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
        for kind, tensors in (("weight", self.full_precision), ("relevance", averaged)):
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
        zeros = sum(
            int((index == self.grids[name].zero).sum()) for name, index in self.index.items()
        )
        return zeros / sum(index.numel() for index in self.index.values())

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
        state = self.model.state_dict()
        return state, {name: coded[first] for name, first in self._first_names.items()}

    def parameter_records(self) -> list[ParameterRecord]:
        """What becomes of every parameter of the model, by every name it has, and why."""
        numbers = {record.pop("layer"): record for record in self.layers()}
        for name, grid in self.grids.items():
            del numbers[name]["elements"]
            numbers[name] |= {"bits": self.bits, "step": getattr(grid, "step", None)}
        return records_of(self._survey, numbers)

    def summary(self) -> str:
        """A table of every parameter of the model, and what becomes of it, for a person."""
        return table(self.parameter_records())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, as flat tensors, to be resumed from.

        Returns
        -------
        dict of str to Tensor
            ``model.*``, ``full_precision.*``, ``integers.*``, what the centroids are restored from
            (``step.*`` in float64 and ``first.*``, the lowest integer of the grid, or
            ``codebook.*``) and, where there is one, ``relevance.*``.
        """
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, k in self.integers().items():
            state[f"full_precision.{name}"] = self.full_precision[name].detach()
            state[f"integers.{name}"] = k
            grid = self._grid_state(name)
            state |= {f"{prefix}.{name}": tensor for prefix, tensor in grid.items()}
        if self.relevance is not None:
            for name, tensor in self.relevance.values.items():
                state[f"relevance.{name}"] = tensor
        return state

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
            self._restore_grids(state)
            for name, copy in self.full_precision.items():
                copy.copy_(state[f"full_precision.{name}"])
                k = state[f"integers.{name}"].to(copy.device, torch.int32)
                index = (k + self.grids[name].zero).reshape(copy.shape)
                if index.min() < 0 or index.max() >= len(self.grids[name].values):
                    raise ValueError(f"{name} has integers that {self.bits} bits do not allow")
                self.index[name] = index
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"the state is not one of this quantizer: {error}") from error
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
