"""ECQ, ECQx, EC2T and FantastIC4 as methods of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ecqx.coding.bitstream import load, save
from ecqx.methods import family
from ecqx.methods.interface import Method
from ecqx.quantizers.base import Quantizer
from ecqx.relevance.settings import LRP
from ecqx.training.constraint import Constraint


@dataclass(frozen=True)
class EntropyConstrained(Method):
    """A quantizer of `ecqx.methods.family`, coded with NNCodec's engine.

    Attributes
    ----------
    method : str
        Its name there.
    lam : float
        Λ ≥ 0.
    bits : int
        Bit width; not looked at where the method has one of its own.
    relevance : LRP, optional
        Where the method takes relevance into account.
    settings : mapping
        The others of `ecqx.ECQx`.
    """

    method: str
    lam: float
    bits: int = 4
    relevance: LRP | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    suffix: ClassVar[str] = "ecqx"

    def constrain(self, model: nn.Module, steps: int) -> Quantizer:
        """Attach the quantizer."""
        return family.build(
            self.method, model, self.bits, self.relevance, lam=self.lam, **self.settings
        )

    def write(self, path: Path, model: nn.Module, constraint: Constraint | None) -> None:
        """Write a file of the suite; floats coded with loss, as NNCodec's are everywhere here."""
        assert isinstance(constraint, Quantizer)
        save(path, constraint, floats="published")

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read a file of the suite."""
        return load(path)
