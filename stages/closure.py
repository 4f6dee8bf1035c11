"""Which modules, files and pinned packages a piece of the program depends on, and their digest.

The imports are read from the syntax trees, nothing is imported. A name that a package takes from
another module on first use (`ecqx.lazy.lazy_names`) counts as that module. What a program imports
by a name that it computes cannot be seen: give those modules as roots.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from ecqx.errors import InputError
from stages.pins import PINS, pinned_versions
from stages.syntax import digest, parse, table_of

OURS = ("ecqx", "stages")


@dataclass(frozen=True)
class Closure:
    """What a piece of the program depends on.

    Attributes
    ----------
    contents : mapping of str to str
        Digest of each module by its name, and of each file by its path.
    homes : mapping of str to str
        Module of each name in use that a package takes from elsewhere.
    packages : mapping of str to str
        Pinned version of each distribution that the modules import directly.
    """

    contents: Mapping[str, str]
    homes: Mapping[str, str]
    packages: Mapping[str, str]

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules, sorted."""
        return tuple(name for name in self.contents if "/" not in name)

    @cached_property
    def digest(self) -> str:
        """Hash of everything, in hexadecimal."""
        parts = [dict(self.contents), dict(self.homes), dict(self.packages)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def closure(
    roots: Iterable[str],
    folder: Path = Path(),
    files: Iterable[str] = (),
    without: Iterable[str] = (),
) -> Closure:
    """Follow the imports of some modules to the end.

    Parameters
    ----------
    roots : iterable of str
        Names of modules.
    folder : Path
        The repository's root.
    files : iterable of str
        Further files that count by content, relative to the root. Those in a folder ``templates``
        beside a module count in any case.
    without : iterable of str
        Modules that are imported when they are needed, and never are here: neither they nor what
        they import counts. Wrong ones fool the cache; a test has to run the program.

    Raises
    ------
    InputError
        If a module is missing, or a package has no pinned version.
    """
    walk = _Walk(_modules(folder), frozenset(without))
    for root in roots:
        walk.add(root, "the roots")
    while walk.waiting:
        walk.follow(walk.waiting.pop())
    read = {name: source.digest for name, source in walk.sources.items()}
    beside = {walk.files[name].parent / "templates" for name in read}
    found = [path for templates in beside for path in templates.rglob("*") if path.is_file()]
    for path in [*found, *(folder / name for name in files)]:
        read[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return Closure(
        {name: read[name][:16] for name in sorted(read)},
        dict(sorted(walk.homes.items())),
        pinned_versions(walk.foreign, folder / PINS),
    )


def direct_imports(module: str, folder: Path = Path()) -> set[str]:
    """The modules of ours that one module imports, in any function, without their packages."""
    walk = _Walk(_modules(folder), frozenset())
    walk.add(module, "the roots")
    walk.follow(module)
    return {n for n in walk.sources if walk.files[n].name != "__init__.py"} - {module}


def table(module: str, name: str, folder: Path = Path()) -> dict[str, str]:
    """A table of places, from names to modules of the project, as a module's text has it.

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
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@dataclass(frozen=True)
class _Source:
    """What the text of one module says, all names absolute.

    Attributes
    ----------
    digest : str
    imports : set of str
        Modules.
    names : set of str
        Names imported from modules, ``module.name``.
    uses : set of str
        Imported names with the attributes taken of them, ``module.name.attribute``.
    homes : mapping of str to str, optional
        Modules of the names that a package takes from elsewhere.
    """

    digest: str
    imports: frozenset[str]
    names: frozenset[str]
    uses: frozenset[str]
    homes: Mapping[str, str] | None


@cache
def _read(content: bytes, module: str, is_package: bool) -> _Source:
    tree = parse(content)
    collector = _Imports(module if is_package else module.rpartition(".")[0])
    for node in ast.walk(tree):
        collector.collect(node)
    collector.visit(tree)
    return _Source(
        homes=_homes(tree, module),
        imports=frozenset(collector.imports),
        names=frozenset(collector.names),
        uses=frozenset(collector.uses),
        digest=digest(tree),
    )


def _homes(tree: ast.Module, module: str) -> Mapping[str, str] | None:
    """The table in ``__getattr__ = lazy_names(__name__, TABLE)``; None if there is no such line."""
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name("__getattr__")],
                value=ast.Call(ast.Name("lazy_names"), [_, ast.Name(name)]),
            ):
                found = table_of(tree, name)
                if found is None:
                    raise InputError(f"{module}: {name} must be a dict literal of names to modules")
                return found
    return None


class _Imports(ast.NodeVisitor):
    """Collects what a module imports, in any function, and what it uses of it."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.imports: set[str] = set()
        self.names: set[str] = set()
        self.uses: set[str] = set()
        self.aliases: dict[str, set[str]] = {}

    def collect(self, node: ast.AST) -> None:
        """Add one node's import, if it is one."""
        match node:
            case ast.Import(names):
                for alias in names:
                    self.imports.add(alias.name)
                    top = alias.name.partition(".")[0]
                    self._bind(alias.asname or top, alias.name if alias.asname else top)
            case ast.ImportFrom(module, names, level):
                source = self._absolute(module or "", level or 0)
                self.imports.add(source)
                for alias in names:
                    self.names.add(f"{source}.{alias.name}")
                    self._bind(alias.asname or alias.name, f"{source}.{alias.name}")
            case ast.Call(function, [ast.Constant(str(module)), *_]):
                if getattr(function, "id", getattr(function, "attr", "")) == "import_module":
                    self.imports.add(module)

    def _bind(self, name: str, target: str) -> None:
        self.aliases.setdefault(name, set()).add(target)

    def _absolute(self, module: str, level: int) -> str:
        if not level:
            return module
        parts = self.package.split(".")
        return ".".join([*parts[: len(parts) - level + 1], *filter(None, [module])])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        attributes = [node.attr]
        inner = node.value
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._use(inner.id, attributes)
        else:
            self.visit(inner)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._use(node.id, [])

    def _use(self, name: str, attributes: list[str]) -> None:
        for target in self.aliases.get(name, ()):
            self.uses.add(".".join([target, *attributes]))


@dataclass
class _Walk:
    """The modules found so far, and those whose imports are yet to be followed."""

    files: Mapping[str, Path]
    without: frozenset[str]
    sources: dict[str, _Source] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    homes: dict[str, str] = field(default_factory=dict)
    used_whole: set[str] = field(default_factory=set)
    # Top-level modules of other distributions, with one that imports them.
    foreign: dict[str, str] = field(default_factory=dict)

    def add(self, module: str, importer: str) -> None:
        """Add a module and the packages on the way to it; those of others by their top."""
        top, *rest = module.split(".")
        if top not in OURS:
            self.foreign.setdefault(top, importer)
            return
        name = top
        self._load(name, importer)
        for part in rest:
            name = f"{name}.{part}"
            self._load(name, importer)

    def _load(self, module: str, importer: str) -> None:
        if module in self.sources or module in self.without:
            return
        path = self.files.get(module)
        if path is None:
            raise InputError(f"{importer}: imports {module}, which is no module")
        try:
            self.sources[module] = _read(path.read_bytes(), module, path.name == "__init__.py")
        except SyntaxError as error:
            raise InputError(f"{path}: line {error.lineno}: {error.msg}") from error
        self.waiting.append(module)

    def follow(self, module: str) -> None:
        """Add all that a module imports and uses."""
        source = self.sources[module]
        for imported in source.imports:
            self.add(imported, module)
        for name in source.names:
            if name.endswith(".*") and name.partition(".")[0] in OURS:
                raise InputError(f"{module}: import the names of {name[:-2]} one by one")
            self._resolve(name)
        for use in source.uses:
            package = self._resolve(use)
            if package is not None:
                self._use_all(package)

    def _resolve(self, dotted: str) -> str | None:
        """Follow a dotted name as far as it leads through modules; the module if to the end."""
        module, *rest = dotted.split(".")
        for name in rest:
            if module not in self.sources:
                return None
            inner = f"{module}.{name}"
            home = (self.sources[module].homes or {}).get(name)
            if home is not None:
                self.homes[inner] = home
                self.add(home, module)
            if inner not in self.files:
                return None
            self.add(inner, module)
            module = inner
        return module if module in self.sources else None

    def _use_all(self, module: str) -> None:
        """A package is passed on as an object: any of its names may be used."""
        if module in self.used_whole:
            return
        self.used_whole.add(module)
        for name in self.sources[module].homes or {}:
            inner = self._resolve(f"{module}.{name}")
            if inner is not None:
                self._use_all(inner)
