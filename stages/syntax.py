"""Digest of what a module does: of its syntax tree without what changes no result.

Comments, formatting, docstrings, annotations of functions and the strings of raised errors do not
count. Python 3.11 and 3.12 give the same digest.
"""

from __future__ import annotations

import ast
import hashlib
import re

# Tables from names to modules of the project. Whoever reads one counts the entries it uses.
_TABLES = frozenset({"_HOMES", "METHODS", "NEVER_RUN", "FORMS"})
_PLACE = re.compile(r"(ecqx|stages)(\.\w+)+(:\w+)?")


def parse(source: bytes) -> ast.Module:
    """The syntax tree without the blocks ``if TYPE_CHECKING:``."""
    tree = _RuntimeOnly().visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return tree


def digest(tree: ast.Module) -> str:
    """Hash of a tree of `parse`, which is changed in place.

    Tables from names to modules do not count, so that a new public name or a new method leaves
    everything else as it is.
    """
    tree.body = [node for node in tree.body if not (_is_table(node) or _assigns(node, "__all__"))]
    _Meaning().visit(tree)
    for node in ast.walk(tree):
        for field in ("kind", "type_params"):  # differ between Python's versions
            vars(node).pop(field, None)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def table_of(tree: ast.Module, name: str) -> dict[str, str] | None:
    """The table of places that a module assigns to ``name``; None if it has none."""
    for node in tree.body:
        if _is_table(node) and _assigns(node, name):
            table: dict[str, str] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return table
    return None


def _is_table(node: ast.stmt) -> bool:
    """Whether a statement assigns a dict of places: ``ecqx.module`` or ``ecqx.module:Class``."""
    value = getattr(node, "value", None)
    return (
        any(_assigns(node, name) for name in _TABLES)
        and isinstance(value, ast.Dict)
        and bool(value.values)
        and all(isinstance(key, ast.Constant) for key in value.keys)
        and all(_PLACE.fullmatch(str(getattr(place, "value", ""))) for place in value.values)
    )


def _assigns(node: ast.stmt, name: str) -> bool:
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
        """Remove it: an empty body is the same."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if not node.decorator_list:  # a decorator may read annotations
            node.returns = None
            for part in ast.walk(node.args):
                if isinstance(part, ast.arg):
                    part.annotation = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # Dataclasses and pydantic read the annotations of fields: they stay.
        fields = [statement for statement in node.body if isinstance(statement, ast.AnnAssign)]
        node.body = [statement for statement in node.body if statement not in fields]
        self.generic_visit(node)
        node.body += fields
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.Expr(node.target)
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        wordless: ast.AST = _Wordless().visit(self.generic_visit(node))
        return wordless


class _Wordless(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")
