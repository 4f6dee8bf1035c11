"""First stage: what the later stages' code amounts to, ``python -m stages.fingerprint SUITE``.

Writes fingerprints/SUITE/STAGE.json: digests of the modules that the stage imports, directly or
not, and pinned versions of the packages that these import (`stages.closure`). The later stages
depend on their own file and on their data. So an edit makes stale what runs it, and nothing else.
The settings of the whole suite are checked as well, before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import paths, suites
from stages.closure import Closure, closure, table
from stages.command import run_command_line, suite_of

STAGES = ("download", "pretrain", "quantize", "encode", "evaluate", "report")
# The script that starts each stage.
STARTER = "stages/run"
# What every training, and the count of its cost, runs beside its method; by itself a training is
# one in full precision.
TRAINING, COST = "ecqx.experiment.train", "ecqx.experiment.cost"
FULL_PRECISION = "full precision"
REGISTRY, FORMS = "ecqx.methods.registry", "ecqx.coding.forms"


def fingerprints_of(suite: str, folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """Fingerprint of each stage of a suite, as the code is now.

    Parameters
    ----------
    suite : str
    folder : Path
        The repository's root.

    Returns
    -------
    dict
        By stage. ``code``: digest by module and file; ``names``: modules of the names that are
        taken from packages; ``packages``: versions. ``methods`` (pretrain, quantize) and
        ``costs`` (quantize): digest of what each method's training, and the count of its cost,
        depends on; ``forms`` (encode, evaluate): of what each form of
        file depends on. ``registered``: the suite's methods, in their order, where a stage reads
        the registry.

    Raises
    ------
    InputError
        If a module is missing, or a package has no pinned version.
    """
    methods = methods_of(suite, folder)
    fingerprints = {}
    for stage in STAGES:
        code = stage_closure(stage, suite, folder)
        fingerprint: dict[str, Any] = {
            "code": code.contents,
            "names": code.homes,
            "packages": code.packages,
        }
        for part, closures in jobs(stage, methods, folder).items():
            fingerprint[part] = {name: found.digest for name, found in closures.items()}
        if REGISTRY in code.contents:
            fingerprint["registered"] = [f"{name} = {place}" for name, place in methods.items()]
        fingerprints[stage] = fingerprint
    return fingerprints


def stage_closure(stage: str, suite: str, folder: Path = Path()) -> Closure:
    """What a stage of a suite depends on by itself."""
    return closure([f"stages.{stage}"], folder, [STARTER], _never_run(stage, suite, folder))


def _never_run(stage: str, suite: str, folder: Path) -> list[str]:
    """Modules that a stage imports for settings that the suite does not have."""
    if stage != "download":
        return []
    tasks: Any = suites.read_params(folder / suites.params_path(suite)).get("tasks") or {}
    starts = [str((task.get("start") or {}).get("checkpoint")) for task in tasks.values()]
    # The coder is there for starts that are coded files.
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
    named: set[str] = set()
    try:
        for task in params["quantize"]["tasks"].values():
            for sweep in task["sweeps"]:
                method = sweep["method"]
                named |= {method} if isinstance(method, str) else set(method)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: quantize.tasks must list sweeps, with a method each") from error
    known = table(REGISTRY, "METHODS", folder)
    return {name: place for name, place in known.items() if name in named}


def jobs(
    stage: str, methods: Mapping[str, str], folder: Path = Path()
) -> dict[str, dict[str, Closure]]:
    """What single jobs of a stage depend on: modules that it imports by names that it computes."""
    parts: dict[str, dict[str, Closure]] = {}
    if stage in ("pretrain", "quantize"):
        parts["methods"] = {FULL_PRECISION: closure([TRAINING], folder)}
    if stage == "quantize":
        parts["costs"] = {}
        never = table(REGISTRY, "NEVER_RUN", folder)
        for name, place in methods.items():
            without = [never[name]] if name in never else []
            parts["methods"][name] = _job(place, [TRAINING], folder, without)
            parts["costs"][name] = _job(place, [COST], folder, without)
    if stage in ("encode", "evaluate"):
        forms = table(FORMS, "FORMS", folder)
        parts["forms"] = {name: _job(place, [], folder) for name, place in forms.items()}
    return parts


def _job(place: str, roots: list[str], folder: Path, without: Sequence[str] = ()) -> Closure:
    """What depends on ``module:class``: the module's closure, and which class it is."""
    module, _, name = place.partition(":")
    found = closure([module, *roots], folder, without=without)
    return replace(found, homes={**found.homes, "its class": name})


def text(fingerprint: Mapping[str, Any]) -> str:
    """What the file says that a stage depends on."""
    return json.dumps(fingerprint, indent=1) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the fingerprints of all stages."""
    # Imports torch, which those who only ask for fingerprints need not wait for.
    from stages.settings.suite import load_suite

    suite = suite_of(arguments)
    load_suite(suite)
    for stage, fingerprint in fingerprints_of(suite).items():
        write_text(paths.fingerprint(suite, stage), text(fingerprint))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
