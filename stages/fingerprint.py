"""First stage: what the code of the later stages amounts to.

Writes fingerprints/SUITE/STAGE.json: digests of the modules that the stage imports, directly or
not, and pinned versions of the packages that these import (`stages.closure`). The later stages
depend on their own file and on their data, so that an edit makes stale what runs it, and nothing
else. The settings of the whole suite are checked here, before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import paths, suites
from stages.closure import Closure, closure, table
from stages.command import command, run_command_line, suite_argument
from stages.manifests import COUNT, FULL_PRECISION

STAGES = ("download", "pretrain", "quantize", "encode", "evaluate", "report")
# The script that starts each stage.
STARTER = "stages/run"
# What every training, and every count of its cost, runs beside its method.
TRAINING, COST = "ecqx.experiment.train", "ecqx.experiment.cost"
REGISTRY, FORMS = "ecqx.methods.registry", "ecqx.coding.forms"

Fingerprint = dict[str, Any]


@command
@suite_argument
def main(suite: str) -> None:
    """Write the fingerprints of all stages."""
    # Imports torch, which `make status` need not wait for.
    from stages.settings.suite import load_suite

    load_suite(suite)
    for stage, fingerprint in fingerprints_of(suite).items():
        write_text(paths.fingerprint(suite, stage), text(fingerprint))


def fingerprints_of(suite: str, folder: Path = Path()) -> dict[str, Fingerprint]:
    """Fingerprint of each stage of a suite, as the code in a folder is now.

    Returns
    -------
    dict
        By stage. ``code``: digest by module and file. ``packages``: version by distribution.
        ``methods`` (pretrain, quantize): digest of what each method's training depends on.
        ``forms`` (encode, evaluate): the same of each form of file. ``registered``: the suite's
        methods in their order, where a stage reads the registry.

    Raises
    ------
    InputError
        If an import cannot be followed, or a package has no pinned version.
    """
    methods = methods_of(suite, folder)
    fingerprints = {}
    for stage in STAGES:
        without = _never_imported(stage, suite, folder)
        code = closure([f"stages.{stage}"], folder, [STARTER], without)
        fingerprint: Fingerprint = {"code": code.contents, "packages": code.packages}
        for part, closures in jobs(stage, methods, folder).items():
            fingerprint[part] = {name: found.digest for name, found in closures.items()}
        if REGISTRY in code.contents:
            fingerprint["registered"] = [f"{name} = {place}" for name, place in methods.items()]
        fingerprints[stage] = fingerprint
    return fingerprints


def _never_imported(stage: str, suite: str, folder: Path) -> list[str]:
    """The coder, which the stage download imports only for starts that are coded files."""
    if stage != "download":
        return []
    tasks: Any = suites.read_params(folder / suites.params_path(suite)).get("tasks") or {}
    starts = [str((task.get("start") or {}).get("checkpoint")) for task in tasks.values()]
    return [] if any(start.endswith(".ecqx") for start in starts) else ["ecqx.coding.bitstream"]


def methods_of(suite: str, folder: Path = Path()) -> dict[str, str]:
    """The methods that a suite's sweeps name, with their places, in the registry's order.

    Raises
    ------
    InputError
        If the settings have no sweeps.
    """
    path = suites.params_path(suite)
    params: Any = suites.read_params(folder / path)
    try:
        tasks = params["quantize"]["tasks"].values()
        listed = [sweep["method"] for task in tasks for sweep in task["sweeps"]]
        named = {name for one in listed for name in ([one] if isinstance(one, str) else one)}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: quantize.tasks must list sweeps, with a method each") from error
    known = table(REGISTRY, "METHODS", folder)
    return {name: place for name, place in known.items() if name in named}


def jobs(
    stage: str, methods: Mapping[str, str], folder: Path = Path()
) -> dict[str, dict[str, Closure]]:
    """What the jobs of a stage that import modules by computed names depend on, by kind, name."""
    if stage in ("encode", "evaluate"):
        forms = table(FORMS, "FORMS", folder)
        return {"forms": {name: _job(place, [], folder) for name, place in forms.items()}}
    if stage == "pretrain":
        return {"methods": {FULL_PRECISION: closure([TRAINING], folder)}}
    if stage == "quantize":
        never = table(REGISTRY, "NEVER_RUN", folder)
        trainings = {FULL_PRECISION: closure([TRAINING], folder), COUNT: closure([COST], folder)}
        for name, place in methods.items():
            trainings[name] = _job(place, [TRAINING], folder, never.get(name))
        return {"methods": trainings}
    return {}


def _job(place: str, roots: list[str], folder: Path, never: str | None = None) -> Closure:
    """What ``module:class`` depends on: the module's closure, and which class it is."""
    module, _, name = place.partition(":")
    found = closure([module, *roots], folder, without=[never] if never else [])
    return replace(found, used_class=name)


def text(fingerprint: Mapping[str, Any]) -> str:
    """The content of a fingerprint's file."""
    return json.dumps(fingerprint, indent=1) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
