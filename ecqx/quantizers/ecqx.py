"""ECQ and ECQx: the quantizer of a model on equidistant grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ecqx.assignment.centroids import CentroidGrid, GridStack
from ecqx.assignment.mixed_precision import DEFAULT_BITS, Bits
from ecqx.coding.quantized import Quantized, QuantizedTensor
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.processes import Group
from ecqx.relevance.settings import LRP


class ECQx(Quantizer):
    """Entropy-constrained quantizer of a model's weights, with relevance (ECQx) or without (ECQ).

    Every floating-point parameter with more than one dimension is quantized, input and output
    layers included; `summary` lists all parameters. The grid of each is fitted once, on the weights
    that the model comes with; the first assignment is ECQ.

    Parameters
    ----------
    model : Module
        Changed in place: its quantized parameters hold centroids, rounded to the parameter's type
        where that is half precision. Unwrapped from DataParallel or ``torch.compile``, so that
        parameter names are those of the model itself.
    bits, lam, **settings
        See `ecqx.quantizers.settings.QuantizerSettings`.
    relevance : LRP, optional
        Settings of the relevance; None for ECQ.
    process_group : ProcessGroup or None, optional
        Processes that have the same weights, relevances and centroids; they take the weights of the
        first. By default those of the model's DistributedDataParallel. None: each on its own.

    Raises
    ------
    ValueError
        If a setting is out of range, nothing is left to quantize, a parameter is not finite or
        cannot be quantized (`ecqx.quantizers.parameters.survey`), all weights of one are zero, a
        file could not hold the model, or there are several processes without a group.
    TypeError
        If there is no such setting.

    Notes
    -----
    For half-precision weights, latent weights and relevance are float32. What is not quantized is
    trained in the model's own type: in float16 Adam needs a larger ``eps`` (1e-4), because its
    default 1e-8 is zero there.

    Examples
    --------
    >>> import torch, ecqx
    >>> model = ecqx.models.build("mlp_gsc", in_features=64, num_classes=10)
    >>> q = ecqx.ECQx(model, bits=4, lam=0.05, relevance=ecqx.LRP())
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    >>> q.attach(optimizer)
    >>> x, y = torch.rand(8, 64), torch.arange(8)
    >>> optimizer.zero_grad()
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> q.targets(y)
    >>> optimizer.step()
    """

    grids: dict[str, CentroidGrid]

    def __init__(
        self,
        model: nn.Module,
        bits: Bits = DEFAULT_BITS,
        lam: float = 0.05,
        relevance: LRP | None = None,
        process_group: Group = "model",
        **settings: Any,
    ) -> None:
        known = QuantizerSettings(bits=bits, lam=lam, **settings)
        super().__init__(model, known, relevance, process_group)

    def _fit(self) -> None:
        step = self.settings.step
        self.grids = self._of_each_layer(lambda w, bits: CentroidGrid.fit(w, bits, step))
        self._stack = GridStack.of(self.grids.values())

    def _coded(self, name: str, integers: Tensor) -> Quantized:
        return QuantizedTensor(integers, self.grids[name].step, self.bit_widths[name])

    def _grid_state(self, name: str) -> dict[str, Tensor]:
        grid = self.grids[name]
        step = torch.tensor(grid.step, dtype=torch.float64, device="cpu")
        return {"step": step, "first": torch.tensor(-grid.zero, device="cpu")}

    def _restore_grids(self, state: Mapping[str, Tensor]) -> None:
        for name, latent in self.latent.items():
            step, first = float(state[f"step.{name}"]), int(state[f"first.{name}"])
            count = 2 ** self.bit_widths[name]
            self.grids[name] = CentroidGrid.from_step(step, first, count, latent.device)
        self._stack = GridStack.of(self.grids.values())
