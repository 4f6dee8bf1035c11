"""Quantizers whose centroids are trained: EC2T and FantastIC4.

Marban et al., "Learning Sparse & Ternary Neural Networks with Entropy-Constrained Trained
Ternarization (EC2T)", CVPR Workshops 2020; Wiedemann et al., "FantastIC4", IEEE Open Journal of
Circuits and Systems 2021. Both are ECQ's quantizer with a codebook (`ecqx.assignment.codebooks`)
in place of the equidistant grid; docs/method.md has the formulas.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecqx.assignment.bits import Form, bits_of
from ecqx.assignment.centroids import GridStack
from ecqx.assignment.codebooks import Codebook, binary_basis, codebooks, ternary
from ecqx.coding.quantized import CodebookTensor, Quantized
from ecqx.quantizers.base import Quantizer
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.processes import Group
from ecqx.relevance.settings import LRP


class TrainedQuantizer(Quantizer):
    """Quantizer whose centroids are sums of a few numbers a layer, which the optimizer trains.

    The gradient of a number is the sum of the gradients of all weights whose centroid contains it.
    Parameters and use are those of `ecqx.ECQx`, without its ``bits``.

    Attributes
    ----------
    numbers : Parameter of float32, shape (L, m)
        One row a layer, in the order of ``weights``.
    """

    form: ClassVar[Form]
    count: ClassVar[int]
    # Defaults that differ from those of `QuantizerSettings`.
    defaults: ClassVar[Mapping[str, Any]] = {}
    grids: dict[str, Codebook]

    def __init__(
        self,
        model: nn.Module,
        lam: float = 0.05,
        relevance: LRP | None = None,
        process_group: Group = "model",
        **settings: Any,
    ) -> None:
        settings = {**self.defaults, **settings}
        known = QuantizerSettings(bits=self.width(), lam=lam, **settings)
        if known.step != QuantizerSettings.step:
            raise ValueError("step is a setting of grids; trained centroids have none")
        super().__init__(model, known, relevance, process_group)

    @classmethod
    def width(cls) -> int:
        """Bit width."""
        return bits_of(cls.form, cls.count)

    @staticmethod
    @abstractmethod
    def first_numbers(weight: Tensor) -> Tensor:
        """Initial numbers of a layer's codebook, float32, shape (m,)."""

    def _clamp_numbers(self) -> None:
        """Clamp numbers that the optimizer moved out of their range."""

    def _fit(self) -> None:
        first = self._of_each_layer(lambda weight, _: self.first_numbers(weight))
        self.numbers = nn.Parameter(torch.stack(list(first.values())))
        self._build_codebooks()

    def _build_codebooks(self) -> None:
        """Set `grids` and `_stack` from the numbers."""
        built = codebooks(self.form, self.numbers)
        self.grids = dict(zip(self.weights, built, strict=True))
        self._stack = GridStack.of(built)

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of `ecqx.ECQx`, and the numbers, without weight decay."""
        groups = super().parameter_groups(weight_decay)
        return [*groups, {"params": [self.numbers], "weight_decay": 0.0}]

    @torch.no_grad()
    def transfer_gradients(self) -> None:
        """Sum the gradients of the quantized weights for the numbers; then as in `ecqx.ECQx`."""
        self._begin_step()
        gradient = torch.zeros_like(self.numbers)
        for row, name in zip(gradient, self.weights, strict=True):
            given = self._gradient(name)
            if given is not None:
                row.copy_(self._summed(name, given))
        self._give(self.numbers, gradient, is_sum=self.steps_quantized)
        super().transfer_gradients()

    def _summed(self, name: str, gradient: Tensor) -> Tensor:
        """Gradient of a layer's numbers: summed over each cluster, then over a number's clusters.

        In float64, because a cluster may hold millions of weights.
        """
        codebook = self.grids[name]
        clusters = codebook.members.new_zeros(len(codebook))
        clusters.index_add_(0, self.index[name].flatten(), gradient.flatten().double())
        return clusters @ codebook.members

    @torch.no_grad()
    def _assign_all(self, relevances: Mapping[str, Tensor] | None) -> None:
        self._clamp_numbers()
        self._build_codebooks()
        super()._assign_all(relevances)

    def _coded(self, name: str, integers: Tensor) -> Quantized:
        return CodebookTensor(integers, self.grids[name])

    def _grid_state(self, name: str) -> dict[str, Tensor]:
        return {"codebook": self.grids[name].numbers}

    def _restore_grids(self, state: Mapping[str, Tensor]) -> None:
        for row, name in zip(self.numbers, self.weights, strict=True):
            row.copy_(state[f"codebook.{name}"])
        self._build_codebooks()


class EC2T(TrainedQuantizer):
    """Entropy-constrained trained ternarization: three centroids a layer, w_n < 0 < w_p.

    w_n and w_p start at the means of the weights that are nearer to them than to zero. One that
    training moves to zero is merged with the zero cluster; it never crosses zero.

    Parameters
    ----------
    model, lam, relevance, process_group, **settings
        As for `ecqx.ECQx`, but ``lambda_max`` is ``derived`` by default, EC2T's own formula: its
        centroids lie well within the weights' range, where ``published`` is several times as large
        and empties whole layers.

    Examples
    --------
    >>> import torch, ecqx
    >>> model = ecqx.models.build("mlp_gsc", in_features=64, num_classes=10)
    >>> q = ecqx.EC2T(model, lam=0.05)
    >>> q.attach(torch.optim.Adam(model.parameters(), lr=1e-3))
    >>> [len(weight.unique()) for weight in q.weights.values()]
    [3, 3, 3, 3, 3, 3, 3]
    """

    form = "values"
    count = 2
    defaults: ClassVar = {"lambda_max": "derived"}
    first_numbers = staticmethod(ternary)

    def _clamp_numbers(self) -> None:
        self.numbers[:, 0].clamp_(max=0.0)
        self.numbers[:, 1].clamp_(min=0.0)


class FantastIC4(TrainedQuantizer):
    """Four bits a weight: sixteen centroids, all subset sums of four trained numbers a layer.

    Training starts from numbers whose sums are ECQ's own 4-bit grid.

    Parameters
    ----------
    model, lam, relevance, process_group, **settings
        As for `ecqx.ECQx`.

    Examples
    --------
    >>> import torch, ecqx
    >>> model = ecqx.models.build("mlp_gsc", in_features=64, num_classes=10)
    >>> q = ecqx.FantastIC4(model, lam=0.05)
    >>> max(len(weight.unique()) for weight in q.weights.values()) <= 16
    True
    """

    form = "sums"
    count = 4
    first_numbers = staticmethod(binary_basis)
