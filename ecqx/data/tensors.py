"""A data set as tensors, in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ecqx.coding.tensor_files import read_tensors, write_tensors
from ecqx.errors import InputError
from ecqx.labels import IGNORED_LABEL, UNLABELLED

SPLITS = ("train", "validation", "test")
METADATA_KEY = "ecqx_data"
# Largest share of a device's free memory that a split may take.
LARGEST_SHARE = 0.5


def free_memory(device: torch.device) -> float:
    """Free memory of a GPU in bytes; infinite on a CPU, where tensors can stay in their file."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


@dataclass(frozen=True)
class Preparation:
    """Normalization and augmentation of a batch, as tensor operations.

    Attributes
    ----------
    mean, deviation : tuple of float
        Mean and standard deviation per channel, of pixels in [0, 1]; empty: no normalization.
    flip : bool
        Augmentation: random horizontal flips, of pixel labels too.
    padding : int
        Augmentation: random crops after padding with this many black pixels.
    draws : bool
        The second dimension of the inputs has several versions of a sample; training draws one,
        evaluation takes the first.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    flip: bool = False
    padding: int = 0
    draws: bool = False

    def __call__(
        self, inputs: Tensor, targets: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Prepare a batch: for training with a generator, for evaluation without."""
        if self.draws:
            inputs = _one_version(inputs, generator)
        if generator is not None and self.padding:
            inputs, targets = _random_crops(inputs, targets, self.padding, generator)
        if generator is not None and self.flip:
            inputs, targets = _random_flips(inputs, targets, generator)
        if self.mean:
            shape = (1, -1, 1, 1)
            kind: dict[str, Any] = {"dtype": torch.float32, "device": inputs.device}
            mean = torch.tensor(self.mean, **kind).reshape(shape)
            deviation = torch.tensor(self.deviation, **kind).reshape(shape)
            inputs = (inputs.to(torch.float32) / 255 - mean) / deviation
        return inputs, targets


def _one_version(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Shape (B, D, …) to (B, …): a random version of each sample, or the first."""
    if generator is None:
        return inputs[:, 0]
    chosen = torch.randint(inputs.shape[1], (len(inputs),), generator=generator, device="cpu")
    return inputs[torch.arange(len(inputs), device=inputs.device), chosen.to(inputs.device)]


def _random_crops(
    images: Tensor, targets: Tensor, padding: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crop each padded image at its own random offset, and its pixel labels likewise."""
    count, height, width = len(images), images.shape[-2], images.shape[-1]
    drawn = torch.randint(2 * padding + 1, (2, count), generator=generator, device="cpu")
    top, left = drawn.to(images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
    rim = (padding,) * 4
    # Advanced indices around a slice move the channels to the end.
    images = F.pad(images, rim)[index, :, rows, columns].movedim(-1, 1)
    if targets.ndim > 2:
        ignored = IGNORED_LABEL if targets.dtype == torch.uint8 else UNLABELLED
        targets = F.pad(targets, rim, value=ignored)[index, rows, columns]
    return images, targets


def _random_flips(
    images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(len(images), generator=generator, dtype=torch.float32, device="cpu")
    flipped = (drawn < 0.5).to(images.device)
    images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    if targets.ndim > 2:
        targets = torch.where(flipped[:, None, None], targets.flip(-1), targets)
    return images, targets


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    inputs : Tensor, shape (N, …)
        Images as uint8.
    targets : Tensor
        Classes, int64 of shape (N,); multi-label 0 or 1, float32 of shape (N, C); or pixel labels,
        uint8 of shape (N, H, W), where 255 is ignored, or int64, where -100 is.
    preparation : Preparation
    device : torch.device, optional
        Device to move batches to; None: that of the tensors.
    """

    inputs: Tensor
    targets: Tensor
    preparation: Preparation = field(default_factory=Preparation)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        for name, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(tensor, Tensor):
                raise InputError(
                    f"the {name} of a split are one tensor, not a {type(tensor).__name__}; what "
                    "takes several inputs is trained in a loop of its own (docs/own-model.md)"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over inputs and targets in batches; the last one may be smaller.

        The generator draws the order and the augmentation. Without one there is no augmentation,
        and the samples keep their order.
        """
        if generator is None:
            order = torch.arange(len(self), device="cpu")
        else:
            order = torch.randperm(len(self), generator=generator, device="cpu")
        for chosen in torch.split(order.to(self.targets.device), size):
            inputs, targets = self._placed(self.inputs[chosen]), self._placed(self.targets[chosen])
            inputs, targets = self.preparation(inputs, targets, generator)
            yield inputs, targets.long() if targets.dtype == torch.uint8 else targets

    def _placed(self, batch: Tensor) -> Tensor:
        """A batch on the batches' device; copied to a GPU while it computes."""
        if self.device is None:
            return batch
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        return batch.to(self.device, non_blocking=True)

    def take(self, count: int) -> Split:
        """The first ``count`` samples."""
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def to(self, device: torch.device | str) -> Split:
        """The split for a network on another device.

        The tensors are moved if they leave half of the free memory to the network, else batch by
        batch. Tensors of a file are memory-mapped, so that they need not fit the memory.
        """
        device = torch.device(device)
        if self.inputs.nbytes + self.targets.nbytes > LARGEST_SHARE * free_memory(device):
            return replace(self, device=device)
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        return replace(self, inputs=inputs, targets=targets, device=None)


@dataclass(frozen=True)
class TensorData:
    """Training, validation and test split of a data set, and the names of its classes in order.

    Epochs and settings are chosen by validation; the test split is for reported numbers only.
    ``label`` is the name of the data set in results. ``standardized`` are mean and standard
    deviation of training samples that features were standardized by; a `save`d file lacks them.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    label: str
    standardized: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def map(self, function: Callable[[Split], Split]) -> TensorData:
        """The data with a function applied to each split."""
        splits: dict[str, Any] = {name: function(split) for name, split in self._splits()}
        return replace(self, **splits)

    def _splits(self) -> Iterator[tuple[str, Split]]:
        return ((name, getattr(self, name)) for name in SPLITS)

    def to(self, device: torch.device | str) -> TensorData:
        """The data for a network on another device, see `Split.to`."""
        return self.map(lambda split: split.to(device))

    def enlarged(self, times: int) -> TensorData:
        """The data with each pixel (and its label) repeated ``times`` times in both directions."""

        def repeated(pixels: Tensor) -> Tensor:
            return pixels.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1)

        def enlarge(split: Split) -> Split:
            targets = repeated(split.targets) if split.targets.ndim > 2 else split.targets
            return replace(split, inputs=repeated(split.inputs), targets=targets)

        return self if times == 1 else self.map(enlarge)

    def checksum(self) -> str:
        """BLAKE2b of samples and preparation, 32 hexadecimal digits; names are not included."""
        digest = hashlib.blake2b(digest_size=16)
        for name, split in self._splits():
            tensors = (split.inputs, split.targets)
            kinds = [(str(tensor.dtype), tensor.shape) for tensor in tensors]
            digest.update(json.dumps([name, kinds, asdict(split.preparation)]).encode())
            for tensor in tensors:
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the splits to one safetensors file."""
        tensors, preparations = {}, {}
        for name, split in self._splits():
            tensors[f"{name}.inputs"] = split.inputs
            tensors[f"{name}.targets"] = split.targets
            preparations[name] = asdict(split.preparation)
        about = {"label": self.label, "classes": self.classes, "preparation": preparations}
        write_tensors(path, tensors, {METADATA_KEY: json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> TensorData:
        """Read what `save` wrote; `InputError` if the file is missing or another one."""
        tensors, metadata = read_tensors(path, METADATA_KEY)
        try:
            about = json.loads(metadata)
            splits: dict[str, Any] = {
                name: Split(
                    tensors[f"{name}.inputs"],
                    tensors[f"{name}.targets"],
                    _preparation(about["preparation"][name]),
                )
                for name in SPLITS
            }
            return cls(**splits, classes=tuple(about["classes"]), label=about["label"])
        except KeyError as error:
            raise InputError(f"{path}: not a data file of this suite, {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: not a data file of this suite ({error})") from error


def _preparation(values: dict[str, Any]) -> Preparation:
    """Preparation from JSON, which has lists in place of tuples."""
    values = {**values, "mean": tuple(values["mean"]), "deviation": tuple(values["deviation"])}
    return Preparation(**values)
