"""Versions of packages as constraints.txt pins them, whatever this machine has installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ecqx.errors import InputError

PINS = "constraints.txt"

# Distributions whose name differs from that of the module.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
# numba does not pin the compiler that its results depend on.
_COMPANIONS = {"numba": ("llvmlite",)}


def pinned_versions(importers: Mapping[str, str], path: Path) -> dict[str, str]:
    """Versions of the distributions of some top-level modules, without the standard library.

    Parameters
    ----------
    importers : mapping of str to str
        By top-level module, one module that imports it.
    path : Path
        The file with the pins.

    Raises
    ------
    InputError
        If a version is missing.
    """
    pins = _pins(path.read_text(encoding="utf-8"))
    wanted: dict[str, str] = {}
    for module in importers.keys() - sys.stdlib_module_names:
        name: str = canonicalize_name(_DISTRIBUTIONS.get(module, module))
        wanted |= dict.fromkeys((name, *_COMPANIONS.get(name, ())), importers[module])
    for name, importer in sorted(wanted.items()):
        if name not in pins:
            raise InputError(f"{path.name}: has no version of {name}, which {importer} imports")
    return {name: pins[name] for name in sorted(wanted)}


@cache
def _pins(constraints: str) -> Mapping[str, str]:
    """Version by canonical name, without local parts (``+cpu``); several where markers choose."""
    pins: dict[str, str] = {}
    for line in constraints.splitlines():
        if text := line.partition("#")[0].strip():
            pinned = Requirement(text)
            version = str(pinned.specifier).removeprefix("==").partition("+")[0]
            pin = f"{version} if {pinned.marker}" if pinned.marker else version
            name: str = canonicalize_name(pinned.name)
            pins[name] = f"{pins[name]}, {pin}" if name in pins else pin
    return pins
