"""Versions of packages as constraints.txt pins them, whatever this machine has installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ecqx.errors import InputError

PINS = "constraints.txt"

# Distributions whose name differs from that of the module.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "ruamel": "ruamel-yaml",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
# numba allows several versions of the compiler that makes its numbers.
_COMPANIONS = {"numba": ("llvmlite",)}


def pinned_versions(importers: Mapping[str, str], path: Path) -> dict[str, str]:
    """Versions of the distributions of some top-level modules; the standard library has none.

    Parameters
    ----------
    importers : mapping of str to str
        By top-level module, one that imports it.
    path : Path
        The file with the pins.

    Raises
    ------
    InputError
        If a version is missing.
    """
    pins = _pins(path.read_text(encoding="utf-8"))
    wanted: dict[str, str] = {}
    for module, importer in importers.items():
        if module not in sys.stdlib_module_names:
            name = _DISTRIBUTIONS.get(module, _canonical(module))
            wanted |= dict.fromkeys((name, *_COMPANIONS.get(name, ())), importer)
    for name, importer in wanted.items():
        if name not in pins:
            raise InputError(f"{path.name}: has no version of {name}, which {importer} imports")
    return {name: pins[name] for name in sorted(wanted)}


@cache
def _pins(constraints: str) -> Mapping[str, str]:
    """Version by canonical name, without local parts (``+cpu``); several where markers choose."""
    pins: dict[str, str] = {}
    for line in constraints.splitlines():
        name, _, rest = line.partition("#")[0].partition("==")
        version, _, marker = (part.strip() for part in rest.partition(";"))
        if version:
            pin = version.partition("+")[0] + (f" if {marker}" if marker else "")
            key = _canonical(name.strip())
            pins[key] = f"{pins[key]}, {pin}" if key in pins else pin
    return pins


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
