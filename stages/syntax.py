"""What the text of a module means: its syntax tree without the words that only people read.

Comments, formatting, docstrings, annotations and the strings of raised errors change no result, and
no digest. Python 3.11 and 3.12 give the same digest.
"""

from __future__ import annotations

import ast
import hashlib
import re

# Fields that differ between Python's versions or only serve type checkers.
_OMITTED = frozenset({"kind", "type_comment", "type_ignores", "type_params"})
# Decorators that read the annotations of the function below them.
_READERS = frozenset({"register", "singledispatch", "singledispatchmethod", "validate_call"})
# Tables from names to modules of the project whose entries count where they are used: public names
# of packages, methods, forms of file.
_TABLES = ("_HOMES", "METHODS", "NEVER_RUN", "FORMS")
_PLACE = re.compile(r"(ecqx|stages)(\.\w+)+(:\w+)?")


def parse(source: bytes) -> ast.Module:
    """The syntax tree without what only type checkers run (``if TYPE_CHECKING:``)."""
    tree = _RuntimeOnly().visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return tree


def digest(tree: ast.Module) -> str:
    """Hash of what a tree of `parse` means; the tree is changed in place.

    Tables from names to modules do not count: who reads them counts the entries in use. So a new
    public name or a new method leaves what exists alone. In the body of a class annotations count,
    since dataclasses and pydantic read them.
    """
    tree.body = [node for node in tree.body if not _is_left_out(node)]
    return hashlib.sha256(_dump(_Meaning().visit(tree)).encode()).hexdigest()


def _is_left_out(node: ast.stmt) -> bool:
    is_table = any(_is_assigned(node, name) for name in _TABLES) and _has_places(node)
    return is_table or _is_assigned(node, "__all__")


def _has_places(node: ast.stmt) -> bool:
    """Whether a statement assigns a dict literal from names to modules of the project.

    Its values are like ``"ecqx.models.networks"`` or ``"ecqx.methods.lsq:LSQ"``.
    """
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return (
        isinstance(value, ast.Dict)
        and bool(value.values)
        and all(isinstance(key, ast.Constant) for key in value.keys)
        and all(
            isinstance(place, ast.Constant) and _PLACE.fullmatch(str(place.value))
            for place in value.values
        )
    )


def table_of(tree: ast.Module, name: str) -> dict[str, str] | None:
    """The table of places that a module assigns to ``name``; None if it has none."""
    for node in tree.body:
        if _is_assigned(node, name) and _has_places(node):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    return None


def _is_assigned(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


class _RuntimeOnly(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        name = getattr(node.test, "id", getattr(node.test, "attr", None))
        return node.orelse if name == "TYPE_CHECKING" else node


class _Meaning(ast.NodeTransformer):
    """Removes what has no effect on results."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        """A body without statements is as good."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._without_annotations(node)

    def _without_annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        arguments = node.args
        if any(_names(decorator) & _READERS for decorator in node.decorator_list):
            node.args = ast.arguments([], [], None, [], [], None, [])
            self.generic_visit(node)
            node.args = arguments
        else:
            node.returns = None
            self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
        self._fields = self._fields | set(map(id, fields))
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if id(node) in self._fields:
            return node
        if node.value is None:
            return ast.Expr(node.target)
        return ast.Assign([node.target], node.value)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        wordless: ast.AST = _Wordless().visit(self.generic_visit(node))
        return wordless

    _fields: frozenset[int] | set[int] = frozenset()


class _Wordless(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")


def _names(node: ast.AST) -> set[str]:
    return {getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(node)}


def _dump(node: object) -> str:
    """A tree as text: its non-empty fields, without positions.

    ``ascii`` rather than ``repr``, for which characters count as printable depends on Python.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = (
        f"{name}={_dump(value)}"
        for name in node._fields
        if name not in _OMITTED and (value := getattr(node, name, None)) is not None and value != []
    )
    return f"{type(node).__name__}({','.join(fields)})"
