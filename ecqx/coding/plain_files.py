"""The floor: the trained network in fewer bits a value and a general-purpose compressor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ecqx.coding.coded_state import read_coded_state
from ecqx.coding.forms import Form
from ecqx.coding.packed import read_packed, write_packed
from ecqx.coding.tensor_files import section


@dataclass(frozen=True)
class Float16File(Form):
    """Every floating-point tensor in half precision, then zstd."""

    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        """Write the state_dict in half precision."""
        state = read_coded_state(trained).state
        write_packed(path, {n: t.half() if t.is_floating_point() else t for n, t in state.items()})

    def read(self, path: Path) -> dict[str, Tensor]:
        """The state_dict in float32."""
        state = read_packed(path)
        return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


@dataclass(frozen=True)
class Integer8File(Form):
    """Weights rounded to 8 bit, one step of max|w|/127 a tensor, the rest as it is, then zstd."""

    suffix: ClassVar[str] = "zst"

    def write(self, trained: Path, path: Path) -> None:
        """Write integers and steps, and the other tensors as they are."""
        tensors = {}
        for name, tensor in read_coded_state(trained).state.items():
            if tensor.ndim > 1 and tensor.is_floating_point():
                # All zeros: any step will do.
                step = tensor.abs().max() / 127
                step = torch.where(step > 0, step, 1.0)
                tensors[f"integers.{name}"] = (tensor / step).round().to(torch.int8)
                tensors[f"step.{name}"] = step
            else:
                tensors[f"kept.{name}"] = tensor
        write_packed(path, tensors)

    def read(self, path: Path) -> dict[str, Tensor]:
        """The state_dict with the values that the integers stand for."""
        tensors = read_packed(path)
        steps = section(tensors, "step")
        integers = section(tensors, "integers")
        return section(tensors, "kept") | {n: k.float() * steps[n] for n, k in integers.items()}
