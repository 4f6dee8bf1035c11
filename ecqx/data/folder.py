"""Image folders, ``train/<class>/<image>`` and ``test/<class>/<image>``: a user's own data."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ecqx.data.archives import ARCHIVES, members, names_and_links
from ecqx.data.cifar_archives import STATISTICS
from ecqx.data.stratified import held_out
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.errors import InputError, InputWarning

MEAN, DEVIATION = STATISTICS[10]  # of CIFAR-10
SPLITS = ("train", "test")
# Formats of Pillow that are not read: EPS starts Ghostscript and WMF is drawn by Windows alone; of
# the others Pillow knows only the name.
_NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")


def image_folder(
    path: Path,
    validation: int | None = 5000,
    seed: int = 0,
    size: int = 32,
    overlap: bool = False,
    mean: tuple[float, ...] = MEAN,
    deviation: tuple[float, ...] = DEVIATION,
    label: str | None = None,
) -> TensorData:
    """Read images by class from a folder, or from an archive of one without unpacking it.

    Parameters
    ----------
    path : Path
        A folder, zip or tar archive with ``train/<class>/…`` and ``test/<class>/…``, images at any
        depth below. Names of classes are compared in Unicode's form NFC.
    validation : int, optional
        Number of images that are held out of ``train`` for validation, stratified; None for a
        tenth.
    seed : int
        Draws the validation images.
    size : int
        Side of the square images in pixels; others are scaled by their shorter side and cropped
        around their centre.
    overlap : bool
        Keep the validation images in the training split too, for runs that train on all images
        and select no epoch or setting by validation.
    mean, deviation : tuple of float
        Mean and standard deviation per channel, of pixels in [0, 1]; by default CIFAR-10's.
    label : str, optional
        Name of the data in results; by default that of the folder or archive.

    Returns
    -------
    TensorData
        Inputs (N, 3, size, size), uint8. Training augmentation: random flips, and random crops
        after padding with ``size/8`` pixels (4 of 32, as for CIFAR).

    Raises
    ------
    InputError
        If a folder is missing or empty, the classes of train and test differ, there is only one, or
        an image cannot be read.

    Warns
    -----
    InputWarning
        How many files are skipped, and which: other files in the folders of classes, and images
        that are in none.
    """
    files = _images_by_split(path)
    classes = _classes(path, files)
    images = _read(path, files, size)
    labels = {
        split: torch.tensor([classes.index(_class_of(name)) for name in files[split]])
        for split in files
    }
    x, y = images["train"], labels["train"]
    validation = max(1, len(y) // 10) if validation is None else validation
    validates = held_out(y, validation, _order(y, seed), f"{path}: ")
    trains = torch.ones_like(validates) if overlap else ~validates
    plain = Preparation(mean, deviation)
    augmented = Preparation(mean, deviation, flip=True, padding=size // 8)
    return TensorData(
        train=Split(x[trains], y[trains], augmented),
        validation=Split(x[validates], y[validates], plain),
        test=Split(images["test"], labels["test"], plain),
        classes=classes,
        label=label or _stem(path),
    )


def _order(labels: Tensor, seed: int) -> Tensor:
    """The samples class by class, in random order within each."""
    generator = np.random.default_rng(seed)
    samples = [np.flatnonzero(labels.numpy() == label) for label in np.unique(labels)]
    return torch.from_numpy(np.concatenate(list(map(generator.permutation, samples))))


def _stem(path: Path) -> str:
    """Name of a folder, or of an archive without its suffix."""
    return path.name.removesuffix(next(filter(path.name.endswith, ARCHIVES), ""))


def _class_of(name: str) -> str:
    return normalize("NFC", name.split("/")[1])


@cache
def _formats() -> tuple[str, ...]:
    """Names of the formats that are read, in Pillow's order."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@cache
def _suffixes() -> frozenset[str]:
    """Suffixes of the images that are read."""
    from PIL import Image

    # Pillow opens MPO, a sequence of JPEG images, as JPEG.
    formats = {*_formats(), "MPO"}
    return frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def _images_by_split(path: Path) -> dict[str, list[str]]:
    """Paths ``SPLIT/CLASS/…/IMAGE`` of the images by split, sorted."""
    files: dict[str, list[str]] = {split: [] for split in SPLITS}
    skipped: dict[str, list[str]] = defaultdict(list)
    found, links = names_and_links(path)
    for name in sorted(found):
        split, *within = name.split("/")
        suffix = PurePosixPath(name).suffix.lower()
        has_class = split in files and len(within) > 1
        if has_class and suffix in _suffixes():
            files[split].append(name)
        elif has_class:
            skipped[suffix or "without a suffix"].append(name)
        elif suffix in _suffixes():
            skipped["outside of train/<class>/ and test/<class>/"].append(name)
    if links := sorted(name for name in links if name.split("/")[0] in files):
        skipped["symbolic links, which are not followed in an archive"] = links
    if skipped:
        count = sum(map(len, skipped.values()))
        kinds = ", ".join(f"{len(n)} {kind} ({n[0]})" for kind, n in sorted(skipped.items()))
        warnings.warn(f"{path}: skips files, {count} in all: {kinds}", InputWarning, stacklevel=3)
    for split in SPLITS:
        if not files[split]:
            raise InputError(f"{path}: has no images in {split}/<class>/")
    return files


def _classes(path: Path, files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The classes, at least two, each of which must have images in both splits."""
    train, test = (set(map(_class_of, files[split])) for split in SPLITS)
    # Of a folder also classes without images, but no hidden folders; of an archive nothing.
    folders = {
        normalize("NFC", folder.name)
        for split in SPLITS
        for folder in (path / split).glob("[!.]*")
        if folder.is_dir()
    }
    if lacking := sorted((train ^ test) | (folders - train)):
        raise InputError(f"{path}: class {lacking[0]} needs images in both train/ and test/")
    for name in sorted(train):
        if not _is_unicode(name):
            raise InputError(f"{path}: the name of class {name!r} is not UTF-8; rename its folders")
    if len(train) == 1:
        raise InputError(f"{path}: has one class alone, {min(train)}; there must be at least two")
    return tuple(sorted(train))


def _is_unicode(name: str) -> bool:
    """Whether a name was UTF-8 on the disk: Python marks other bytes by surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _read(path: Path, files: Mapping[str, Sequence[str]], size: int) -> dict[str, Tensor]:
    """Images by split, in the order of ``files``."""
    place = {name: (split, i) for split in files for i, name in enumerate(files[split])}
    images = {
        split: torch.empty((len(files[split]), 3, size, size), dtype=torch.uint8) for split in files
    }
    with tqdm(total=len(place), unit="image", desc=path.name, disable=None) as bar:
        for name, content in members(path, place.__contains__):
            split, i = place[name]
            images[split][i] = _decode(f"{path}: {name}", content, size)
            bar.update()
    return images


def _decode(what: str, content: bytes, size: int) -> Tensor:
    """One image as uint8 of shape (3, size, size)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            mode, rgb = image.mode, ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise InputError(f"{what}: damaged, or not an image that Pillow can read") from error
    if mode.startswith(("I", "F")):  # Pillow would clip them at 255
        raise InputError(f"{what}: has more than 8 bits a channel; save it with 8")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
