"""The runs of a suite's sweeps: which settings are tried, and what each run is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecqx.errors import InputError
from ecqx.experiment.jobs import key_of
from ecqx.methods.interface import Method
from ecqx.training.settings import FitSettings
from stages.manifests import REFERENCE
from stages.settings.base import Settings, checked
from stages.settings.quantize import Quantize, Sweep
from stages.settings.tasks import TaskSettings

# Settings that records have keys of their own for.
_COLUMNS = (
    *("bits", "lam", "p", "sparsity_band", "alpha", "gradient", "composite", "canonizer"),
    *("weight_rule", "output", "of", "every", "samples", "restart", "pmf", "lambda_max"),
)


class _Fit(Settings):
    """How a run is trained, to be checked where a sweep replaces a part."""

    fit: FitSettings


@dataclass(frozen=True)
class Run:
    """A method at one setting, with one seed, on one task.

    Attributes
    ----------
    task, sweep, method_name : str
    method : Method, optional
        None for the reference, which trains on in full precision.
    fit : FitSettings
    seed : int
    form_settings : dict
        Of the form of file, see `ecqx.coding.forms`.
    variant : str, optional
        What tells the run from others of its sweep, beside bits, Λ and p.
    run_id, training_id : str
        Hashes of the settings; runs that differ in their file alone share a training.
    """

    task: str
    sweep: str
    method_name: str
    method: Method | None
    fit: FitSettings
    seed: int
    form_settings: dict[str, Any]
    variant: str | None
    run_id: str
    training_id: str

    @property
    def training(self) -> Method | None:
        """The method as far as training is concerned."""
        return self.method if self.method is not None and self.method.is_trained else None

    @property
    def record(self) -> dict[str, Any]:
        """The run as plain values, for runs.json."""
        settings = {} if self.method is None else self.method.settings()
        return {
            "run_id": self.run_id,
            "training_id": self.training_id,
            "task": self.task,
            "method": self.method_name,
            "sweep": self.sweep,
            "variant": self.variant,
            "bits": None if self.method is None else self.method.bit_width,
            "settings": {name: settings.get(name) for name in _COLUMNS if name != "bits"},
            "own": {k: v for k, v in settings.items() if k not in _COLUMNS and v not in ((), [])},
            "form": None if self.method is None else self.method.form,
            "form_settings": self.form_settings,
            "fit": asdict(self.fit),
            "seed": self.seed,
        }


def all_runs(
    quantize: Quantize, tasks: Mapping[str, TaskSettings], seeds: Sequence[int]
) -> list[Run]:
    """Every run of a suite, in the order in which results list them."""
    return [run for name in tasks for seed in seeds for run in runs_of(quantize, tasks, name, seed)]


def runs_of(
    quantize: Quantize, tasks: Mapping[str, TaskSettings], name: str, seed: int
) -> list[Run]:
    """The runs of a task with one seed, the reference first.

    Raises
    ------
    InputError
        If a method or a setting is wrong, or a run is there twice; the message names task and
        sweep.
    """
    task = tasks[name]
    reference = _run(
        name, task, seed, REFERENCE, REFERENCE, None, quantize.tasks[name].fit, {}, None
    )
    found = {reference.run_id: replace(reference, sweep="reference")}
    for number, sweep in enumerate(quantize.tasks[name].sweeps):
        try:
            for run in _runs_of_sweep(quantize, name, task, seed, sweep):
                if run.run_id in found:
                    raise ValueError(f"{run.method_name}: twice at the same settings")
                found[run.run_id] = run
        except ValueError as error:
            raise InputError(f"quantize.tasks.{name}.sweeps.{number}: {error}") from error
    return list(found.values())


def _runs_of_sweep(
    quantize: Quantize, name: str, task: TaskSettings, seed: int, sweep: Sweep
) -> Iterator[Run]:
    for method_name in sweep.methods:
        for variant, replaced in (sweep.variants or {"": {}}).items():
            for combination in sweep.combinations():
                settings = combination | replaced
                fit = quantize.tasks[name].fit
                if "lr" in settings:
                    fit = checked(_Fit, {"fit": asdict(fit) | {"lr": settings.pop("lr")}}).fit
                method = quantize.method(method_name, settings)
                form_settings = method.form_settings()
                if method.form == "ecqx":
                    form_settings["floats"] = sweep.floats
                words = ", ".join(filter(None, (variant, sweep.words(combination)))) or None
                yield _run(
                    *(name, task, seed, sweep.sweep, method_name, method, fit, form_settings, words)
                )


def _run(
    name: str,
    task: TaskSettings,
    seed: int,
    sweep: str,
    method_name: str,
    method: Method | None,
    fit: FitSettings,
    form_settings: dict[str, Any],
    variant: str | None,
) -> Run:
    """A run with its names."""
    trained = method is not None and method.is_trained
    training = {
        "method": method_name if trained else REFERENCE,
        "settings": method.settings() if method is not None and trained else {},
        "fit": asdict(fit),
        "seed": seed,
        "task": name,
        "network": task.model_dump(),
    }
    whole = {
        "training": training,
        "sweep": sweep,
        "method": method_name,
        "settings": {} if method is None else method.settings(),
        "form": form_settings,
    }
    return Run(
        task=name,
        sweep=sweep,
        method_name=method_name,
        method=method,
        fit=fit,
        seed=seed,
        form_settings=form_settings,
        variant=variant,
        run_id=key_of(**whole),
        training_id=key_of(**training),
    )
