"""Where the settings and the lock of each suite lie: the root, or suites/NAME."""

from __future__ import annotations

from pathlib import Path

import yaml

SUITES = Path("suites")


def names() -> tuple[str, ...]:
    """Names of all suites, the default one first."""
    default = yaml.safe_load(Path("params.yaml").read_text())["suite"]
    others = sorted(path.parent.name for path in SUITES.glob("*/params.yaml"))
    return (default, *others)


def params_path(name: str) -> Path:
    """The settings of a suite."""
    folder = SUITES / name
    return folder / "params.yaml" if folder.is_dir() else Path("params.yaml")


def lock_path(name: str) -> Path:
    """What DVC recorded of a suite."""
    return params_path(name).with_name("dvc.lock")
