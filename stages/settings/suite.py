"""All settings of a suite. The command checks them, and prints nothing if they are right."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import Field, model_validator

from ecqx.errors import InputError
from ecqx.methods.registry import method_class
from ecqx.models import networks
from stages import suites
from stages.command import command, run_command_line, suite_argument
from stages.settings.base import Evaluate, load
from stages.settings.data import Data
from stages.settings.quantize import Quantize
from stages.settings.report import Report
from stages.settings.tasks import PretrainSettings
from stages.sweeps import runs_of


class Suite(PretrainSettings):
    """A suite's params.yaml; each stage reads its own sections.

    ``root`` and ``params`` are for dvc.yaml: the repository's root, relative to the suite's folder,
    and these settings, relative to the root. The committed results of a suite that is ``published``
    have to be those of the committed code.
    """

    suite: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
    root: str
    params: str
    published: bool
    data: Data
    quantize: Quantize
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Suite:
        names = ", ".join(self.tasks)
        for section, tasks in (
            ("pretrain", set(self.pretrain)),
            ("quantize.tasks", set(self.quantize.tasks)),
            ("report.titles", set(self.report.titles)),
        ):
            if tasks != set(self.tasks):
                raise ValueError(f"{section} must name the tasks {names}")
        named = {row.task for row in self.report.published}
        named |= {row.task for row in self.report.yardsticks}
        named |= set(self.report.paper)
        if self.report.comparison:
            named |= set(self.report.comparison.tasks)
        if named - set(self.tasks):
            raise ValueError(f"report: task must be one of {names}")
        return self

    @model_validator(mode="after")
    def _networks_can_be_built(self) -> Suite:
        for name, task in self.tasks.items():
            if task.data not in self.data.sets:
                raise ValueError(f"tasks.{name}.data must be one of {', '.join(self.data.sets)}")
            try:
                networks.build(**task.model)
            except ValueError as error:
                raise ValueError(f"tasks.{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _sweeps_have_seeds_of_their_task(self) -> Suite:
        for name, task in self.tasks.items():
            own = task.seeds or self.seeds
            for number, sweep in enumerate(self.quantize.tasks[name].sweeps):
                if set(sweep.seeds or ()) - set(own):
                    known = ", ".join(map(str, own))
                    raise ValueError(
                        f"quantize.tasks.{name}.sweeps.{number}.seeds: must be some of {known}"
                    )
        return self

    @model_validator(mode="after")
    def _methods_have_equal_trials(self) -> Suite:
        for name, task in self.tasks.items():
            compared = [s for s in self.quantize.tasks[name].sweeps if s.sweep == "comparison"]
            own = task.seeds or self.seeds
            seed = next((s.seeds[0] for s in compared if s.seeds), own[0])
            runs = runs_of(self.quantize, self.tasks, name, seed)
            counts = Counter(run.method_name for run in runs if run.sweep == "comparison")
            rules = self.report.comparison.tasks.get(name) if self.report.comparison else None
            if counts and rules is None:
                raise ValueError(f"report.comparison.tasks must name {name}, which has such sweeps")
            for method, count in counts.items():
                wanted = rules.trials if rules and method_class(method).takes() else 1
                if count != wanted:
                    raise ValueError(
                        f"quantize.tasks.{name}: {method} has {count} trials, it needs {wanted}"
                    )
        return self


def load_suite(name: str) -> Suite:
    """Read and check all settings of a suite; ``InputError`` in one line if one is wrong."""
    settings, path = load(name, Suite, is_whole=True), suites.params_path(name)
    up = "/".join(".." for _ in path.parent.parts) or "."
    for setting, right in (("suite", name), ("root", up), ("params", path.as_posix())):
        if (value := getattr(settings, setting)) != right:
            # In a copied folder: its runs would replace another suite's results.
            raise InputError(f"{path}: {setting} must be {right!r} here, not {value!r}")
    return settings


@command
@suite_argument
def main(suite: str) -> None:
    """Check the settings."""
    load_suite(suite)


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
