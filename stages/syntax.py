"""What a module does and imports, from its syntax tree.

Comments, formatting, docstrings, annotations of functions and the strings of raised errors do not
count. Python 3.11 and 3.12 give the same digest.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ecqx.errors import InputError

OURS = ("ecqx", "stages")
# Tables from names to modules of the project. Whoever reads one counts the entries it uses.
_TABLES = frozenset({"_HOMES", "METHODS", "NEVER_RUN", "FORMS"})
_PLACE = re.compile(r"(ecqx|stages)(\.\w+)+(:\w+)?")
# Fields of nodes that differ between Python's versions.
_IGNORED_FIELDS = ("kind", "type_params")


@dataclass(frozen=True)
class Source:
    """What a module does, as a digest, what it imports, and its tables of modules by name.

    An import is (module, name) of ``from module import name``; ``import module`` has an empty name.
    """

    digest: str
    imports: frozenset[tuple[str, str]]
    tables: dict[str, dict[str, str]]


@cache
def read(text: bytes, module: str) -> Source:
    """Read a module; ``InputError`` for an import that cannot be followed, or invalid syntax."""
    try:
        body = ast.parse(text).body
    except SyntaxError as error:
        raise InputError(f"{module}: line {error.lineno}: {error.msg}") from error
    tables: dict[str, dict[str, str]] = {}
    counted: list[ast.stmt] = []
    for node in body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Dict() as value) | ast.AnnAssign(
                ast.Name(name), value=ast.Dict() as value
            ) if name in _TABLES and all(map(_is_place, value.values)):
                tables[name] = ast.literal_eval(value)
            case ast.Assign([ast.Name("__all__")]):
                pass  # a new public name leaves everything else as it is
            case _:
                counted.append(node)
    reader = _Reader(module)
    digest = hashlib.sha256(repr(reader.visit_all(counted)).encode()).hexdigest()
    return Source(digest, frozenset(reader.imports), tables)


def _is_place(node: ast.expr) -> bool:
    """Whether an expression is ``"ecqx.module"`` or ``"ecqx.module:Class"``."""
    return isinstance(node, ast.Constant) and bool(_PLACE.fullmatch(str(node.value)))


class _Reader(ast.NodeVisitor):
    """Visiting a node gives nested tuples of what counts in it, None if nothing does."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.imports: list[tuple[str, str]] = []
        self.is_raising = False

    def generic_visit(self, node: ast.AST) -> Any:
        fields = {
            name: self.visit_all(value if isinstance(value, list) else [value])
            for name, value in ast.iter_fields(node)
            if name not in _IGNORED_FIELDS and value is not None
        }
        return type(node).__name__, *((name, found) for name, found in fields.items() if found)

    def visit_all(self, values: Iterable[Any]) -> tuple[Any, ...]:
        found = []
        for value in values:
            meaning = self.visit(value) if isinstance(value, ast.AST) else value
            # A None of the tree has a meaning: an argument without default, a key of ``**``.
            if meaning is not None or value is None:
                found.append(meaning)
        return tuple(found)

    def visit_Import(self, node: ast.Import) -> Any:
        for alias in node.names:
            if alias.name.partition(".")[0] in OURS and alias.asname is None:
                package, _, name = alias.name.rpartition(".")
                raise InputError(f"{self.module}: write `from {package or '…'} import {name}`")
            self.imports.append((alias.name, ""))
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.level or node.module is None:
            raise InputError(f"{self.module}: write relative imports in full")
        self.imports += [(node.module, alias.name) for alias in node.names]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        match node:
            case ast.Call(
                ast.Name("import_module") | ast.Attribute(attr="import_module"),
                [ast.Constant(str(name)), *_],
            ):
                self.imports.append((name, ""))
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        match node.test:
            case ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
                return self.visit_all(node.orelse) or None
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        """Nothing counts: an empty body is the same."""

    def visit_Expr(self, node: ast.Expr) -> Any:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if not node.decorator_list:  # a decorator may read annotations
            node.returns = None
            for part in ast.walk(node.args):
                if isinstance(part, ast.arg):
                    part.annotation = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        # Dataclasses and pydantic read the annotations of fields.
        fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
        node.body = [statement for statement in node.body if statement not in fields]
        return self.generic_visit(node), *map(self.generic_visit, fields)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return self.visit(node.target)
        return self.visit(ast.Assign([node.target], node.value))

    def visit_Raise(self, node: ast.Raise) -> Any:
        self.is_raising = True
        meaning = self.generic_visit(node)
        self.is_raising = False
        return meaning

    def visit_Constant(self, node: ast.Constant) -> Any:
        is_message = self.is_raising and isinstance(node.value, str)
        return "message" if is_message else self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        # Some releases of Python 3.12 end a nested format with an empty string.
        node.values = [v for v in node.values if getattr(v, "value", None) != ""]
        return "message" if self.is_raising else self.generic_visit(node)
