"""The settings of a suite: params.yaml, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ecqx import data, models
from ecqx.assignment import check_settings
from ecqx.centroids import LambdaMax, Pmf
from ecqx.data import TensorData
from ecqx.data.downloads import is_at_hand
from ecqx.errors import InputError
from ecqx.quantizer import Gradient
from ecqx.relevance import LRP
from ecqx.training import FitSettings

PARAMS = Path("params.yaml")

Lam = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=2, le=8)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


def _all_different(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("the values must differ")
    return values


# A setting that is named twice would be two runs of one name.
Different = (Field(min_length=1), AfterValidator(_all_different))


class Settings(BaseModel):
    """Base of all settings: unknown names and wrong types are errors, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


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
    coefficients: Positive
    window: Positive
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
# Several: the first one that is at hand, else the last, which is downloaded.
DataSets = Annotated[list[DataSet], Field(min_length=1)]


class Start(Settings):
    """The checkpoint that a task's pre-training starts from: a file, or ``imagenet``.

    A file lies below the data root, in its ``models/`` or in the ``models/`` beside it. Where it
    is not ``required`` and not there, training starts from random weights.
    """

    checkpoint: str
    required: bool = True


class TaskSettings(Settings):
    """A network on the suite's data; ``model`` holds what `ecqx.models.build` takes."""

    title: str
    data: str
    model: dict[str, Any]
    enlarge: Positive = 1
    start: Start | None = None

    @model_validator(mode="after")
    def _names_a_model(self) -> TaskSettings:
        if not isinstance(self.model.get("name"), str):
            raise ValueError("model needs the name of a network")
        with torch.device("meta"):  # no memory, no random numbers
            models.build(**self.model)
        return self


class Fit(Settings):
    """`ecqx.training.FitSettings`."""

    epochs: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Positive = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_batches: Positive | None = None
    patience: Positive | None = None
    min_delta: Annotated[float, Field(ge=0)] = 0.001
    selection: Literal["best", "last"] = "best"

    def build(self) -> FitSettings:
        """The library's own settings."""
        return FitSettings(**self.model_dump())


class QuantizerSettings(Settings):
    """What `ecqx.ECQx` takes beside bits, Λ and relevance."""

    p: Share
    sparsity_band: list[float] | None
    gradient: Gradient
    exclude: list[str]
    pmf: Pmf
    lambda_max: LambdaMax

    @model_validator(mode="after")
    def _is_accepted(self) -> QuantizerSettings:
        check_settings(0.0, self.p, self.band(), self.pmf, self.lambda_max)
        return self

    def band(self) -> tuple[float, float]:
        """The sparsity band as a pair; p is short for [-p, 0]."""
        if self.sparsity_band is None:
            return (-self.p, 0.0)
        if len(self.sparsity_band) != 2:
            raise ValueError("sparsity_band must be [low, high]")
        return (self.sparsity_band[0], self.sparsity_band[1])


class RelevanceSettings(Settings):
    """`ecqx.LRP`."""

    composite: str
    canonizer: str
    output: str
    weight_rule: str
    alpha: float
    of: str
    restart: bool

    @model_validator(mode="after")
    def _is_accepted(self) -> RelevanceSettings:
        self.build()
        return self

    def build(self) -> LRP:
        """The library's own settings."""
        return LRP(**self.model_dump())


class PSweep(Settings):
    """Influence of p: ECQx at one bit width with sparsity band [0, +p]."""

    bits: Bits
    p: Annotated[list[Share], *Different]
    lam: Annotated[list[Lam], *Different]


class Ablation(Settings):
    """What single settings change: ECQx with one of them replaced, by the variant's name."""

    bits: Bits
    lam: Annotated[list[Lam], *Different]
    variants: dict[str, dict[str, Any]]


class TaskSweep(Settings):
    """The settings that are tried on one task: bits x Λ, for ECQ and ECQx and each seed."""

    fit: Fit
    bits: Annotated[list[Bits], *Different]
    lam: Annotated[list[Lam], *Different]
    p_sweep: PSweep | None = None
    ablation: Ablation | None = None


class QuantizeSettings(Settings):
    """The quantize stage."""

    quantizer: QuantizerSettings
    relevance: RelevanceSettings
    tasks: dict[str, TaskSweep]

    @model_validator(mode="after")
    def _variants_are_accepted(self) -> QuantizeSettings:
        for task in self.tasks.values():
            for name, replaced in task.ablation.variants.items() if task.ablation else ():
                try:
                    self.variant(replaced)
                except ValidationError as error:
                    where = ".".join(str(part) for part in error.errors()[0]["loc"])
                    raise ValueError(f"variant {name!r}: {where}: {_message(error)}") from error
        return self

    def variant(self, replaced: dict[str, Any]) -> tuple[QuantizerSettings, RelevanceSettings]:
        """The settings of quantizer and relevance with some replaced, by name."""
        sections: tuple[QuantizerSettings, RelevanceSettings] = (self.quantizer, self.relevance)
        known = {name for section in sections for name in type(section).model_fields}
        if not set(replaced) <= known:
            raise ValueError(f"variants may replace {', '.join(sorted(known))}")
        quantizer, relevance = (
            {k: replaced.get(k, v) for k, v in section.model_dump().items()} for section in sections
        )
        return (
            QuantizerSettings.model_validate(quantizer),
            RelevanceSettings.model_validate(relevance),
        )


class LayerSettings(Settings):
    """The run whose layers are shown one by one; a task without such a run shows none."""

    bits: Bits
    lam: Lam
    seed: int


class PublishedSetup(Settings):
    """The setting of a task that the published code has as its default, a row of its own."""

    task: str
    bits: Bits
    lam: Lam


class Yardstick(Settings):
    """A result of the published algorithm that a task is held against."""

    task: str
    method: Literal["ECQ", "ECQx"]
    bits: Bits
    lam: Lam
    accuracy: Share
    sparsity: Share
    bytes: Positive


class ReportSettings(Settings):
    """The report stage."""

    layers: LayerSettings
    published: list[PublishedSetup] = []
    yardsticks: list[Yardstick] = []


class Suite(Settings):
    """One suite of params.yaml, a section a stage."""

    seeds: Annotated[list[int], *Different]
    device: Literal["cpu", "auto"]
    data: Annotated[dict[str, DataSets], Field(min_length=1)]
    tasks: Annotated[dict[str, TaskSettings], Field(min_length=1)]
    pretrain: dict[str, Fit]
    quantize: QuantizeSettings
    report: ReportSettings

    @model_validator(mode="after")
    def _sections_name_the_same_tasks(self) -> Suite:
        for name, section in (("pretrain", self.pretrain), ("quantize.tasks", self.quantize.tasks)):
            if set(section) != set(self.tasks):
                raise ValueError(f"{name} must name the tasks {', '.join(self.tasks)}")
        for name, task in self.tasks.items():
            if task.data not in self.data:
                raise ValueError(f"tasks.{name}.data must be one of {', '.join(self.data)}")
        rows: list[PublishedSetup | Yardstick] = [*self.report.published, *self.report.yardsticks]
        for row in rows:
            if row.task not in self.tasks:
                raise ValueError(f"report: task must be one of {', '.join(self.tasks)}")
        return self


def load(name: str, path: Path = PARAMS) -> Suite:
    """Read and check one suite.

    Parameters
    ----------
    name : str
        Name of the suite.
    path : Path
        The file.

    Returns
    -------
    Suite

    Raises
    ------
    InputError
        One line that names the file, the setting and what would be right.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    suites = content.get("suites") if isinstance(content, dict) else None
    if not isinstance(suites, dict) or name not in suites:
        known = ", ".join(map(str, suites)) if isinstance(suites, dict) else "none"
        raise InputError(f"{path}: suite must be one of {known}, not {name!r}")
    try:
        return Suite.model_validate(suites[name])
    except ValidationError as error:
        where = ".".join(("suites", name, *(str(part) for part in error.errors()[0]["loc"])))
        raise InputError(f"{path}: {where}: {_message(error)}") from error


def _message(error: ValidationError) -> str:
    """The first thing that is wrong, with the value unless the message has it already."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    return f"{first['msg']}, not {first['input']!r:.60}"
