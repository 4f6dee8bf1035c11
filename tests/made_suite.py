"""Settings of suite smoke, with changes, as the only suite of a folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from stages.settings.suite import Suite, load_suite
from stages.sweeps import Run, all_runs

REPOSITORY = Path(__file__).resolve().parents[1]
SMOKE: dict[str, Any] = yaml.safe_load((REPOSITORY / "suites/smoke/params.yaml").read_text())
MISSING = object()
MLP = "quantize.tasks.mlp"


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The settings with some replaced, added or, with `MISSING`, taken out; names are dotted."""
    params = copy.deepcopy(SMOKE) | {"root": ".", "params": "params.yaml"}
    for setting, value in changes:
        section: Any = params
        *parents, last = (int(part) if part.isdecimal() else part for part in setting.split("."))
        for name in parents:
            section = section[name]
        if value is MISSING:
            del section[last]
        else:
            section[last] = copy.deepcopy(value)
    return params


def write(params: dict[str, Any]) -> None:
    """Make them the settings of the working directory."""
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def loaded(*changes: tuple[str, Any]) -> Suite:
    """The checked settings, with changes."""
    write(changed(*changes))
    return load_suite("smoke")


def sweep_of(**settings: Any) -> dict[str, Any]:
    """A sweep of ECQx at one setting, with changes; `MISSING` takes one out."""
    sweep = {"sweep": "grid", "method": "ECQx", "bits": 4, "lam": 0.1} | settings
    return {name: value for name, value in sweep.items() if value is not MISSING}


def runs(*sweeps: dict[str, Any], changes: tuple[tuple[str, Any], ...] = ()) -> list[Run]:
    """The runs of some sweeps of the perceptron with the first seed, without the reference."""
    suite = loaded((f"{MLP}.sweeps", list(sweeps)), *changes)
    found = all_runs(suite.quantize, suite.tasks, suite.seeds[:1])
    return [run for run in found if run.task == "mlp" and run.method is not None]
