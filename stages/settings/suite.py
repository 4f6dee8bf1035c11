"""Checks all settings of a suite: ``python -m stages.settings.suite [SUITE]``."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from ecqx.errors import InputError
from ecqx.methods.registry import method_class
from ecqx.models import networks
from ecqx.training.settings import FitSettings
from stages import suites
from stages.command import command, run_command_line, suite_argument
from stages.settings.base import Settings, load
from stages.settings.data import Data
from stages.settings.quantize import Quantize
from stages.settings.report import Evaluate, Report
from stages.settings.tasks import Device, Seeds, Tasks
from stages.sweeps import runs_of


class Suite(Settings):
    """All that stands in a suite's params.yaml.

    Attributes
    ----------
    suite : str
        Its name.
    root, params : str
        The repository's root seen from the suite's folder, and these settings seen from the root;
        for dvc.yaml.
    published : bool
        Whether the committed results have to be those of the committed code.
    seeds, device, data, tasks, pretrain, quantize, evaluate, report
        The sections; each stage reads its own.
    """

    suite: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
    root: str
    params: str
    published: bool
    seeds: Seeds
    device: Device
    data: Data
    tasks: Tasks
    pretrain: dict[str, FitSettings]
    quantize: Quantize
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Suite:
        sections: dict[str, Any] = {
            "pretrain": self.pretrain,
            "quantize.tasks": self.quantize.tasks,
            "report.titles": self.report.titles,
        }
        for name, section in sections.items():
            if set(section) != set(self.tasks):
                raise ValueError(f"{name} must name the tasks {', '.join(self.tasks)}")
        named = [row.task for row in self.report.published]
        named += [row.task for row in self.report.yardsticks]
        for task in (*named, *(self.report.comparison.tasks if self.report.comparison else ())):
            if task not in self.tasks:
                raise ValueError(f"report: task must be one of {', '.join(self.tasks)}")
        return self

    @model_validator(mode="after")
    def _networks_can_be_built(self) -> Suite:
        for name, task in self.tasks.items():
            if task.data not in self.data.sets:
                raise ValueError(f"tasks.{name}.data must be one of {', '.join(self.data.sets)}")
            try:
                with torch.device("meta"):  # no memory, no random numbers
                    networks.build(**task.model)
            except ValueError as error:
                raise ValueError(f"tasks.{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _methods_have_equal_trials(self) -> Suite:
        for name in self.tasks:
            runs = runs_of(self.quantize, self.tasks, name, self.seeds[0])
            counts: dict[str, int] = {}
            for run in runs:
                if run.sweep == "comparison":
                    counts[run.method_name] = counts.get(run.method_name, 0) + 1
            rules = self.report.comparison.tasks.get(name) if self.report.comparison else None
            if counts and rules is None:
                raise ValueError(f"report.comparison.tasks must name {name}, which has such sweeps")
            for method, count in counts.items():
                wanted = rules.trials if rules and method_class(method).is_tunable() else 1
                if count != wanted:
                    raise ValueError(
                        f"quantize.tasks.{name}: {method} has {count} trials, it needs {wanted}"
                    )
        return self


def load_suite(name: str) -> Suite:
    """Read and check all settings of a suite.

    Raises
    ------
    InputError
        One line that names the file, the setting and what would be right.
    """
    settings, path = load(name, Suite, is_whole=True), suites.params_path(name)
    up = "/".join(".." for _ in path.parent.parts) or "."
    for setting, right in (("suite", name), ("root", up), ("params", path.as_posix())):
        if (value := getattr(settings, setting)) != right:
            # Of a copied folder: its runs would replace another suite's results.
            raise InputError(f"{path}: {setting} must be {right!r} here, not {value!r}")
    return settings


@command
@suite_argument
def main(suite: str) -> int:
    """Say nothing of settings that are right."""
    load_suite(suite)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
