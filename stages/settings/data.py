"""The data sets that a suite may name, and how each is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ecqx import data
from ecqx.data.downloads import is_at_hand
from ecqx.data.tensors import TensorData
from ecqx.errors import InputError
from stages.settings.base import Positive, Settings, Share


class Digits(Settings):
    """scikit-learn's digits."""

    name: Literal["digits"]
    seed: int
    limit: Positive | None = None

    def available(self, root: Path) -> bool:
        """They ship with the package."""
        return True

    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set."""
        return data.digits(self.seed, self.limit)


class ImageFolder(Settings):
    """A tree train/<class>, test/<class>, or an archive of one; ``path`` lies below the root."""

    name: Literal["image_folder"]
    path: str
    validation: Positive
    seed: int
    size: Positive = 32
    overlap: bool = False
    label: str | None = None

    def available(self, root: Path) -> bool:
        """Whether it lies below a root."""
        return self._find(root) is not None

    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set."""
        found = self._find(root)
        if found is None:
            raise InputError(
                f"{root / self.path}: no such folder (train/<class>/<image>, test/<class>/<image>) "
                "or archive of one"
            )
        return data.image_folder(
            *(found, self.validation, self.seed, self.size, self.overlap), label=self.label
        )

    def _find(self, root: Path) -> Path | None:
        candidates = (root / f"{self.path}{ending}" for ending in ("", *data.ARCHIVES))
        return next((path for path in candidates if path.exists()), None)


class Cifar(Settings):
    """The official archives of CIFAR-10 and CIFAR-100."""

    name: Literal["cifar10", "cifar100"]
    validation: Positive
    seed: int

    def available(self, root: Path) -> bool:
        """Whether it lies below a root."""
        return is_at_hand(data.cifar_source(self._classes), root)

    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set."""
        return data.cifar(root, self._classes, self.validation, self.seed)

    @property
    def _classes(self) -> int:
        return 10 if self.name == "cifar10" else 100


class SpeechCommands(Settings):
    """Google Speech Commands v0.02; ``volume`` is the loudest background noise."""

    name: Literal["speech_commands"]
    archive: Literal["full", "test"]
    seed: int
    draws: Positive
    volume: Share
    coefficients: Annotated[int, Field(gt=0, le=data.Mfcc().mels)]
    window: Annotated[int, Field(gt=0, le=data.RATE)]
    hop: Positive

    def available(self, root: Path) -> bool:
        """Whether it lies below a root."""
        return is_at_hand(data.speech_source(self.archive), root)

    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set."""
        return data.speech_commands(
            *(root, self.archive, self.draws, self.seed),
            disturbance=data.Disturbance(volume=self.volume),
            mfcc=data.Mfcc(self.coefficients, self.window, self.hop),
            processes=processes,
        )


class Voc(Settings):
    """Pascal VOC2012."""

    name: Literal["voc2012"]
    task: Literal["classification", "segmentation"]
    crop: Positive
    resize: Positive | None = None
    validation: Share
    seed: int

    def available(self, root: Path) -> bool:
        """Whether it lies below a root."""
        return is_at_hand(data.voc_source(), root)

    def build(self, root: Path, processes: int) -> TensorData:
        """Load the data set."""
        return data.voc(root, self.task, self.crop, self.resize, self.validation, self.seed)


DataSet = Annotated[
    Digits | ImageFolder | Cifar | SpeechCommands | Voc, Field(discriminator="name")
]
# Several: the first available one, else the last, which is downloaded.
DataSets = Annotated[list[DataSet], Field(min_length=1)]


class Data(Settings):
    """Where data lie, and the data sets of a suite by name.

    Attributes
    ----------
    root : list of str
        Folders that are searched for data sets and checkpoints; downloads go to the first.
    sets : dict
        Of several data sets under one name the first available one is taken, else the last is
        downloaded.
    """

    root: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    sets: Annotated[dict[str, DataSets], Field(min_length=1)]
