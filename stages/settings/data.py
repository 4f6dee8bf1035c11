"""The data sets that a suite may name, and how each is found and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ecqx.data.archives import ARCHIVES
from ecqx.data.audio import RATE, Disturbance, Mfcc
from ecqx.data.cifar_archives import cifar, cifar_source
from ecqx.data.digit_images import digits
from ecqx.data.downloads import is_available
from ecqx.data.folder import image_folder
from ecqx.data.speech import SOURCES, WORDS, speech_commands
from ecqx.data.tensors import TensorData
from ecqx.data.voc2012 import voc, voc_source
from ecqx.errors import InputError
from stages.settings.base import Positive, Settings, Share
from stages.settings.tasks import Tasks


class Loader(Settings, ABC):
    """Base of the settings of a data set."""

    @abstractmethod
    def available(self, root: Path) -> bool:
        """Whether the data set is there, below a root."""

    @abstractmethod
    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set, downloading what is missing."""


class Digits(Loader):
    """scikit-learn's digits, which ship with the package."""

    name: Literal["digits"]
    seed: int
    limit: Positive | None = None

    def available(self, root: Path) -> bool:
        return True

    def build(self, root: Path, processes: int) -> TensorData:
        return digits(self.seed, self.limit)


class ImageFolder(Loader):
    """A tree train/<class>, test/<class>, or an archive of one; ``path`` lies below the root."""

    name: Literal["image_folder"]
    path: str
    validation: Positive
    seed: int
    size: Positive = 32
    overlap: bool = False
    label: str | None = None

    def available(self, root: Path) -> bool:
        return self._find(root) is not None

    def build(self, root: Path, processes: int) -> TensorData:
        found = self._find(root)
        if found is None:
            raise InputError(
                f"{root / self.path}: no such folder (train/<class>/<image>, test/<class>/<image>) "
                "or archive of one"
            )
        return image_folder(
            *(found, self.validation, self.seed, self.size, self.overlap), label=self.label
        )

    def _find(self, root: Path) -> Path | None:
        candidates = (root / f"{self.path}{ending}" for ending in ("", *ARCHIVES))
        return next((path for path in candidates if path.exists()), None)


CLASSES = {"cifar10": 10, "cifar100": 100}


class Cifar(Loader):
    """The official archives of CIFAR-10 and CIFAR-100."""

    name: Literal["cifar10", "cifar100"]
    validation: Positive
    seed: int
    overlap: bool = False

    def available(self, root: Path) -> bool:
        return is_available(cifar_source(CLASSES[self.name]), root)

    def build(self, root: Path, processes: int) -> TensorData:
        return cifar(root, CLASSES[self.name], self.validation, self.seed, self.overlap)


class SpeechCommands(Loader):
    """Google Speech Commands v0.02; ``volume`` is the loudest background noise."""

    name: Literal["speech_commands"]
    archive: Literal["full", "test", "extra"]
    words: tuple[str, ...] = WORDS
    seed: int
    draws: Positive
    volume: Share
    coefficients: Annotated[int, Field(gt=0, le=Mfcc().mels)]
    window: Annotated[int, Field(gt=0, le=RATE)]
    hop: Positive

    def available(self, root: Path) -> bool:
        needed = ("extra", "test") if self.archive == "extra" else (self.archive,)
        return all(is_available(SOURCES[archive], root) for archive in needed)

    def build(self, root: Path, processes: int) -> TensorData:
        return speech_commands(
            *(root, self.archive, self.draws, self.seed),
            disturbance=Disturbance(volume=self.volume),
            mfcc=Mfcc(self.coefficients, self.window, self.hop),
            processes=processes,
            words=self.words,
        )


class Voc(Loader):
    """Pascal VOC2012."""

    name: Literal["voc2012"]
    task: Literal["classification", "segmentation"]
    crop: Positive
    resize: Positive | None = None
    validation: Share
    seed: int

    def available(self, root: Path) -> bool:
        return is_available(voc_source(), root)

    def build(self, root: Path, processes: int) -> TensorData:
        return voc(root, self.task, self.crop, self.resize, self.validation, self.seed)


DataSet = Annotated[
    Digits | ImageFolder | Cifar | SpeechCommands | Voc, Field(discriminator="name")
]


class Data(Settings):
    """The section ``data``.

    Attributes
    ----------
    root : list of str
        Folders that are searched for data sets and checkpoints; downloads go to the first.
    sets : dict
        Of several data sets under one name the first available one is taken, else the last is
        downloaded.
    """

    root: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    sets: Annotated[dict[str, Annotated[list[DataSet], Field(min_length=1)]], Field(min_length=1)]


class DownloadSettings(Settings):
    """What the stage download reads."""

    data: Data
    tasks: Tasks
