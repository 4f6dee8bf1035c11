"""The settings of an assignment. Beside them this imports nothing that takes long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Pmf = Literal["published", "normalized"]
LambdaMax = Literal["published", "derived"]
Beta = Literal["nearest", "nearest_above_p", "published"]

_CHOICES = {"pmf": get_args(Pmf), "lambda_max": get_args(LambdaMax), "beta": get_args(Beta)}


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
    beta: Beta = "nearest"

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
        for setting, choices in _CHOICES.items():
            value = getattr(self, setting)
            if value not in choices:
                raise ValueError(f"{setting} must be one of {', '.join(choices)}, not {value!r}")

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest sparsity of ECQx, minus ECQ's."""
        return self.sparsity_band if self.sparsity_band is not None else (-self.p, 0.0)
