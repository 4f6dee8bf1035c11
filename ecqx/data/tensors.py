"""A data set held as tensors on the device, cut into three splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ecqx.checkpoint import read_tensors, write_tensors
from ecqx.errors import InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    inputs : Tensor, shape (N, …)
    targets : Tensor, shape (N,) or (N, …)
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once.

        Parameters
        ----------
        size : int
            Samples a batch; the last one may be smaller.
        generator : torch.Generator, optional
            Draws the order; without one the order is that of the data.

        Yields
        ------
        (Tensor, Tensor)
            Inputs and targets of a batch.
        """
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator)
        for chosen in torch.split(order.to(self.targets.device), size):
            yield self.inputs[chosen], self.targets[chosen]

    def take(self, count: int) -> Split:
        """The first ``count`` samples."""
        return Split(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True)
class TensorData:
    """Training, validation and test split of a data set.

    Validation chooses (epochs, settings); the test split is for the reported number alone.
    """

    train: Split
    validation: Split
    test: Split

    @property
    def num_classes(self) -> int:
        """Number of classes, from the labels of the training split."""
        return int(self.train.targets.max()) + 1

    def save(self, path: str | Path) -> None:
        """Write the splits to one safetensors file."""
        tensors = {}
        for name in SPLITS:
            split: Split = getattr(self, name)
            tensors[f"{name}.inputs"] = split.inputs
            tensors[f"{name}.targets"] = split.targets
        write_tensors(path, tensors)

    @classmethod
    def load(cls, path: str | Path) -> TensorData:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing or not such a file.
        """
        tensors, _ = read_tensors(path)
        try:
            splits = (
                Split(tensors[f"{name}.inputs"], tensors[f"{name}.targets"]) for name in SPLITS
            )
            return cls(*splits)
        except KeyError as error:
            raise InputError(f"{path}: not a data file of this suite, {error} is missing") from None
