"""Draws the house, the packages (rooms) and their imports, into docs/."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import networkx as nx
from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout

from ecqx.files import write_text
from stages.closure import direct_imports
from stages.command import command, run_command_line

DOCS = Path("docs")
# Of a box, in the units of the picture.
WIDTH, HEIGHT = 132, 34
MARGIN = 24
# The modules of ecqx/ itself, which every package may use, are left out of the picture.
GROUND = "ecqx"

PAGE = """# The house

The packages of `ecqx/` and what they import, drawn by `make house` from the code. Imports run
downwards; every package may use the modules that lie in `ecqx/` itself. `stages/` are the commands
of the pipeline; the library does not know them. An arrow is left out where others lead there.

![Packages and their imports](house.svg)

| room | what it is for | modules |
|---|---|---|
{rows}

Where to look first: the method in `assignment/assign.py`, the training step in
`quantizers/base.py`, the file in `coding/bitstream.py`, a run of the pipeline in
`stages/quantize.py`.
"""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" \
font-family="sans-serif" font-size="14">
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>
{shapes}
</svg>
"""
ARROW = '<path d="M{:.0f} {:.0f} L{:.0f} {:.0f}" stroke="#667" fill="none" marker-end="url(#tip)"/>'
BOX = (
    '<rect x="{left:.0f}" y="{top:.0f}" width="{width}" height="{height}" rx="5" fill="#eef2fb" '
    'stroke="#445"/><text x="{x:.0f}" y="{base:.0f}" text-anchor="middle" fill="#112">'
    "{name}/</text>"
)


@command
def main() -> None:
    """Write the picture and its page."""
    rooms = rooms_of(Path())
    write_text(DOCS / "house.svg", picture(imports_of(rooms)))
    write_text(DOCS / "house.md", page(rooms))


def rooms_of(root: Path) -> dict[str, list[str]]:
    """Modules by package: those of ecqx/, its sub-packages, and stages/."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*(root / "ecqx").rglob("*.py"), *(root / "stages").rglob("*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[1] if parts[0] == "ecqx" and len(parts) > 2 else parts[0]
        if parts[-1] != "__init__":
            rooms[package].append(".".join(parts))
    return dict(rooms)


def imports_of(rooms: Mapping[str, Iterable[str]]) -> nx.DiGraph:
    """Which room imports which, without `GROUND` and without imports that a longer path implies."""
    home = {module: room for room, modules in rooms.items() for module in modules}
    graph = nx.DiGraph(
        (home[module], home[imported])
        for module in home
        for imported in sorted(direct_imports(module))
    )
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    graph.remove_node(GROUND)
    return nx.transitive_reduction(graph)


def picture(imports: nx.DiGraph) -> str:
    """The rooms in layers, importers above what they import, as SVG."""
    places = _places(imports)
    arrows = [
        ARROW.format(
            places[a][0], places[a][1] + HEIGHT / 2, places[b][0], places[b][1] - HEIGHT / 2
        )
        for a, b in sorted(imports.edges)
    ]
    boxes = [
        BOX.format(
            **{"left": x - WIDTH / 2, "top": y - HEIGHT / 2, "width": WIDTH, "height": HEIGHT},
            **{"x": x, "base": y + 5, "name": escape(name)},
        )
        for name, (x, y) in places.items()
    ]
    width = max(x for x, _ in places.values()) + WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT / 2 + MARGIN
    return SVG.format(width=width, height=height, shapes="\n".join([*arrows, *boxes]))


class _Size:
    """Size of a box; the layout sets its centre, ``xy``."""

    w, h = WIDTH, HEIGHT
    xy = (0.0, 0.0)


def _places(imports: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Centre of each room."""
    vertices = {name: Vertex(name) for name in sorted(imports.nodes)}
    for vertex in vertices.values():
        vertex.view = _Size()
    edges = [Edge(vertices[a], vertices[b]) for a, b in sorted(imports.edges)]
    # All rooms are connected, so that there is one component.
    (connected,) = Graph(list(vertices.values()), edges).C
    layout = SugiyamaLayout(connected)
    layout.xspace, layout.yspace = 28, 44
    layout.init_all()
    layout.draw()
    left, top = (min(vertex.view.xy[i] for vertex in vertices.values()) for i in (0, 1))
    return {
        name: (
            vertex.view.xy[0] - left + WIDTH / 2 + MARGIN,
            vertex.view.xy[1] - top + HEIGHT / 2 + MARGIN,
        )
        for name, vertex in vertices.items()
    }


def page(rooms: Mapping[str, list[str]]) -> str:
    """The page of the picture, with the first paragraph of each package's docstring."""
    rows = []
    for room, modules in sorted(rooms.items()):
        folder = Path(room) if room in ("ecqx", "stages") else Path("ecqx") / room
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        first = " ".join(text.split("\n\n")[0].split())
        rows.append(f"| `{folder.as_posix()}/` | {first} | {len(modules)} |")
    return PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
