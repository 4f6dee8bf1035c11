"""The house: which package imports which, no circle between modules, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each package and the packages that it may import: only such as stand above it. All may import the
# modules that lie in ecqx/ itself, which import nothing but each other.
MAY_IMPORT: dict[str, set[str]] = {
    "report": set(),
    "assignment": set(),
    "relevance": set(),
    "coding": {"assignment"},
    "data": {"coding"},
    "models": {"coding", "data"},
    "training": {"data"},
    "quantizers": {"assignment", "relevance", "coding"},
    "methods": {"assignment", "relevance", "coding", "training", "quantizers"},
    "experiment": {
        *("report", "assignment", "relevance", "coding", "data", "models", "training"),
        *("quantizers", "methods"),
    },
    "cli": {"assignment", "relevance", "coding", "models", "training", "experiment"},
}
# Packages that take long to import, write files or open connections.
HEAVY = {
    *("torchvision", "zennit", "numba", "nncodec", "deepCABAC", "torchmetrics", "tabulate"),
    *("altair", "vl_convert", "pikepdf", "requests", "PIL", "librosa", "sklearn", "scipy"),
    "pydantic",
}


def modules() -> dict[str, Path]:
    """Every module of the library by its full name."""
    found = {}
    for path in sorted((ROOT / "ecqx").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Modules of the library that one imports, inside functions too, but not for types alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module


GRAPH = {name: set(imported(path)) for name, path in MODULES.items()}


def package(name: str) -> str:
    """The package that a module belongs to; empty for those in ecqx/ itself."""
    if name == "ecqx.__main__":
        return "cli"
    parts = name.split(".")
    is_in_package = len(parts) > 2 or MODULES[name].name == "__init__.py"
    return parts[1] if len(parts) > 1 and is_in_package else ""


def test_imports_run_downwards() -> None:
    order = list(MAY_IMPORT)
    for name, allowed in MAY_IMPORT.items():
        assert allowed <= set(order[: order.index(name)]), name
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if package(other) not in {"", package(name), *MAY_IMPORT.get(package(name), ())}
    ]
    assert not wrong
    assert {package(name) for name in GRAPH} == {"", *MAY_IMPORT}


def test_the_table_allows_no_more_than_there_is() -> None:
    for name, allowed in MAY_IMPORT.items():
        used = {package(other) for own in GRAPH if package(own) == name for other in GRAPH[own]}
        assert used - {"", name} == allowed, name


def test_no_circle_between_modules() -> None:
    TopologicalSorter(GRAPH).prepare()


def test_names_are_imported_from_their_modules() -> None:
    """A package's lazy names are for users: an import should say where something is."""
    lazy = {name for name, path in MODULES.items() if "lazy_names" in path.read_text("utf-8")}
    lazy -= {"ecqx", "ecqx.lazy"}
    assert lazy
    assert not [f"{name} imports from {own}" for name in GRAPH for own in GRAPH[name] & lazy]


# Without torch, and in a process that has it.
LIGHT = (
    "import ecqx",
    "import ecqx.training.settings, ecqx.experiment.settings",
    "import ecqx; ecqx.LRP",
    "import ecqx; ecqx.inspect",
)
# What of it each may load all the same.
WITHOUT_TORCH = {
    "import ecqx; ecqx.LRP": {"numpy"},
    "import ecqx; ecqx.inspect": {"numpy", "nncodec", "deepCABAC"},
}
# What each may load all the same.
WITH_TORCH = {
    "import ecqx.quantizers.settings": set(),
    "import ecqx.training.trainer": set(),
    "import stages.settings.quantize": {"pydantic", "sklearn", "scipy", "numba", "tabulate"},
    "import ecqx; ecqx.ECQx": {"numba", "scipy"},
    "import ecqx; ecqx.EC2T": {"numba", "scipy"},
}
RUN = """
import os, sys{torch}
for program in sys.argv[1:]:
    if not os.fork():
        exec(program)
        print(program, *sys.modules, sep="|", flush=True)
        os._exit(0)
    os.wait()
"""


def loaded(torch: str, *programs: str) -> dict[str, set[str]]:
    """The modules that each program loads, in a process of its own."""
    command = [sys.executable, "-c", RUN.format(torch=torch), *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [*programs]
    return {program: set(modules) for program, *modules in lines}


def test_importing_is_cheap() -> None:
    for program, modules in loaded("", *LIGHT).items():
        heavy = {"torch", "numpy"} | HEAVY
        assert not modules & (heavy - WITHOUT_TORCH.get(program, set())), program
    for program, modules in loaded(", torch", *WITH_TORCH).items():
        assert not modules & (HEAVY - WITH_TORCH[program]), program
