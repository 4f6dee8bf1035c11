"""NNCodec's own files: post-training quantization and coding by its package.

Becking et al., 2023; ISO/IEC 15938-17. The suite's own files use its entropy coder only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import Form
from ecqx.files import write_atomically


@dataclass(frozen=True)
class NncFile(Form):
    """Uniform or ``dependent`` (trellis-coded) quantization after training.

    ``qp`` is the quantization parameter of the weights; the step doubles when it grows by 4.
    Tensors of one dimension have the package's default, -75. Row skipping and parameter
    optimization of the coder are on; tools that need data (IOQ, LSA, fine-tuning) are off.
    """

    qp: int
    dependent: bool
    suffix: ClassVar[str] = "nnc"

    def write(self, trained: Path, path: Path) -> None:
        """Write a bitstream of NNCodec; ``RuntimeError`` if the package rejects the model."""
        state = read_coded_state(trained).state
        tensors = {name: _as_array(tensor) for name, tensor in state.items()}
        settings: dict[str, Any] = {"qp": self.qp, "use_dq": self.dependent, "row_skipping": True}
        with _guarded(path) as nncodec:
            write_atomically(path, lambda p: nncodec.compress(tensors, str(p), **settings))

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read a bitstream of NNCodec; single numbers have shape (1,)."""
        with _guarded(path) as nncodec:
            arrays = nncodec.decompress(str(path))
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as NNCodec needs it: float32 or int32, at least one dimension."""
    array = tensor.detach().cpu().numpy()
    kind = np.float32 if tensor.is_floating_point() else np.int32
    return np.atleast_1d(array.astype(kind))


@contextmanager
def _guarded(path: Path) -> Iterator[Any]:
    """NNCodec, imported when used, since that takes seconds; it ends the program on an error."""
    try:
        yield import_module("nncodec.nnc")
    except SystemExit as error:
        raise RuntimeError(f"{path}: NNCodec failed: {error}") from error
