"""First stage: what the later stages' code amounts to, ``python -m stages.fingerprint SUITE``.

Writes fingerprints/SUITE/STAGE.json: digests of the modules that the stage imports, directly or
not, and pinned versions of the packages that these import (`stages.closure`). The later stages
depend on their own file and on their data. So an edit makes stale what runs it, and nothing else.
The settings of the whole suite are checked as well, before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ecqx.files import write_text
from stages.closure import Closure, closure, table
from stages.command import run_command_line, suite_of
from stages.suites import params_path

STAGES = ("download", "pretrain", "quantize", "encode", "evaluate", "report")
# The script that starts each stage.
STARTER = "stages/run"
# What every training depends on, beside its method.
TRAINING = ("ecqx.experiment.train",)
FULL_PRECISION = "full precision"
REGISTRY = "ecqx.methods.registry"
FORMS = "ecqx.coding.forms"
# Methods of every sweep of bits and Λ, which need not be named.
GRID = ("ECQ", "ECQx")


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
        taken from packages; ``packages``: versions. ``methods`` (pretrain, quantize): digest of
        what each method's training depends on; ``forms`` (encode, evaluate): of what each form of
        file depends on. ``registered``: the suite's methods, in their order, where a stage reads
        the registry.

    Raises
    ------
    InputError
        If a module is missing, or a package has no pinned version.
    """
    params = yaml.safe_load((folder / params_path(suite)).read_text())
    methods = methods_in_use(params, table(REGISTRY, "METHODS", folder))
    fingerprints = {}
    for stage in STAGES:
        code = closure([f"stages.{stage}"], folder, [STARTER])
        fingerprint: dict[str, Any] = {
            "code": code.contents,
            "names": code.homes,
            "packages": code.packages,
        }
        for part, closures in jobs(stage, methods, folder).items():
            fingerprint[part] = {name: found.digest for name, found in closures.items()}
        if REGISTRY in code.modules:
            fingerprint["registered"] = [f"{name} = {place}" for name, place in methods.items()]
        fingerprints[stage] = fingerprint
    return fingerprints


def jobs(stage: str, methods: Mapping[str, str], folder: Path) -> dict[str, dict[str, Closure]]:
    """What single jobs of a stage depend on: modules that the stage imports by name."""
    parts: dict[str, dict[str, Closure]] = {}
    if stage in ("pretrain", "quantize"):
        parts["methods"] = {FULL_PRECISION: closure(TRAINING, folder)}
    if stage == "quantize":
        never_run = table(REGISTRY, "NEVER_RUN", folder)
        for name, place in methods.items():
            without = [never_run[name]] if name in never_run else []
            parts["methods"][name] = closure([_module(place), *TRAINING], folder, without=without)
    if stage in ("encode", "evaluate"):
        forms = table(FORMS, "FORMS", folder)
        parts["forms"] = {name: closure([_module(place)], folder) for name, place in forms.items()}
    return parts


def methods_in_use(params: object, registered: Mapping[str, str]) -> dict[str, str]:
    """The registered methods that a suite's settings name, with their places."""
    named = {*GRID, *_words(params)}
    return {name: place for name, place in registered.items() if name in named}


def _words(params: object) -> Iterator[str]:
    """All keys and texts of settings."""
    if isinstance(params, str):
        yield params
    elif isinstance(params, Mapping):
        for key, value in params.items():
            yield str(key)
            yield from _words(value)
    elif isinstance(params, Sequence):
        for value in params:
            yield from _words(value)


def _module(place: str) -> str:
    return place.partition(":")[0]


def path(suite: str, stage: str) -> Path:
    """The file that a stage depends on."""
    return Path("fingerprints") / suite / f"{stage}.json"


def text(fingerprint: Mapping[str, Any]) -> str:
    """What that file says."""
    return json.dumps(fingerprint, indent=1) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the fingerprints of all stages."""
    # Imports torch, which who only asks for fingerprints need not.
    from stages.settings.suite import load_suite

    suite = suite_of(arguments)
    load_suite(suite)
    for stage, fingerprint in fingerprints_of(suite).items():
        write_text(path(suite, stage), text(fingerprint))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
