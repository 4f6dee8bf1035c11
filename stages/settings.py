"""Checks the settings of a suite in params.yaml: ``python -m stages.settings [SUITE]``.

Every stage loads them from here, so that what is wrong is told before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from ecqx import models
from ecqx.assignment.assign import AssignmentSettings
from ecqx.assignment.information import LambdaMax, Pmf
from ecqx.errors import InputError
from ecqx.methods.family import Trained
from ecqx.quantizers.settings import Gradient
from ecqx.relevance.settings import LRP
from stages.command import run_command_line
from stages.comparison_settings import Comparison
from stages.data_settings import DataSets, Positive, Settings, Share
from stages.fit_settings import Fit
from stages.suite import selected

PARAMS = Path("params.yaml")

Lam = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=2, le=8)]


def _all_different(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("the values must differ")
    return values


# A setting that is named twice would be two runs of one name.
Different = (Field(min_length=1), AfterValidator(_all_different))


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
        AssignmentSettings(0.0, self.p, self.band(), self.pmf, self.lambda_max)
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
    every: Positive = 1
    samples: Positive | None = None

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


class TrainedSweep(Settings):
    """A method whose centroids are trained, with other settings as ECQ and ECQx have them."""

    method: Trained
    lam: Annotated[list[Lam], *Different]
    lambda_max: LambdaMax


class TaskSweep(Settings):
    """The settings that are tried on one task: bits x Λ, for ECQ and ECQx and each seed."""

    fit: Fit
    bits: Annotated[list[Bits], *Different]
    lam: Annotated[list[Lam], *Different]
    p_sweep: PSweep | None = None
    ablation: Ablation | None = None
    trained: list[TrainedSweep] = Field(default_factory=list)

    @model_validator(mode="after")
    def _trains_each_method_once(self) -> TaskSweep:
        _all_different([sweep.method for sweep in self.trained])
        return self


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
    published: list[PublishedSetup] = Field(default_factory=list)
    yardsticks: list[Yardstick] = Field(default_factory=list)


class Suite(Settings):
    """One suite of params.yaml, a section a stage."""

    seeds: Annotated[list[int], *Different]
    device: Literal["cpu", "auto"]
    data: Annotated[dict[str, DataSets], Field(min_length=1)]
    tasks: Annotated[dict[str, TaskSettings], Field(min_length=1)]
    pretrain: dict[str, Fit]
    quantize: QuantizeSettings
    report: ReportSettings
    comparison: Comparison | None

    @model_validator(mode="after")
    def _sections_name_the_same_tasks(self) -> Suite:
        for name, section in (("pretrain", self.pretrain), ("quantize.tasks", self.quantize.tasks)):
            if set(section) != set(self.tasks):
                raise ValueError(f"{name} must name the tasks {', '.join(self.tasks)}")
        for name, task in self.tasks.items():
            if task.data not in self.data:
                raise ValueError(f"tasks.{name}.data must be one of {', '.join(self.data)}")
        for name in self.comparison.tasks if self.comparison else ():
            if name not in self.tasks:
                raise ValueError(f"comparison.tasks must be some of {', '.join(self.tasks)}")
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


def main(arguments: Sequence[str]) -> int:
    """Check a suite, by default the one that params.yaml names."""
    load(selected(Path(), *arguments[:1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
