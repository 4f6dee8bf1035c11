"""Draws the packages and their imports into docs/: ``python -m stages.house``."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout

from ecqx.files import write_text
from stages.closure import direct_imports
from stages.command import command, run_command_line

DOCS = Path("docs")
WIDTH, HEIGHT = 132, 34
MARGIN = 24
# The modules of ecqx/ itself, which everything may use, are one room without arrows.
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


@command
def main() -> int:
    """Write the picture and its page."""
    rooms = rooms_of(Path())
    write_text(DOCS / "house.svg", picture(arrows_of(rooms)))
    write_text(DOCS / "house.md", page(rooms))
    return 0


def rooms_of(root: Path) -> dict[str, list[str]]:
    """Modules by package: those of ecqx/, its sub-packages, and stages/."""
    rooms: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*(root / "ecqx").rglob("*.py"), *(root / "stages").rglob("*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[1] if parts[0] == "ecqx" and len(parts) > 2 else parts[0]
        if parts[-1] != "__init__":
            rooms[package].append(".".join(parts))
    return dict(rooms)


def arrows_of(rooms: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Which room imports which, apart from the ground."""
    home = {module: room for room, modules in rooms.items() for module in modules}
    return {
        room: {
            home[imported]
            for module in modules
            for imported in direct_imports(module)
            if imported in home
        }
        - {room, GROUND}
        for room, modules in rooms.items()
        if room != GROUND
    }


def picture(arrows: Mapping[str, set[str]]) -> str:
    """The rooms in layers, importers above what they import, as SVG."""
    places = _places(_without_detours(arrows))
    width = max(x for x, _ in places.values()) + WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT / 2 + MARGIN
    lines = [
        _line(places[room], places[used])
        for room, others in _without_detours(arrows).items()
        for used in sorted(others)
    ]
    boxes = [_box(name, *place) for name, place in places.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            'font-family="sans-serif" font-size="14">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _without_detours(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no way over another room stands for: the picture stays legible."""

    def reach(room: str) -> set[str]:
        return set().union(*({used} | reach(used) for used in arrows[room]))

    return {
        room: {
            used for used in others if not any(used in reach(other) for other in others - {used})
        }
        for room, others in arrows.items()
    }


def _places(arrows: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Centre of each room."""
    vertices = {name: Vertex(name) for name in arrows}
    for vertex in vertices.values():
        vertex.view = _View()
    edges = [
        Edge(vertices[room], vertices[used]) for room in arrows for used in sorted(arrows[room])
    ]
    places: dict[str, tuple[float, float]] = {}
    shift = 0.0
    for component in Graph(list(vertices.values()), edges).C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = 28, 44
        layout.init_all()
        layout.draw()
        left = min(vertex.view.xy[0] for vertex in component.sV)
        for vertex in component.sV:
            x, y = vertex.view.xy
            places[vertex.data] = (x - left + WIDTH / 2 + MARGIN + shift, y + MARGIN)
        shift = max(x for x, _ in places.values())
    top = min(y for _, y in places.values())
    return {name: (x, y - top + HEIGHT / 2 + MARGIN) for name, (x, y) in sorted(places.items())}


class _View:
    """Size of a box, and where the layout puts it."""

    w, h = WIDTH, HEIGHT
    xy = (0.0, 0.0)


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f'<path d="M{x1:.0f} {y1 + HEIGHT / 2:.0f} L{x2:.0f} {y2 - HEIGHT / 2:.0f}" '
        'stroke="#667" fill="none" marker-end="url(#tip)"/>'
    )


def _box(name: str, x: float, y: float) -> str:
    left, top = x - WIDTH / 2, y - HEIGHT / 2
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
        f'fill="#eef2fb" stroke="#445"/><text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" '
        f'fill="#112">{escape(name)}/</text>'
    )


def page(rooms: Mapping[str, list[str]]) -> str:
    """The picture with one sentence a room, the first of its package's docstring."""
    rows = []
    for room, modules in sorted(rooms.items()):
        folder = Path(room) if room in ("ecqx", "stages") else Path("ecqx") / room
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        first = " ".join(text.split("\n\n")[0].split())
        rows.append(f"| `{folder.as_posix()}/` | {first} | {len(modules)} |")
    return PAGE.format(rows="\n".join(rows))


if __name__ == "__main__":
    raise SystemExit(run_command_line(main))
