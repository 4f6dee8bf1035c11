"""Which modules, files and pinned packages a part of the program depends on, and their digest.

Imports are read from the syntax trees; nothing is imported. A module that a program imports by a
computed name cannot be seen: give it as a root.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ecqx.errors import InputError
from stages import syntax
from stages.syntax import OURS

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


@dataclass(frozen=True)
class Closure:
    """What a part of the program depends on.

    ``contents`` has the digest of each module by its name, and of each file by its path,
    ``packages`` the pinned version of each distribution that the modules import directly.
    ``used_class`` is the class of a root module that is used, where it is one of several.
    """

    contents: Mapping[str, str]
    packages: Mapping[str, str]
    used_class: str = ""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules, sorted."""
        return tuple(name for name in self.contents if "/" not in name)

    @cached_property
    def digest(self) -> str:
        """Hash of everything, in hexadecimal."""
        parts = [dict(self.contents), dict(self.packages), self.used_class]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Code:
    """The modules of ours in a repository, as their files are now; each is read once."""

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder
        self.paths: dict[str, Path] = {}
        for path in (path for top in OURS for path in (folder / top).rglob("*.py")):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            self.paths[name.removesuffix(".__init__")] = path
        self._sources: dict[str, syntax.Source] = {}

    def source(self, module: str, importer: str = "the roots") -> syntax.Source:
        """What a module does; ``InputError`` if there is none."""
        if module not in self._sources:
            text = self._path(module, importer).read_bytes()
            self._sources[module] = syntax.read(text, module)
        return self._sources[module]

    def imports(self, module: str) -> set[str]:
        """The modules that a module imports, in any function, and the packages it lies in."""
        parts = module.split(".")
        found = {".".join(parts[:end]) for end in range(1, len(parts))}
        for imported, name in self.source(module).imports:
            found.add(self._module(imported, name, module))
        return found

    def table(self, module: str, name: str) -> dict[str, str]:
        """A table from names to modules of the project, as a module's text has it."""
        found = self.source(module).tables.get(name) if module in self.paths else None
        if found is None:
            raise InputError(f"{module}: {name} must be a dict literal from names to modules")
        return found

    def closure(
        self, roots: Iterable[str], files: Iterable[str] = (), without: Iterable[str] = ()
    ) -> Closure:
        """Follow the imports of some modules, to the end.

        ``files`` are further files that count; those in a folder ``templates`` beside a module
        always do. ``without`` are modules that are imported on demand, and never are here: neither
        they nor what they import counts. A wrong one would hide stale results, so a test runs the
        program. ``InputError`` if an import cannot be followed, or a package has no pinned version.
        """
        digests: dict[str, str] = {}
        importers: dict[str, str] = {}
        waiting = [(root, "the roots") for root in roots]
        while waiting:
            name, importer = waiting.pop()
            top, _, _ = name.partition(".")
            if top not in OURS:
                importers.setdefault(top, importer)
            elif name not in digests and name not in without:
                digests[name] = self.source(name, importer).digest
                waiting += [(other, name) for other in sorted(self.imports(name))]
        templates = {self.paths[name].parent / "templates" for name in digests}
        found = [path for place in templates for path in place.rglob("*") if path.is_file()]
        for path in [*found, *(self.folder / name for name in files)]:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            digests[path.relative_to(self.folder).as_posix()] = digest
        return Closure(
            {name: digests[name][:16] for name in sorted(digests)}, self._versions(importers)
        )

    def _path(self, module: str, importer: str) -> Path:
        if module not in self.paths:
            raise InputError(f"{importer}: imports {module}, which is no module")
        return self.paths[module]

    def _module(self, module: str, name: str, importer: str) -> str:
        """The module that ``from module import name`` imports.

        A name of a package may be imported from elsewhere on first use (`ecqx.lazy`), which could
        not be followed: only modules are imported from our packages.
        """
        if module.partition(".")[0] not in OURS:
            return module
        inner = f"{module}.{name}"
        target = inner if inner in self.paths else module
        if self._path(target, importer).name == "__init__.py":
            raise InputError(f"{importer}: {target} is a package: import from its modules")
        return target

    def _versions(self, importers: Mapping[str, str]) -> dict[str, str]:
        """Pinned versions of the distributions of some top-level modules, each with an importer.

        The standard library has none. What this machine has installed does not count.
        """
        pins = _pins((self.folder / PINS).read_text(encoding="utf-8"))
        versions = {}
        for module in importers.keys() - sys.stdlib_module_names:
            name: str = canonicalize_name(_DISTRIBUTIONS.get(module, module))
            for distribution in (name, *_COMPANIONS.get(name, ())):
                if distribution not in pins:
                    raise InputError(
                        f"{PINS}: has no version of {distribution}, which {importers[module]} "
                        "imports"
                    )
                versions[distribution] = pins[distribution]
        return dict(sorted(versions.items()))


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
