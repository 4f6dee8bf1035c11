"""MLP_GSC, the paper's network for Google Speech Commands, with any input and output size."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

HIDDEN = (512, 512, 256, 256, 128, 128)


def mlp_gsc(in_features: int = 735, num_classes: int = 12) -> nn.Sequential:
    """Build the fully connected network 512-512-256-256-128-128-``num_classes`` with ReLU.

    Inputs of ``in_features`` elements are flattened.
    """
    sizes = (in_features, *HIDDEN)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
