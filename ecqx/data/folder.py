"""Image folders, ``train/<class>/<image>`` and ``test/<class>/<image>``: a person's own data."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ecqx.data.archives import ARCHIVES, members, names
from ecqx.data.cifar_archives import STATISTICS
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.errors import InputError

MEAN, DEVIATION = STATISTICS[10]
IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def image_folder(
    path: Path,
    validation: int = 5000,
    seed: int = 0,
    size: int = 32,
    overlap: bool = False,
    mean: tuple[float, ...] = MEAN,
    deviation: tuple[float, ...] = DEVIATION,
    label: str | None = None,
) -> TensorData:
    """Read images by class from a folder or an archive of such a folder.

    Parameters
    ----------
    path : Path
        Holds ``train/<class>/…`` and ``test/<class>/…``; a folder, a zip or a tar archive, which is
        read without unpacking it.
    validation : int
        Images that are held out of ``train``, the same share of every class.
    seed : int
        Draws which.
    size : int
        Side of the square images in pixels; others are resized (shorter side) and cut to it.
    overlap : bool
        Leave the validation images in the training split too: for runs that are told to train on
        all images and select nothing.
    mean, deviation : tuple of float
        Per channel, of pixels in [0, 1]; by default those of the published code for CIFAR-10.
    label : str, optional
        What results call it; by default the name of the folder or archive.

    Returns
    -------
    TensorData
        Inputs of shape (N, 3, size, size), uint8; training flips and crops with padding ``size/8``.

    Raises
    ------
    InputError
        If a folder is missing or empty, the classes of train and test differ, or an image cannot
        be read.
    """
    files = _images_by_split(path)
    classes = _classes(path, files)
    images, labels = _read(path, files, classes, size)
    held_out = _stratified(labels["train"], validation, seed, path)
    kept = np.arange(len(labels["train"])) if overlap else np.flatnonzero(~held_out)
    plain = Preparation(mean=mean, deviation=deviation)
    augmented = Preparation(mean=mean, deviation=deviation, flip=True, padding=size // 8)
    x, y = images["train"], torch.from_numpy(labels["train"])
    return TensorData(
        train=Split(x[kept], y[kept], augmented),
        validation=Split(x[np.flatnonzero(held_out)], y[np.flatnonzero(held_out)], plain),
        test=Split(images["test"], torch.from_numpy(labels["test"]), plain),
        classes=classes,
        label=label or _stem(path),
    )


def _stem(path: Path) -> str:
    """Name of a folder or archive without the ending of an archive."""
    endings = (ending for ending in ARCHIVES if path.name.endswith(ending))
    return path.name.removesuffix(next(endings, ""))


def _images_by_split(path: Path) -> dict[str, list[str]]:
    """Names of the images of train and test, in the order of their names."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names(path)):
        parts = name.split("/")
        if len(parts) == 3 and parts[2].lower().endswith(IMAGES):
            found[parts[0]].append(name)
    for split in ("train", "test"):
        if not found[split]:
            raise InputError(f"{path}: has no images in {split}/<class>/")
    return {split: found[split] for split in ("train", "test")}


def _classes(path: Path, files: dict[str, list[str]]) -> tuple[str, ...]:
    """The classes, which both splits must have."""
    train, test = ({name.split("/")[1] for name in files[split]} for split in ("train", "test"))
    folders = {
        folder.name
        for split in ("train", "test")
        for folder in (path / split).glob("[!.]*")
        if folder.is_dir()
    }
    if lacking := sorted((train ^ test) | (folders - train)):
        raise InputError(f"{path}: class {lacking[0]} needs images in both train/ and test/")
    return tuple(sorted(train))


def _read(
    path: Path, files: dict[str, list[str]], classes: tuple[str, ...], size: int
) -> tuple[dict[str, Tensor], dict[str, NDArray[np.int64]]]:
    """Images and labels by split, in the order of the names."""
    position = {name: (split, index) for split in files for index, name in enumerate(files[split])}
    images = {
        split: torch.empty((len(files[split]), 3, size, size), dtype=torch.uint8) for split in files
    }
    with tqdm(total=len(position), unit="image", desc=path.name, disable=None) as bar:
        for name, content in members(path, position.__contains__):
            split, index = position[name]
            images[split][index] = _decode(f"{path}: {name}", content, size)
            bar.update()
    number = {name: index for index, name in enumerate(classes)}
    labels = {
        split: np.array([number[name.split("/")[1]] for name in files[split]], dtype=np.int64)
        for split in files
    }
    return images, labels


def _decode(what: str, content: bytes, size: int) -> Tensor:
    """One image as uint8 of shape (3, size, size)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except Exception as error:
        # Damaged files make Pillow raise almost anything, SyntaxError and IndexError included.
        raise InputError(f"{what}: damaged, or no image of a kind that Pillow reads") from error
    if mode.startswith(("I", "F")):
        # Pillow makes everything above 255 white.
        raise InputError(f"{what}: has more than 8 bits a channel; save it with 8")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _stratified(labels: NDArray[np.int64], count: int, seed: int, path: Path) -> NDArray[np.bool_]:
    """Which samples are held out: ``count`` in all, the same share of every class."""
    if not 0 < count < len(labels):
        raise InputError(
            f"{path}: validation must be between 1 and {len(labels) - 1} images, not {count}"
        )
    # Samples shuffled within their class get ranks; the lowest ranks, relative to the size of the
    # class, are held out.
    generator = np.random.default_rng(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        rank[generator.permutation(chosen)] = (np.arange(len(chosen)) + 0.5) / len(chosen)
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[np.argsort(rank, kind="stable")[:count]] = True
    return held_out
