"""Quantizers whose centroids are trained: EC2T and FantastIC4.

Marban et al., "Learning Sparse & Ternary Neural Networks with Entropy-Constrained Trained
Ternarization (EC2T)", CVPR Workshops 2020; Wiedemann et al., "FantastIC4", IEEE Open Journal of
Circuits and Systems 2021. Both are the quantizer of ECQ and ECQx with a codebook
(`ecqx.assignment.codebooks`)
in the place of the equidistant grid; docs/trained_centroids.md has the formulas.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecqx.assignment.centroids import GridStack, is_finite
from ecqx.assignment.codebooks import Codebook, Form, binary_basis, bits_of, codebooks, ternary
from ecqx.coding.quantized import CodebookTensor, Quantized
from ecqx.quantizers.base import Quantizer, naming
from ecqx.quantizers.settings import QuantizerSettings
from ecqx.relevance.settings import LRP


class TrainedQuantizer(Quantizer):
    """Quantizer whose centroids are made of a few numbers a layer, which the optimizer trains.

    The gradient of a number is the sum of the gradients at all weights whose centroid it is a
    member of. Parameters and use are those of `ecqx.ECQx`, without its ``bits``.

    Attributes
    ----------
    numbers : Parameter of float32, shape (L, m)
        One row a layer, in the order of ``weights``.
    """

    form: ClassVar[Form]
    count: ClassVar[int]
    # Of the settings, where they are not those of `QuantizerSettings`.
    defaults: ClassVar[Mapping[str, Any]] = {}
    grids: dict[str, Codebook]

    def __init__(
        self,
        model: nn.Module,
        lam: float = 0.05,
        relevance: LRP | None = None,
        **settings: Any,
    ) -> None:
        settings = {**self.defaults, **settings}
        super().__init__(
            model, QuantizerSettings(bits=self.width(), lam=lam, **settings), relevance
        )

    @classmethod
    def width(cls) -> int:
        """Bit width."""
        return bits_of(cls.form, cls.count)

    @staticmethod
    @abstractmethod
    def first_numbers(weight: Tensor) -> Tensor:
        """The numbers, float32, shape (m,), that training of a layer's codebook starts from."""

    def _confine(self) -> None:
        """Put numbers that a step took where they must not be back to the edge."""

    def _fit(self) -> None:
        rows = []
        for name, latent in self.latent.items():
            with naming(name):
                rows.append(self.first_numbers(latent))
        self.numbers = nn.Parameter(torch.stack(rows))
        self._draw()

    def _draw(self) -> None:
        """Draw codebooks and what the assignment needs of them from the numbers as they are."""
        drawn = codebooks(self.form, self.numbers)
        self.grids = dict(zip(self.weights, drawn, strict=True))
        self._stack = GridStack.of(drawn)

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """As of `ecqx.ECQx`, and the numbers, without weight decay."""
        groups = super().parameter_groups(weight_decay)
        return [*groups, {"params": [self.numbers], "weight_decay": 0.0}]

    @torch.no_grad()
    def transfer_gradients(self) -> None:
        """Sum up the gradients at the quantized weights for the numbers, and hand them on."""
        gradient = torch.zeros_like(self.numbers)
        for row, (name, weight) in zip(gradient, self.weights.items(), strict=True):
            if weight.grad is not None:
                row.copy_(self._summed(name, weight.grad))
        self.numbers.grad = gradient
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
        self._confine()
        self._draw()
        super()._assign_all(relevances)

    def _check_finite(self) -> None:
        super()._check_finite()
        for name, codebook in self.grids.items():
            if not is_finite(codebook.values):
                raise ValueError(f"{name}: codebook holds NaN or infinite values")

    def _coded(self, name: str, integers: Tensor) -> Quantized:
        return CodebookTensor(integers, self.grids[name])

    def _grid_state(self, name: str) -> dict[str, Tensor]:
        return {"codebook": self.grids[name].numbers}

    def _restore_grids(self, state: Mapping[str, Tensor]) -> None:
        for row, name in zip(self.numbers, self.weights, strict=True):
            row.copy_(state[f"codebook.{name}"])
        self._draw()


class EC2T(TrainedQuantizer):
    """Entropy-constrained trained ternarization: three clusters a layer, w_n < 0 < w_p.

    Zero stays; w_n and w_p are trained, from the means of the weights that are nearer to them than
    to zero. One that training leads to zero is merged with it; it never crosses zero.

    Parameters
    ----------
    model, lam, relevance, **settings
        As for `ecqx.ECQx`; with relevance the zero cluster has its factor as in ECQx. But
        ``lambda_max`` is ``derived`` by default, EC2T's own formula: its centroids lie well
        within the weights' range, where ``published`` is several times as large and layers die.

    Examples
    --------
    >>> import torch, ecqx
    >>> model = ecqx.models.build("mlp_gsc", in_features=64, num_classes=10)
    >>> q = ecqx.EC2T(model, lam=0.05)
    >>> optimizer = torch.optim.Adam(q.parameter_groups(), lr=1e-3)
    >>> [len(weight.unique()) for weight in q.weights.values()]
    [3, 3, 3, 3, 3, 3, 3]
    """

    form = "values"
    count = 2
    defaults: ClassVar = {"lambda_max": "derived"}
    first_numbers = staticmethod(ternary)

    def _confine(self) -> None:
        self.numbers[:, 0].clamp_(max=0.0)
        self.numbers[:, 1].clamp_(min=0.0)


class FantastIC4(TrainedQuantizer):
    """Four bits a weight: sixteen clusters, all sums of subsets of four trained numbers a layer.

    Training starts from numbers whose sums are ECQ's own 4-bit grid.

    Parameters
    ----------
    model, lam, relevance, **settings
        As for `ecqx.ECQx`; with relevance the zero cluster has its factor as in ECQx.

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
