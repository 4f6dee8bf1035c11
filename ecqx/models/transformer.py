"""A small vision transformer: pictures as sequences of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchTransformer(nn.Module):
    """Transformer encoder over the patches of a picture, whose mean is classified.

    Norms stand in front of attention and of the two linear layers of a block, which have GELU
    between them and twice the width. Positions are learned.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 8,
        patch_size: int = 2,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.positions = nn.Embedding((image_size // patch_size) ** 2, width)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, in_channels, image_size, image_size) to logits, shape (B, num_classes)."""
        tokens = self.patches(x).flatten(2).mT
        tokens = tokens + self.positions(torch.arange(tokens.shape[1], device=x.device))
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits
