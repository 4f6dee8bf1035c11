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
from typing import Any

from ecqx.errors import InputError
from ecqx.files import write_text
from stages import paths, suites
from stages.closure import Closure, Code
from stages.command import command, run_command_line, suite_argument
from stages.manifests import COUNT, REFERENCE

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


def fingerprints_of(suite: str) -> dict[str, Fingerprint]:
    """Fingerprint of each stage of a suite, as the code is now.

    ``code``: digest by module and file. ``packages``: version by distribution. ``methods``
    (pretrain, quantize): digest of what each method's training depends on. ``forms`` (encode,
    evaluate): the same of each form of file. ``registered``: the suite's methods in their order,
    where a stage reads the registry. ``InputError`` if an import cannot be followed, a package has
    no pinned version, or the settings have no sweeps.
    """
    code, path = Code(), suites.params_path(suite)
    params = suites.read_params(path)
    try:
        methods = _methods(params, code.table(REGISTRY, "METHODS"))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: quantize.tasks must list sweeps, with a method each") from error
    fingerprints = {}
    for stage in STAGES:
        without = _never_imported(params) if stage == "download" else []
        found = code.closure([f"stages.{stage}"], [STARTER], without)
        fingerprint: Fingerprint = {"code": found.contents, "packages": found.packages}
        for part, closures in jobs(stage, methods, code).items():
            fingerprint[part] = {name: closure.digest for name, closure in closures.items()}
        if REGISTRY in found.contents:
            fingerprint["registered"] = [f"{name} = {place}" for name, place in methods.items()]
        fingerprints[stage] = fingerprint
    return fingerprints


def _methods(params: Any, registered: Mapping[str, str]) -> dict[str, str]:
    """The methods that a suite's sweeps name, with their places, in the registry's order."""
    tasks = params["quantize"]["tasks"].values()
    listed = [sweep["method"] for task in tasks for sweep in task["sweeps"]]
    named = {name for one in listed for name in ([one] if isinstance(one, str) else one)}
    return {name: place for name, place in registered.items() if name in named}


def _never_imported(params: Any) -> list[str]:
    """The coder, which the stage download imports only for starts that are coded files."""
    starts = [task.get("start") or {} for task in (params.get("tasks") or {}).values()]
    are_coded = any(str(start.get("checkpoint")).endswith(".ecqx") for start in starts)
    return [] if are_coded else ["ecqx.coding.bitstream"]


def jobs(stage: str, methods: Mapping[str, str], code: Code) -> dict[str, dict[str, Closure]]:
    """What the jobs of a stage that import modules by computed names depend on, by kind, name."""
    if stage in ("encode", "evaluate"):
        forms = code.table(FORMS, "FORMS")
        return {"forms": {name: _job(place, [], code) for name, place in forms.items()}}
    if stage == "pretrain":
        return {"methods": {REFERENCE: code.closure([TRAINING])}}
    if stage == "quantize":
        never = code.table(REGISTRY, "NEVER_RUN")
        trainings = {REFERENCE: code.closure([TRAINING]), COUNT: code.closure([COST])}
        for name, place in methods.items():
            trainings[name] = _job(place, [TRAINING], code, never.get(name))
        return {"methods": trainings}
    return {}


def _job(place: str, roots: list[str], code: Code, never: str | None = None) -> Closure:
    """What ``module:class`` depends on: the module's closure, and which class it is."""
    module, _, name = place.partition(":")
    found = code.closure([module, *roots], without=[never] if never else [])
    return replace(found, used_class=name)


def text(fingerprint: Mapping[str, Any]) -> str:
    """The content of a fingerprint's file."""
    return json.dumps(fingerprint, indent=1) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
