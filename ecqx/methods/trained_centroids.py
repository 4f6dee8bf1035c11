"""EC2T and FantastIC4 as methods; `ecqx.quantizers.trained_centroids` has their quantizers.

With relevance, the cost of the zero cluster depends on it as in ECQx.
"""

from __future__ import annotations

from ecqx.methods.ecq import EntropyConstrained
from ecqx.quantizers import trained_centroids


class EC2T(EntropyConstrained):
    """Entropy-constrained trained ternarization: zero and two trained centroids a layer."""

    quantizer_class = trained_centroids.EC2T
    defaults = trained_centroids.EC2T.defaults
    width = trained_centroids.EC2T.width()


class EC2Tx(EC2T):
    """EC2T with relevance."""

    is_relevant = True


class FantastIC4(EntropyConstrained):
    """Sixteen centroids a layer: all subset sums of four trained numbers."""

    quantizer_class = trained_centroids.FantastIC4
    width = trained_centroids.FantastIC4.width()


class FantastIC4x(FantastIC4):
    """FantastIC4 with relevance."""

    is_relevant = True
