"""Draws the house, the packages (rooms) and their imports, into docs/."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import networkx as nx

from ecqx.files import write_text
from stages.closure import Code
from stages.command import command, run_command_line

DOCS = Path("docs")
# Of a box, and from one box to the next, in the units of the picture.
WIDTH, HEIGHT = 132, 34
ACROSS, DOWN = 160, 78
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
LINE = '<path d="M{:.0f} {:.0f} L{:.0f} {:.0f}" stroke="#667" fill="none"{}/>'
TIP = ' marker-end="url(#tip)"'
BOX = (
    '<rect x="{left:.0f}" y="{top:.0f}" width="{width}" height="{height}" rx="5" fill="#eef2fb" '
    'stroke="#445"/><text x="{x:.0f}" y="{base:.0f}" text-anchor="middle" fill="#112">'
    "{name}/</text>"
)


@command
def main() -> None:
    """Write the picture and its page."""
    code = Code()
    rooms = {module: _room(module, path) for module, path in code.paths.items()}
    imports = nx.DiGraph(
        (room, rooms[imported])
        for module, room in rooms.items()
        for imported in code.imports(module)
        if imported in rooms and rooms[imported] != room
    )
    imports.remove_node(GROUND)
    write_text(DOCS / "house.svg", picture(nx.transitive_reduction(imports)))
    modules = [r for module, r in rooms.items() if code.paths[module].name != "__init__.py"]
    write_text(DOCS / "house.md", page({room: modules.count(room) for room in {*modules}}))


def _room(module: str, path: Path) -> str:
    """The package of ecqx/ that a module lies in, else ``ecqx`` or ``stages``."""
    top, *parts = module.split(".")
    is_package = path.name == "__init__.py"
    return parts[0] if top == "ecqx" and len(parts) > (0 if is_package else 1) else top


def picture(imports: nx.DiGraph) -> str:
    """The rooms in layers, importers above what they import, as SVG."""
    places = _places(imports)
    left = min(x for x, _ in places.values()) - WIDTH / 2 - MARGIN
    places = {node: (x - left, y + HEIGHT / 2 + MARGIN) for node, (x, y) in places.items()}
    shapes = [
        LINE.format(
            *(places[above][0], places[above][1] + _half(above)),
            *(places[below][0], places[below][1] - _half(below)),
            TIP if isinstance(below, str) else "",
        )
        for above, below in sorted(imports.edges, key=str)
    ]
    shapes += [
        BOX.format(
            **{"left": x - WIDTH / 2, "top": y - HEIGHT / 2, "width": WIDTH, "height": HEIGHT},
            **{"x": x, "base": y + 5, "name": room},
        )
        for room, (x, y) in sorted(places.items(), key=str)
        if isinstance(room, str)
    ]
    width = max(x for x, _ in places.values()) + WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT / 2 + MARGIN
    return SVG.format(width=width, height=height, shapes="\n".join(shapes))


def _half(node: object) -> float:
    """Half the height of a room; bends of arrows have none."""
    return HEIGHT / 2 if isinstance(node, str) else 0


def _places(imports: nx.DiGraph) -> dict[object, tuple[float, float]]:
    """Centre of each room; arrows get bends, nodes of their own, in the layers that they cross."""
    layers = enumerate(nx.topological_generations(imports))
    depths = {room: depth for depth, layer in layers for room in layer}
    for above, below in list(imports.edges):
        bends = [(above, below, depth) for depth in range(depths[above] + 1, depths[below])]
        imports.remove_edge(above, below)
        nx.add_path(imports, [above, *bends, below])
    places: dict[object, tuple[float, float]] = {}
    for depth, layer in enumerate(nx.topological_generations(imports)):
        # Each stands below the middle of its importers, as far as there is room.
        middle = {
            node: fmean([places[above][0] for above in imports.predecessors(node)] or [0])
            for node in layer
        }
        first = fmean(middle.values()) - ACROSS * (len(layer) - 1) / 2
        for i, node in enumerate(sorted(layer, key=lambda node: (middle[node], str(node)))):
            places[node] = first + i * ACROSS, depth * DOWN
    return places


def page(modules: Mapping[str, int]) -> str:
    """The page of the picture: each package's first paragraph and its number of modules."""
    rows = []
    for room, count in sorted(modules.items()):
        folder = Path(room) if room in ("ecqx", "stages") else Path("ecqx") / room
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        first = " ".join(text.split("\n\n")[0].split())
        rows.append(f"| `{folder.as_posix()}/` | {first} | {count} |")
    return PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
