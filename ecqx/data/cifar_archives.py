"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels, from the official archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecqx.data.downloads import Source, provide, unpack
from ecqx.data.stratified import held_out
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.errors import InputError
from ecqx.progress import announced

# Mean and standard deviation per channel, of pixels in [0, 1], as in the published code.
STATISTICS = {
    10: ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
PADDING = 4


def cifar(
    root: str | Path,
    classes: int = 10,
    validation: int = 5000,
    seed: int = 0,
    overlap: bool = False,
) -> TensorData:
    """Load CIFAR-10 or CIFAR-100, downloaded first if it is missing.

    ``root`` is a data folder with torchvision's tree (``cifar-10-batches-py/``,
    ``cifar-100-python/``) or the official archive, which is unpacked there. Of the 50,000 training
    images, ``validation`` are held out, stratified and drawn with ``seed``; the test split is the
    official one. With ``overlap`` the validation images train, too, for runs that select no epoch
    or setting by them. Inputs are uint8. Training augmentation: random flips, and random crops
    after padding with 4 pixels.
    """
    if classes not in STATISTICS:
        raise InputError(f"classes: {classes}, but CIFAR has 10 or 100")
    official = _official(classes)
    found = provide(cifar_source(classes), root)
    folder = found if found.is_dir() else unpack(found, official.base_folder)
    images, labels, names = _read(official, folder, train=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    validates = held_out(labels, validation, order)
    trains = torch.ones_like(validates) if overlap else ~validates
    mean, deviation = STATISTICS[classes]
    plain = Preparation(mean, deviation)
    augmented = Preparation(mean, deviation, flip=True, padding=PADDING)
    return TensorData(
        train=Split(images[trains], labels[trains], augmented),
        validation=Split(images[validates], labels[validates], plain),
        test=Split(*_read(official, folder, train=False)[:2], plain),
        classes=names,
        label=f"cifar{classes}" + (" (validation images train, too)" if overlap else ""),
    )


def _official(classes: int) -> Any:
    """torchvision's dataset class, which knows the official files and their checksums."""
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR10 if classes == 10 else CIFAR100


def cifar_source(classes: int) -> Source:
    """Where CIFAR-10 or CIFAR-100 is downloaded from."""
    official = _official(classes)
    return Source(
        title=f"CIFAR-{classes}",
        found_as=(official.base_folder, official.filename),
        url=official.url,
        checksum=f"md5:{official.tgz_md5}",
    )


def _read(official: Any, folder: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (N, 3, 32, 32), labels (N,) and class names; torchvision compares the checksums."""
    try:
        with announced(f"reading {folder.name}"):
            dataset = official(folder.parent, train=train)
    except (RuntimeError, OSError) as error:
        damaged = getattr(error, "filename", None) or _damaged(official, folder)
        raise InputError(
            f"{damaged}: missing, cut off or not the official file; delete "
            f"{folder}, and it will be unpacked or downloaded again"
        ) from error
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(dataset.targets), tuple(dataset.classes)


def _damaged(official: Any, folder: Path) -> Path:
    """The first file that torchvision rejects."""
    from torchvision.datasets.utils import check_integrity

    meta = (official.meta["filename"], official.meta["md5"])
    files = (
        (folder / name, md5) for name, md5 in (*official.train_list, *official.test_list, meta)
    )
    return next((file for file, md5 in files if not check_integrity(file, md5)), folder)
