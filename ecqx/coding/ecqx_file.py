"""The suite's own file as a file form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ecqx.coding.bitstream import load, save
from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import Form
from ecqx.coding.tensor_coding import Floats


@dataclass(frozen=True)
class EcqxFile(Form):
    """An .ecqx file; `ecqx.save` says how ``floats`` are stored."""

    floats: Floats = "raw"
    suffix: ClassVar[str] = "ecqx"

    def write(self, trained: Path, path: Path) -> None:
        """Write the file, read it back, and compare what is coded without loss."""
        coded = read_coded_state(trained)
        save(path, coded, self.floats)
        decoded = load(path)
        lossless = coded.state if self.floats == "raw" else coded.quantized
        changed = [name for name in lossless if not torch.equal(coded.state[name], decoded[name])]
        if changed or list(coded.state) != list(decoded):
            raise RuntimeError(f"{path}: decodes to another {changed or 'list of tensors'}")

    def read(self, path: Path) -> dict[str, Tensor]:
        return load(path)
