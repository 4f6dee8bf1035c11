"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels, from the official archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecqx.data.downloads import Source, provide, unpack
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.errors import InputError
from ecqx.progress import sign

# Mean and deviation of the pixels in [0, 1], per channel, as in the published code.
STATISTICS = {
    10: ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
PADDING = 4
PUBLISHED_VALIDATION = 10_000


def cifar(
    root: str | Path,
    classes: int = 10,
    validation: int = 5000,
    seed: int = 0,
    published_split: bool = False,
) -> TensorData:
    """Load CIFAR, and download it first where it is missing.

    Parameters
    ----------
    root : path
        Data folder with torchvision's tree (``cifar-10-batches-py/``, ``cifar-100-python/``) or
        the official archive, which is unpacked there.
    classes : {10, 100}
    validation : int
        How many of the 50,000 training images validate: drawn at random, each class in proportion.
    seed : int
        Of that draw.
    published_split : bool
        Validate on the first 10,000 training images instead, as the published code does.

    Returns
    -------
    TensorData
        Inputs of shape (N, 3, 32, 32), uint8; targets of shape (N,), int64. Training flips images
        and cuts them out of a rim of 4 pixels. The test split is the official one.

    Raises
    ------
    InputError
        If the data cannot be had, or a file of it is missing or not the official one: no pickle
        is opened before its checksum was compared.
    """
    if classes not in STATISTICS:
        raise InputError(f"classes: {classes}, but CIFAR has 10 or 100")
    official = _official(classes)
    found = provide(cifar_source(classes), root)
    folder = found if found.is_dir() else unpack(found, official.base_folder)
    images, labels, names = _read(official, folder, train=True)
    if published_split:
        held_out = torch.arange(len(labels)) < PUBLISHED_VALIDATION
    else:
        if not 0 < validation < len(labels):
            raise InputError(
                f"validation: {validation} images, but it must be 1 to {len(labels) - 1}"
            )
        held_out = _stratified(labels, validation, torch.Generator().manual_seed(seed))
    mean, deviation = STATISTICS[classes]
    plain = Preparation(mean, deviation)
    return TensorData(
        Split(images[~held_out], labels[~held_out], Preparation(mean, deviation, True, PADDING)),
        Split(images[held_out], labels[held_out], plain),
        Split(*_read(official, folder, train=False)[:2], plain),
        classes=names,
        label=f"cifar{classes}",
    )


def _official(classes: int) -> Any:
    """torchvision's class, which knows the official files and their checksums."""
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR10 if classes == 10 else CIFAR100


def cifar_source(classes: int) -> Source:
    """Where CIFAR-10 or CIFAR-100 comes from."""
    official = _official(classes)
    return Source(
        title=f"CIFAR-{classes}",
        found_as=(official.base_folder, official.filename),
        url=official.url,
        file=official.filename,
        checksum=f"md5:{official.tgz_md5}",
    )


def _read(official: Any, folder: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (N, 3, 32, 32), labels (N,) and the names of the classes."""
    try:
        # Compares the checksum of every file before it unpickles it.
        with sign(f"reading {folder.name}"):
            dataset = official(folder.parent, train=train)
    except (RuntimeError, OSError) as error:
        damaged = getattr(error, "filename", None) or _damaged(official, folder)
        raise InputError(
            f"{damaged}: missing, cut off or not the official file; delete "
            f"{folder}, and it will be unpacked or fetched again"
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets), tuple(dataset.classes)


def _damaged(official: Any, folder: Path) -> Path:
    """The first file that torchvision refuses."""
    from torchvision.datasets.utils import check_integrity

    meta = (official.meta["filename"], official.meta["md5"])
    for name, checksum in (*official.train_list, *official.test_list, meta):
        if not check_integrity(folder / name, checksum):
            return folder / str(name)
    return folder


def _stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mark ``count`` samples drawn at random, of each class its share give or take one."""
    order = torch.randperm(len(labels), generator=generator)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in range(int(labels.max()) + 1):
        own = order[labels[order] == label]
        place[own] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
    # Stable, so that chance decides which classes get the sample more.
    chosen = order[place[order].argsort(stable=True)[:count]]
    marks = torch.zeros(len(labels), dtype=torch.bool)
    marks[chosen] = True
    return marks
