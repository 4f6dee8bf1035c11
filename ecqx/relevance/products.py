"""Products of two branches, as in the gates of a network, and their rule of relevance."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from zennit.core import Hook


class BranchProduct(nn.Module):
    """Product of two branches, as a layer that relevance can split."""

    def forward(self, branches: Tensor) -> Tensor:
        """Shape (…, 2), the stacked branches, to (…)."""
        return branches.prod(-1)


class Uniform(Hook):  # type: ignore[misc]
    """Each factor receives an equal share of the product's relevance.

    Source: Achtibat et al., "AttnLRP" (2024).
    """

    def copy(self) -> Uniform:
        """Return a fresh rule for another module."""
        return Uniform()

    def backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor]:
        """Distribute the relevance of the output to the input."""
        shares = grad_input[0].shape[-1]
        return ((grad_output[0] / shares).unsqueeze(-1).expand_as(grad_input[0]),)
