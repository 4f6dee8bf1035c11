"""Which modules, files and pinned packages a part of the program depends on, and their digest.

Imports are read from the syntax trees; nothing is imported. A module that a program imports by a
computed name cannot be seen: give it as a root.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ecqx.errors import InputError
from stages.pins import PINS, pinned_versions
from stages.syntax import digest, parse, table_of

OURS = ("ecqx", "stages")


@dataclass(frozen=True)
class Closure:
    """What a part of the program depends on.

    Attributes
    ----------
    contents : mapping of str to str
        Digest of each module by its name, and of each file by its path.
    packages : mapping of str to str
        Pinned version of each distribution that the modules import directly.
    used_class : str
        The class of a root module that is used, where it is one of several.
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


def closure(
    roots: Iterable[str],
    folder: Path = Path(),
    files: Iterable[str] = (),
    without: Iterable[str] = (),
) -> Closure:
    """Follow the imports of some modules, to the end.

    Parameters
    ----------
    roots : iterable of str
        Names of modules.
    folder : Path
        The repository's root.
    files : iterable of str
        Further files that count, relative to the root. Those in a folder ``templates`` beside a
        module always count.
    without : iterable of str
        Modules that are imported on demand, and never are here: neither they nor what they import
        counts. A wrong one would hide stale results, so a test runs the program.

    Raises
    ------
    InputError
        If an import cannot be followed, or a package has no pinned version.
    """
    paths = _modules(folder)
    digests: dict[str, str] = {}
    foreign: dict[str, str] = {}
    waiting = [(root, "the roots") for root in roots]
    while waiting:
        name, importer = waiting.pop()
        top, _, _ = name.partition(".")
        if top not in OURS:
            foreign.setdefault(top, importer)
        elif name not in digests and name not in without:
            digests[name], imports = _read(_path(name, importer, paths), name)
            imported = {_module(*names, name, paths) for names in imports}
            waiting += [(other, name) for other in sorted({*imported, *_packages(name)})]
    templates = {paths[name].parent / "templates" for name in digests}
    found = [path for place in templates for path in place.rglob("*") if path.is_file()]
    for path in [*found, *(folder / name for name in files)]:
        content = path.read_bytes()
        digests[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return Closure(
        {name: digests[name][:16] for name in sorted(digests)},
        pinned_versions(foreign, folder / PINS),
    )


def direct_imports(module: str, folder: Path = Path()) -> set[str]:
    """The modules of ours that one module imports, in any function."""
    paths = _modules(folder)
    _, imports = _read(paths[module], module)
    return {_module(*names, module, paths) for names in imports} & paths.keys()


def table(module: str, name: str, folder: Path = Path()) -> dict[str, str]:
    """A table from names to modules of the project, as a module's text has it.

    Raises
    ------
    InputError
        If the module has no such dict literal.
    """
    path = _modules(folder).get(module)
    found = table_of(parse(path.read_bytes()), name) if path else None
    if found is None:
        raise InputError(f"{module}: {name} must be a dict literal from names to modules")
    return found


def _modules(folder: Path) -> dict[str, Path]:
    """The file of each module of ours."""
    found = {}
    for path in (path for top in OURS for path in (folder / top).rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def _packages(module: str) -> Iterator[str]:
    """The packages that a module lies in, which are imported before it."""
    while package := module.rpartition(".")[0]:
        yield package
        module = package


def _path(module: str, importer: str, paths: Mapping[str, Path]) -> Path:
    if module not in paths:
        raise InputError(f"{importer}: imports {module}, which is no module")
    return paths[module]


def _module(module: str, name: str, importer: str, paths: Mapping[str, Path]) -> str:
    """The module that ``from module import name`` imports.

    A name of a package may be imported from elsewhere on first use (`ecqx.lazy`), which could not
    be followed: only modules are imported from our packages.
    """
    if module.partition(".")[0] not in OURS:
        return module
    inner = f"{module}.{name}"
    target = inner if inner in paths else module
    if _path(target, importer, paths).name == "__init__.py":
        raise InputError(f"{importer}: {target} is a package: import from its modules")
    return target


def _read(path: Path, module: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Digest of a module, and its imports as (module, name) of ``from module import name``."""
    try:
        return _parsed(path.read_bytes(), module)
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}") from error


@cache
def _parsed(content: bytes, module: str) -> tuple[str, frozenset[tuple[str, str]]]:
    tree = parse(content)
    imports = frozenset(pair for node in ast.walk(tree) for pair in _imports(node, module))
    return digest(tree), imports


def _imports(node: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """What one node imports; the name is empty for an import of a whole module."""
    match node:
        case ast.Import(names):
            for alias in names:
                if alias.name.partition(".")[0] in OURS and alias.asname is None:
                    package, _, name = alias.name.rpartition(".")
                    raise InputError(f"{module}: write `from {package or '…'} import {name}`")
                yield alias.name, ""
        case ast.ImportFrom(source, names, level):
            if level or source is None:
                raise InputError(f"{module}: write relative imports in full")
            yield from ((source, alias.name) for alias in names)
        case ast.Call(function, [ast.Constant(str(name)), *_]):
            if getattr(function, "id", getattr(function, "attr", "")) == "import_module":
                yield name, ""
