"""The suites: the default one in the root folder, the others in folders of suites/."""

from __future__ import annotations

from pathlib import Path

import yaml

from ecqx.errors import InputError

PARAMS = "params.yaml"


def default() -> str:
    """Name of the default suite."""
    return str(yaml.safe_load(Path(PARAMS).read_text(encoding="utf-8"))["suite"])


def names() -> list[str]:
    """Names of all suites, the default first."""
    return [default(), *sorted(path.parent.name for path in Path("suites").glob(f"*/{PARAMS}"))]


def params_path(name: str) -> Path:
    """The settings of a suite."""
    return Path(PARAMS) if name == default() else Path("suites") / name / PARAMS


def check_known(name: str) -> None:
    """Raise InputError if there is no such suite."""
    if name not in names():
        raise InputError(f"there is no suite {name!r}, only {', '.join(names())}")
