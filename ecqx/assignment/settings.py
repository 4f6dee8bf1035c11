"""The settings of an assignment. Beside them this imports nothing that takes long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Pmf = Literal["published", "normalized"]
LambdaMax = Literal["published", "derived"]

PMF_CHOICES: tuple[Pmf, ...] = ("published", "normalized")
LAMBDA_MAX_CHOICES: tuple[LambdaMax, ...] = ("published", "derived")


@dataclass(frozen=True)
class AssignmentSettings:
    """How weights are assigned; see `ecqx.assign`.

    Raises
    ------
    ValueError
        With one line for the first setting that is out of range.
    """

    lam: float = 0.05
    p: float = 0.1
    sparsity_band: tuple[float, float] | None = None
    pmf: Pmf = "published"
    lambda_max: LambdaMax = "published"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise ValueError(f"lam (Lambda) must be a finite number, at least 0, not {self.lam}")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must lie in [0, 1], not {self.p}")
        if self.sparsity_band is not None:
            band = self.sparsity_band
            if len(band) != 2 or not -1 <= band[0] <= band[1] <= 1:
                raise ValueError(
                    "sparsity_band must be (low, high) with -1 <= low <= high <= 1, "
                    f"not {tuple(band)}"
                )
        if self.pmf not in PMF_CHOICES:
            raise ValueError(f"pmf must be one of {', '.join(PMF_CHOICES)}, not {self.pmf!r}")
        if self.lambda_max not in LAMBDA_MAX_CHOICES:
            choices = ", ".join(LAMBDA_MAX_CHOICES)
            raise ValueError(f"lambda_max must be one of {choices}, not {self.lambda_max!r}")

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest sparsity of ECQx, minus ECQ's."""
        return self.sparsity_band if self.sparsity_band is not None else (-self.p, 0.0)
