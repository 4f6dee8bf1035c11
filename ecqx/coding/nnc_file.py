"""NNCodec on its own: quantization and coding after training, as its package does it.

Becking et al., 2023; ISO/IEC 15938-17. The whole package is used here, with its own bitstream; the
suite's own files use its entropy coder alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import Form
from ecqx.files import write_atomically


def _package() -> ModuleType:
    """NNCodec, imported late: it takes seconds."""
    return import_module("nncodec.nnc")


@dataclass(frozen=True)
class NncFile(Form):
    """Uniform or dependent (trellis-coded) quantization after training.

    Weights have the step of ``qp``; tensors of one dimension that of the package's default,
    -75. Row skipping and the adaptation of the coder's parameters are on; the tools that look at
    data or train (IOQ, LSA, fine-tuning) are off.

    Attributes
    ----------
    qp : int
        Quantization parameter; the step doubles every 4.
    dependent : bool
        Dependent quantization.
    """

    qp: int
    dependent: bool
    suffix: ClassVar[str] = "nnc"

    def write(self, trained: Path, path: Path) -> None:
        """Write a bitstream of NNCodec.

        Raises
        ------
        RuntimeError
            If the package refuses the model; it would end the program.
        """
        state = read_coded_state(trained).state
        tensors = {name: _as_array(tensor) for name, tensor in state.items()}

        def compress(temporary: Path) -> None:
            settings: dict[str, Any] = {"qp": self.qp, "use_dq": self.dependent}
            _package().compress(tensors, str(temporary), row_skipping=True, **settings)

        _guarded(path, lambda: write_atomically(path, compress))

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read a bitstream of NNCodec; shapes of single numbers are (1,) there and here."""
        found: dict[str, Any] = {}
        _guarded(path, lambda: found.update(_package().decompress(str(path))))
        return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as NNCodec takes it: float32 or int32, at least one dimension."""
    array = tensor.detach().cpu().numpy()
    kind = np.float32 if tensor.is_floating_point() else np.int32
    return np.atleast_1d(array.astype(kind))


def _guarded(path: Path, call: Callable[[], object]) -> None:
    try:
        call()
    except SystemExit as error:
        raise RuntimeError(f"{path}: NNCodec gave up: {error}") from error
