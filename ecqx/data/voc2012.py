"""Pascal VOC2012: photographs with 20 classes of objects, labelled per image or per pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ecqx.data.downloads import Source, provide, unpack
from ecqx.data.tensors import Preparation, Split, TensorData
from ecqx.errors import InputError
from ecqx.labels import IGNORED_LABEL

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
# Those of ImageNet, on which the networks were pre-trained.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TREE = "VOCdevkit/VOC2012"
TEST_SHARE = 0.2
OFFICIAL_LISTS = {"classification": "Main", "segmentation": "Segmentation"}
# The official lists have 11,540 and 2,913 images; a tree with fewer than this is a part of it.
WHOLE = 1000

Task = Literal["classification", "segmentation"]


def voc(
    root: str | Path,
    task: Task,
    crop: int = 224,
    resize: int | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> TensorData:
    """Load Pascal VOC2012, downloaded first if it is missing.

    ``root`` is a data folder with ``VOCdevkit/VOC2012/``, ``VOC2012/`` or the official archive,
    which is unpacked there. Segmentation is tested on the official ``val`` list (the labels of
    VOC's test set are not public), and trained and validated on the official ``train`` list.
    Classification joins both lists and is tested on 20 % of them, drawn with ``seed``. The share
    ``validation`` of the training images is held out.

    An image is labelled with all objects of its annotation, difficult ones included. In a tree
    without ``Annotations/`` the labels are the classes in the masks, for the images of the
    segmentation lists.

    Images are resized, so that the shorter side has ``resize`` pixels, and cropped around their
    centre to ``crop`` pixels; smaller ones are padded with black, ignored pixels. Inputs: uint8,
    (N, 3, crop, crop). Targets: 0 or 1, float32, (N, 20); or classes, uint8, (N, crop, crop), with
    0 for background and 255 for ignored pixels. Training augmentation: random flips. The label of
    the data has the number of images unless they are all of the official ones.
    """
    _check_settings(task, crop, resize, validation)
    tree = provide(voc_source(), root)
    if not tree.is_dir():
        tree = unpack(tree, TREE)
    reader = _Reader(tree, task, crop, resize)
    generator = torch.Generator().manual_seed(seed)
    names = _split_names(tree, reader.lists, task, validation, generator)
    plain, training = Preparation(MEAN, DEVIATION), Preparation(MEAN, DEVIATION, flip=True)
    total = sum(map(len, names))
    with tqdm(total=total, unit="image", desc="VOC2012", disable=None) as bar:
        train, held_out, test = (
            Split(*reader.read(chosen, bar.update), preparation)
            for chosen, preparation in zip(names, (training, plain, plain), strict=True)
        )
    classes = CLASSES if task == "classification" else ("background", *CLASSES)
    official = total >= WHOLE and reader.lists == OFFICIAL_LISTS[task]
    label = f"voc2012 {task}" + ("" if official else f" ({total} images)")
    return TensorData(train, held_out, test, classes=classes, label=label)


def _check_settings(task: str, crop: int, resize: int | None, validation: float) -> None:
    if task not in OFFICIAL_LISTS:
        raise InputError(f"task: {task!r}, but VOC has 'classification' and 'segmentation'")
    for name, side in (("crop", crop), ("resize", resize)):
        if side is not None and side < 1:
            raise InputError(f"{name}: {side}, but it must be at least 1 pixel")
    if not 0 < validation < 1:
        raise InputError(f"validation: {validation}, but it must be a share between 0 and 1")


def voc_source() -> Source:
    """Where Pascal VOC2012 is downloaded from."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    official = DATASET_YEAR_DICT["2012"]
    return Source(
        title="Pascal VOC2012",
        found_as=(TREE, "VOC2012", official["filename"]),
        url=official["url"],
        checksum=f"md5:{official['md5']}",
    )


# -- lists and splits ------------------------------------------------------------------------------


def _split_names(
    tree: Path, lists: str, task: str, validation: float, generator: torch.Generator
) -> tuple[list[str], list[str], list[str]]:
    """Names of the training, validation and test images."""
    folder = tree / "ImageSets" / lists
    train, test = _listed(folder / "train.txt"), _listed(folder / "val.txt")
    if both := sorted(set(train) & set(test)):
        raise InputError(f"{folder / 'val.txt'}: {both[0]} is in train.txt too")
    if task == "classification":
        train, test = _cut(train + test, TEST_SHARE, generator)
    train, held_out = _cut(train, validation, generator)
    if len(train) < 2:
        raise InputError(f"{folder}: too few images, training needs 2 and gets {len(train)}")
    return train, held_out, test


def _listed(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of images is missing or unreadable") from error
    if not names:
        raise InputError(f"{path}: names no image")
    return list(dict.fromkeys(names))


def _cut(names: list[str], share: float, generator: torch.Generator) -> tuple[list[str], list[str]]:
    """Draw a share of the names, at least one: (the others, the drawn ones), order kept."""
    count = max(1, round(share * len(names)))
    drawn = set(torch.randperm(len(names), generator=generator)[:count].tolist())
    rest = [name for i, name in enumerate(names) if i not in drawn]
    return rest, [name for i, name in enumerate(names) if i in drawn]


# -- images and labels -----------------------------------------------------------------------------


class _Reader:
    """Reads the images of one tree with the targets of one task."""

    def __init__(self, tree: Path, task: str, crop: int, resize: int | None) -> None:
        self.tree, self.task, self.crop, self.resize = tree, task, crop, resize
        self.from_masks = task == "segmentation" or not (tree / "Annotations").is_dir()
        self.lists = "Segmentation" if self.from_masks else "Main"

    def read(self, names: list[str], progress: Callable[[], Any]) -> tuple[Tensor, Tensor]:
        # Filled in place, since the whole data set is 1.7 GB.
        inputs = torch.empty((len(names), 3, self.crop, self.crop), dtype=torch.uint8)
        if self.task == "classification":
            targets = torch.zeros((len(names), len(CLASSES)), dtype=torch.float32)
        else:
            targets = torch.empty((len(names), self.crop, self.crop), dtype=torch.uint8)
        for i, name in enumerate(names):
            image = self._image(name)
            inputs[i] = self._cropped(image, 0).permute(2, 0, 1)
            if self.task == "segmentation":
                targets[i] = self._cropped(self._mask(name, image.size), IGNORED_LABEL)
            else:
                targets[i, self._objects(name, image.size)] = 1
            progress()
        return inputs, targets

    def _image(self, name: str) -> Image.Image:
        return _opened(self.tree / "JPEGImages" / f"{name}.jpg").convert("RGB")

    def _mask(self, name: str, size: tuple[int, int]) -> Image.Image:
        path = self.tree / "SegmentationClass" / f"{name}.png"
        mask = _opened(path)
        if mask.mode not in ("P", "L"):
            raise InputError(
                f"{path}: its pixels are {mask.mode}, not numbers of classes (a palette)"
            )
        if mask.size != size:
            raise InputError(f"{path}: is {mask.size} in size, but its image is {size}")
        labels = np.unique(np.asarray(mask))
        if wrong := labels[(labels > len(CLASSES)) & (labels != IGNORED_LABEL)].tolist():
            raise InputError(f"{path}: has label {wrong[0]}, but they are 0 to 20, and 255")
        return mask

    def _objects(self, name: str, size: tuple[int, int]) -> list[int]:
        """Classes of the objects in an image, from 0."""
        if not self.from_masks:
            return _annotated(self.tree / "Annotations" / f"{name}.xml")
        labels = np.unique(np.asarray(self._mask(name, size))).tolist()
        return [label - 1 for label in labels if 0 < label <= len(CLASSES)]

    def _cropped(self, image: Image.Image, fill: int) -> Tensor:
        """The resized central crop; labels are not interpolated."""
        if self.resize is not None:
            scale = self.resize / min(image.size)
            width, height = (max(1, round(side * scale)) for side in image.size)
            labels = image.mode in ("P", "L")
            method = Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR
            image = image.resize((width, height), method)
        square = Image.new(image.mode, (self.crop, self.crop), fill)
        # Rounded towards zero, margins (positive) and cuts (negative) alike.
        left, top = (int((self.crop - side) / 2) for side in image.size)
        square.paste(image, (left, top))
        return torch.from_numpy(np.array(square))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, but a list in ImageSets names it") from error
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise InputError(f"{path}: not a complete image ({error})") from error


def _annotated(path: Path) -> list[int]:
    """Classes of the objects in an annotation, from 0."""
    try:
        annotation = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not a readable annotation ({error})") from error
    if annotation.tag != "annotation":
        raise InputError(f"{path}: holds <{annotation.tag}>, not an <annotation>")
    # Not .iter("name"): parts of an object, such as a head, have names too.
    names = {item.findtext("name", "").strip() for item in annotation.findall("object")}
    if unknown := sorted(names - set(CLASSES)):
        raise InputError(f"{path}: {unknown[0]!r} is not one of the 20 classes")
    return [CLASSES.index(name) for name in sorted(names)]
