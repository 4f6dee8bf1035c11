"""The runs of a suite's sweeps: which settings are tried, and what each run is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ecqx.errors import InputError
from ecqx.experiment.jobs import key_of
from ecqx.methods.interface import Method
from ecqx.training.settings import FitSettings
from stages.manifests import REFERENCE
from stages.settings.base import Settings, checked
from stages.settings.quantize import Quantize, Sweep
from stages.settings.tasks import TaskSettings

# Settings that have a key of their own in a record, by that key.
_RECORD_KEYS = {
    **{name: name for name in ("lam", "p", "sparsity_band", "alpha", "gradient", "composite")},
    **{"canonizer": "canonizer", "weight_rule": "weight_rule", "lrp_output": "output"},
    **{"relevance_of": "of", "relevance_every": "every", "relevance_samples": "samples"},
    **{"pmf": "pmf", "lambda_max": "lambda_max"},
}
# All others are in ``settings``, except these.
_LEFT_OUT = {*_RECORD_KEYS.values(), "bits", "restart"}
# Settings that the first results did not have, at which values they are left out.
_LATER: dict[str, tuple[Any, ...]] = {
    "include": ((), []),
    "step": ("float32",),
    "beta": ("nearest",),
    "additions": ("split",),
}


class _Fit(Settings):
    """How a run is trained, to be checked where a sweep replaces a part."""

    fit: FitSettings


@dataclass(frozen=True)
class Run:
    """A method at one setting, with one seed, on one task.

    The reference, which trains on in full precision, has no method. ``network`` holds the settings
    of the task, ``form_settings`` those of the form of file (`ecqx.coding.forms`). ``variant`` is
    what distinguishes the run from others of its sweep, beside bits, Λ and p.
    """

    task: str
    sweep: str
    method_name: str
    method: Method | None
    fit: FitSettings
    seed: int
    network: dict[str, Any]
    form_settings: dict[str, Any]
    variant: str | None = None

    @property
    def training_method(self) -> Method | None:
        """The method, if it constrains training."""
        return self.method if self.method is not None and self.method.constrains_training else None

    @property
    def training_method_name(self) -> str:
        """Its name, or that of the training in full precision."""
        return REFERENCE if self.training_method is None else self.method_name

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the method; later ones are left out at their default (`_LATER`)."""
        given = {} if self.method is None else self.method.settings()
        return {name: value for name, value in given.items() if value not in _LATER.get(name, ())}

    @cached_property
    def training_id(self) -> str:
        """Hash of what training depends on; runs that differ in their file alone share it."""
        return key_of(**self._training_settings)

    @cached_property
    def run_id(self) -> str:
        """Hash of all settings. Titles and other words are no part of it."""
        return key_of(
            training=self._training_settings,
            sweep=self.sweep,
            method=self.method_name,
            settings=self.settings,
            form=self.form_settings,
        )

    @property
    def _training_settings(self) -> dict[str, Any]:
        return {
            "method": self.training_method_name,
            "settings": {} if self.training_method is None else self.settings,
            "fit": asdict(self.fit),
            "seed": self.seed,
            "task": self.task,
            "network": self.network,
        }

    @property
    def record(self) -> dict[str, Any]:
        """The run for runs.json, as plain values."""
        others = {
            k: v for k, v in self.settings.items() if k not in _LEFT_OUT and v not in ((), [])
        }
        return {
            "training_id": self.training_id,
            "form": None if self.method is None else self.method.form,
            "form_settings": self.form_settings,
            "run_id": self.run_id,
            "task": self.task,
            "method": self.method_name,
            "sweep": self.sweep,
            "variant": self.variant,
            "bits": None if self.method is None else self.method.bit_width,
            **{key: self.settings.get(name) for key, name in _RECORD_KEYS.items()},
            "floats": self.form_settings.get("floats"),
            "settings": others,
            "lr": self.fit.lr,
            "batch_size": self.fit.batch_size,
            "seed": self.seed,
        }


def all_runs(
    quantize: Quantize, tasks: Mapping[str, TaskSettings], seeds: Sequence[int]
) -> list[Run]:
    """Every run of a suite, in the order in which results list them.

    ``seeds`` are those of the tasks that have none of their own.
    """
    return [
        run
        for name, task in tasks.items()
        for seed in task.seeds or seeds
        for run in runs_of(quantize, tasks, name, seed)
    ]


def runs_of(
    quantize: Quantize, tasks: Mapping[str, TaskSettings], name: str, seed: int
) -> list[Run]:
    """The runs of a task with one seed, the reference first.

    ``InputError`` if a method or a setting is wrong, or a run is there twice.
    """
    network, fit = tasks[name].network, quantize.tasks[name].fit
    reference = Run(name, "reference", REFERENCE, None, fit, seed, network, {})
    found = {reference.run_id: reference}
    for number, sweep in enumerate(quantize.tasks[name].sweeps):
        if seed not in (sweep.seeds or (seed,)):
            continue
        try:
            for method_name, method, run_fit, variant in _variations(quantize, fit, sweep):
                form_settings = method.form_settings()
                if method.form == "ecqx":
                    form_settings["floats"] = sweep.floats
                run = Run(
                    *(name, sweep.sweep, method_name, method, run_fit, seed),
                    *(network, form_settings, variant),
                )
                if run.run_id in found:
                    raise ValueError(f"{method_name}: twice at the same settings")
                found[run.run_id] = run
        except ValueError as error:
            raise InputError(f"quantize.tasks.{name}.sweeps.{number}: {error}") from error
    return list(found.values())


def _variations(
    quantize: Quantize, fit: FitSettings, sweep: Sweep
) -> Iterator[tuple[str, Method, FitSettings, str | None]]:
    """Name, method, training and variant of each run of a sweep."""
    for method_name in sweep.methods:
        for variant, replaced in (sweep.variants or {"": {}}).items():
            for combination in sweep.combinations():
                settings = combination | replaced
                run_fit = fit
                if "lr" in settings:
                    fields = asdict(fit) | {"lr": settings.pop("lr")}
                    run_fit = checked(_Fit, {"fit": fields}).fit
                method = quantize.method(method_name, settings)
                words = [word for word in (variant, sweep.words(combination)) if word]
                yield method_name, method, run_fit, ", ".join(words) or None
