"""The settings of a quantizer: listed, documented and checked here, and nowhere else.

Beside torch this imports nothing that takes long, no numba, zennit or coder: checks stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecqx.assignment.bits import Step, check_step
from ecqx.assignment.mixed_precision import DEFAULT_BITS, Bits, checked_bits
from ecqx.assignment.settings import AssignmentSettings
from ecqx.modules import name_parts

Gradient = Literal["magnitude", "published", "identity"]
GRADIENTS: tuple[Gradient, ...] = ("magnitude", "published", "identity")


@dataclass(frozen=True)
class QuantizerSettings(AssignmentSettings):
    """How weights are quantized in training; relevance has settings of its own, `ecqx.LRP`.

    Attributes
    ----------
    lam, p, sparsity_band, pmf, lambda_max, beta
        See `ecqx.assign`.
    bits : int or mapping of str to int
        Bit width, 2 to 8; or mixed precision, widths by parts of names, ``"*"`` for all other
        weights (4 by default): ``{"conv1": 5, "layer3": 3}``. `ecqx.assignment.mixed_precision`
        says which part decides.
    step : {"float32", "nnc"}
        How exact the step of a grid is (`ecqx.CentroidGrid.fit`).
    gradient : {"magnitude", "published", "identity"}
        Factor on the gradient of a weight, on its way to the latent weight: the magnitude of its
        centroid, the signed centroid (published; it reverses the gradient in negative clusters), or
        one. In the zero cluster it is always one.
    exclude : tuple of str
        Weights that one of these means are not quantized: a module's name its weights, any other
        part of names all that contain it (`ecqx.modules.meant_by`).
    include : tuple of str
        Parameters of more than one dimension that one of these means are quantized, too, though
        they are no weights (`ecqx.modules.is_weight`): positions, for example.

    Raises
    ------
    ValueError
        For the first setting that is out of range.
    """

    bits: Bits = DEFAULT_BITS
    step: Step = "float32"
    gradient: Gradient = "magnitude"
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for setting in ("exclude", "include"):
            object.__setattr__(self, setting, name_parts(setting, getattr(self, setting)))
        if self.sparsity_band is not None:
            object.__setattr__(self, "sparsity_band", tuple(self.sparsity_band))
        object.__setattr__(self, "bits", checked_bits(self.bits))
        check_step(self.step)
        if self.gradient not in GRADIENTS:
            choices = ", ".join(GRADIENTS)
            raise ValueError(f"gradient must be one of {choices}, not {self.gradient!r}")
        super().__post_init__()
