"""EC2T and FantastIC4 as methods, without relevance and with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from torch import nn

from ecqx.methods.ecq import EntropyConstrained
from ecqx.quantizers import trained_centroids
from ecqx.quantizers.base import Quantizer


class _TrainedCentroids(EntropyConstrained):
    """A quantizer that trains its centroids beside the weights."""

    quantizer_class: ClassVar[type[trained_centroids.TrainedQuantizer]]

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> Self:
        """The method with these settings, and the quantizer's own defaults for the others."""
        return super().build({**cls.quantizer_class.defaults, **settings})

    def constrain(self, model: nn.Module, steps: int) -> Quantizer:
        """Attach the quantizer."""
        settings = asdict(self.quantizer)
        del settings["bits"]
        return self.quantizer_class(model, relevance=self.relevance, **settings)


class EC2T(_TrainedCentroids):
    """Entropy-constrained trained ternarization."""

    quantizer_class = trained_centroids.EC2T
    width = trained_centroids.EC2T.width()


class EC2Tx(EC2T):
    """EC2T with relevance."""

    is_relevant = True


class FantastIC4(_TrainedCentroids):
    """Sixteen centroids that are sums of four trained numbers."""

    quantizer_class = trained_centroids.FantastIC4
    width = trained_centroids.FantastIC4.width()


class FantastIC4x(FantastIC4):
    """FantastIC4 with relevance."""

    is_relevant = True
