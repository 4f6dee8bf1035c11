"""The settings of a quantizer: listed, documented and checked here, and nowhere else.

Imports neither numba nor zennit nor a coder: settings are checked in no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecqx.assignment.assign import AssignmentSettings
from ecqx.assignment.centroids import check_bits
from ecqx.assignment.information import LambdaMax, Pmf

Gradient = Literal["magnitude", "published", "identity"]
GRADIENTS: tuple[Gradient, ...] = ("magnitude", "published", "identity")


@dataclass(frozen=True)
class QuantizerSettings:
    """How weights are quantized in training; relevance has settings of its own, `ecqx.LRP`.

    Attributes
    ----------
    bits : int
        Bit width, 2 to 8.
    lam : float
        Λ ≥ 0, strength of the entropy constraint; 0 for the nearest centroid.
    p : float
        Width of the sparsity band, in [0, 1]: short for ``sparsity_band=(-p, 0)``.
    sparsity_band : (float, float), optional
        Lowest and highest sparsity with relevance, relative to the one without, each in [-1, 1].
    gradient : {"magnitude", "published", "identity"}
        How the gradient of a weight in a non-zero cluster is scaled on its way to the latent
        weight: by the magnitude of its centroid, by the signed centroid (published; it reverses
        the gradient in negative clusters), or not.
    exclude : tuple of str
        Parameters whose name contains one of these stay as they are.
    pmf : {"published", "normalized"}
        See `ecqx.assignment.information.probabilities`.
    lambda_max : {"published", "derived"}
        See `ecqx.assignment.information.lambda_max`.

    Raises
    ------
    ValueError
        With one line for the first setting that is out of range.
    """

    bits: int = 4
    lam: float = 0.05
    p: float = 0.1
    sparsity_band: tuple[float, float] | None = None
    gradient: Gradient = "magnitude"
    exclude: tuple[str, ...] = ()
    pmf: Pmf = "published"
    lambda_max: LambdaMax = "published"

    def __post_init__(self) -> None:
        """Check all settings; a list becomes a tuple."""
        if isinstance(self.exclude, str):
            raise ValueError(f"exclude must be a sequence of names, not one: ({self.exclude!r},)")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if self.sparsity_band is not None:
            object.__setattr__(self, "sparsity_band", tuple(self.sparsity_band))
        check_bits(self.bits)
        if self.gradient not in GRADIENTS:
            choices = ", ".join(GRADIENTS)
            raise ValueError(f"gradient must be one of {choices}, not {self.gradient!r}")
        _ = self.assignment

    @property
    def assignment(self) -> AssignmentSettings:
        """The part of the settings that `ecqx.assign` takes."""
        return AssignmentSettings(self.lam, self.p, self.sparsity_band, self.pmf, self.lambda_max)

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest sparsity with relevance, relative to the one without."""
        return self.assignment.band
