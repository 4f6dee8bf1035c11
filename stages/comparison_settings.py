"""Settings of the comparison with what a user would pick instead, in params.yaml."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator

from ecqx.report.comparison import Fairness, Rules
from stages.data_settings import Positive, Settings, Share
from stages.fit_settings import Fit
from stages.methods import SINGLE, known_methods, method_of

# A method's settings by name: a list is tried value by value, anything else holds for all trials.
Grid = dict[str, Any]


class ComparisonTask(Settings):
    """The methods that are compared on one task, trained alike, and the settings each is tried at.

    All combinations of a method's listed values are its ``trials``, as many for every method;
    ``ratios`` are the compression ratios between which the area under the curve is taken.
    """

    fit: Fit
    trials: Positive
    ratios: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]
    methods: Annotated[dict[str, Grid], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_range(self) -> ComparisonTask:
        if not self.ratios[0] < self.ratios[1]:
            raise ValueError("ratios must be [low, high], low below high")
        return self

    @model_validator(mode="after")
    def _trials_are_fair(self) -> ComparisonTask:
        for name, grid in self.methods.items():
            if name not in known_methods():
                raise ValueError(
                    f"methods must be some of {', '.join(known_methods())}, not {name!r}"
                )
            trials = trials_of(grid)
            wanted = 1 if name in SINGLE else self.trials
            if len(trials) != wanted:
                raise ValueError(f"{name} has {len(trials)} trials, it needs {wanted}")
            for trial in trials:
                self._check(name, trial)
        return self

    def _check(self, name: str, trial: dict[str, Any]) -> None:
        lr = trial.get("lr", self.fit.lr)
        if not isinstance(lr, float) or lr <= 0:
            raise ValueError(f"{name}: lr must be a number above 0, not {lr!r}")
        try:
            method_of(name, {k: v for k, v in trial.items() if k != "lr"}, {}, None)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error


class Comparison(Settings):
    """A comparison: its tasks, and how much accuracy a file may lose, a fraction of one."""

    loss: Share
    tasks: Annotated[dict[str, ComparisonTask], Field(min_length=1)]

    def rules(self) -> Rules:
        """What the report compares by."""
        return Rules(
            self.loss,
            {
                name: Fairness((task.ratios[0], task.ratios[1]), task.trials)
                for name, task in self.tasks.items()
            },
        )


def trials_of(grid: Grid) -> list[dict[str, Any]]:
    """All combinations of the listed values, in order, with the fixed ones in each."""
    values = [value if isinstance(value, list) else [value] for value in grid.values()]
    return [dict(zip(grid, combination, strict=True)) for combination in product(*values)]
