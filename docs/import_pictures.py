"""Draw who imports whom as SVG: the packages of the whole, and what lies in each large room.

Boxes stand in layers, and each box lies above all that it imports. All arrows to one box have
its colour and run together on the way; a line is thicker the more modules it stands for. Only
an arrow that closes a circle goes upwards, and is red. The same tree gives the same bytes.
"""

import ast
import html
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent / "pictures"
ROOTS: Final = ("partitiond", "loadgen")
ROOMS: Final = ("core", "planner", "proxy", "controller", "cli", "devices")
"""The rooms with a picture of their own."""

Edges = Mapping[tuple[str, str], int]
Node = tuple[str, int]
"""A box or a bend on the way to it, and the layer where it is; layer 0 is the lowest."""
Rows = list[list[Node]]
"""The nodes of each layer from left to right, the highest layer first."""
Point = tuple[float, float]
BOX: Final = 28.0
"""Height of a box, in units of the picture."""
BETWEEN: Final = 62.0
"""Height between two rows."""
MARGIN: Final = 16.0
COLOURS: Final = (
    "#8794a3", "#3d85c6", "#d18b1f", "#3f9b60", "#8d63c8",
    "#1f9ca3", "#a2743f", "#8f9d23", "#5f6ee0", "#c060b0",
)  # fmt: skip
"""Readable on light and dark ground, none of them red; the most imported box has the first."""
STYLE: Final = """
.ground { fill: #ffffff } .box { fill: #f4f6f8 } text { fill: #1f2933 }
text { font: 13px "DejaVu Sans Mono", Menlo, Consolas, monospace; text-anchor: middle }
.box { stroke-width: 1.6 } .line { fill: none }
.up { stroke: #e5302f; fill: none } .tip { fill: #e5302f }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117 } .box { fill: #1b2330 } text { fill: #e6edf3 }
  .up { stroke: #ff5a52 } .tip { fill: #ff5a52 }
}"""


def pictures(tree: Path) -> dict[str, str]:
    """The pictures of a tree by file name."""
    imports = imports_of(tree)
    drawn = {"whole.svg": draw("Imports between the packages", between(imports, "partitiond"))}
    for room in ROOMS:
        edges = between(imports, f"partitiond.{room}")
        drawn[f"{room}.svg"] = draw(f"Imports inside partitiond/{room}", edges)
    return drawn


# --- reading the tree ------------------------------------------------------------------------


def imports_of(tree: Path) -> list[tuple[str, str]]:
    """Each module with each module that it imports, in functions and for types alone included."""
    files = modules_of(tree, ROOTS)
    pairs = {
        (module, imported)
        for module, path in files.items()
        for imported in imported_by(ast.parse(path.read_text(encoding="utf-8")), files)
    }
    return sorted(pairs)


def modules_of(tree: Path, roots: Iterable[str]) -> dict[str, Path]:
    """The file of each module below these folders of a tree."""
    files = {}
    for path in sorted(path for root in roots for path in (tree / root).rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported_by(module: ast.Module, known: Collection[str]) -> Iterator[str]:
    """The known modules that a module imports, anywhere in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def between(imports: Iterable[tuple[str, str]], room: str) -> Edges:
    """How many imports go from one part of a room to another; `loadgen` counts as a part."""

    def part(module: str) -> str:
        if room == ROOTS[0] and module.startswith(ROOTS[1]):
            return ROOTS[1]
        return module.removeprefix(f"{room}.").split(".")[0] if module.startswith(room) else ""

    named = ((part(importer), part(imported)) for importer, imported in imports)
    own = room.split(".", maxsplit=1)[0]
    return Counter((a, b) for a, b in named if a != b and own not in {a, b} and a and b)


# --- layers ----------------------------------------------------------------------------------


def upward(edges: Edges) -> frozenset[tuple[str, str]]:
    """The arrows that close a circle: of each circle, one that stands for few imports."""
    below: dict[str, set[str]] = defaultdict(set)

    def reaches(start: str, goal: str) -> bool:
        seen, left = {start}, [start]
        while left and goal not in seen:
            new = below[left.pop()] - seen
            seen |= new
            left += new
        return goal in seen

    closing = set()
    for (a, b), _ in sorted(edges.items(), key=lambda item: (-item[1], item[0])):
        if reaches(b, a):
            closing.add((a, b))
        else:
            below[a].add(b)
    return frozenset(closing)


def layers_of(edges: Edges, closing: frozenset[tuple[str, str]]) -> dict[str, int]:
    """How far each box is from the bottom: the longest way down, by arrows that close no circle."""
    below: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        below[a] += [b] if (a, b) not in closing else []
    layers: dict[str, int] = {}

    def layer(box: str) -> int:
        if box not in layers:
            layers[box] = max((layer(other) + 1 for other in below[box]), default=0)
        return layers[box]

    for box in sorted({box for edge in edges for box in edge}):
        layer(box)
    return layers


# --- places ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A piece of an arrow between neighbouring layers."""

    upper: Node
    lower: Node
    count: int
    """How many imports it stands for."""
    to: str
    """The box that its arrow leads to."""
    red: bool


def lines_of(
    edges: Edges, layers: Mapping[str, int], closing: frozenset[tuple[str, str]]
) -> list[Line]:
    """The arrows cut at the layers; arrows to one box share the bends on their way."""
    pieces: Counter[tuple[Node, Node, str, bool]] = Counter()
    for (a, b), count in sorted(edges.items()):
        red = (a, b) in closing
        top, bottom, bend = (b, a, f"{a} to {b}") if red else (a, b, f"to {b}")
        bends = [(bend, layer) for layer in range(layers[top] - 1, layers[bottom], -1)]
        way: list[Node] = [(top, layers[top]), *bends, (bottom, layers[bottom])]
        for upper, lower in pairwise(way):
            pieces[upper, lower, b, red] += count
    return [Line(upper, lower, n, to, red) for (upper, lower, to, red), n in pieces.items()]


def ordered(lines: Sequence[Line], boxes: Mapping[str, int]) -> Rows:
    """Rows from top to bottom, each by the mean place of its neighbours; of 40 rounds the best."""
    nodes = {*boxes.items(), *(node for line in lines for node in (line.upper, line.lower))}
    rows: Rows = [[] for _ in range(max(boxes.values()) + 1)]
    for node in sorted(nodes):
        rows[len(rows) - 1 - node[1]].append(node)
    near = neighbours(lines)
    best, fewest = rows, crossings(rows, lines)
    for turn in range(40):
        down = turn % 2 == 0
        rows = [list(row) for row in rows]
        for i in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            other = rows[i - 1] if down else rows[i + 1]
            at = {node: k for k, node in enumerate(other)}
            old = {node: k for k, node in enumerate(rows[i])}

            def place(node: Node, at: dict[Node, int] = at, old: dict[Node, int] = old) -> float:
                found = [at[other] for other in near[node] if other in at]
                return sum(found) / len(found) if found else old[node] * len(at) / len(old)

            rows[i].sort(key=lambda node: (place(node), old[node] * (1 if turn % 4 < 2 else -1)))
        if (count := crossings(rows, lines)) < fewest:
            best, fewest = rows, count
    return best


def neighbours(lines: Iterable[Line]) -> dict[Node, list[Node]]:
    """The nodes above and below each node that a line joins to it."""
    near: dict[Node, list[Node]] = defaultdict(list)
    for line in lines:
        near[line.upper].append(line.lower)
        near[line.lower].append(line.upper)
    return near


def crossings(rows: Rows, lines: Iterable[Line]) -> int:
    """How many pairs of lines cross."""
    at = {node: k for row in rows for k, node in enumerate(row)}
    gaps: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for line in lines:
        gaps[line.lower[1]].append((at[line.upper], at[line.lower]))
    return sum(
        (a - c) * (b - d) < 0
        for pairs in gaps.values()
        for k, (a, b) in enumerate(pairs)
        for c, d in pairs[:k]
    )


def widths_of(lines: Iterable[Line], boxes: Mapping[str, int]) -> dict[Node, float]:
    """What each node takes in its row: a box has room for its name and for the lines it sends."""
    leaving = Counter(line.upper for line in lines)
    nodes = {*boxes.items(), *(node for line in lines for node in (line.upper, line.lower))}
    return {
        node: max(7.6 * len(node[0]) + 20, 6.0 * leaving[node] + 12) if node[0] in boxes else 4.0
        for node in nodes
    }


def placed(
    rows: Rows, lines: Sequence[Line], boxes: Mapping[str, int], widths: Mapping[Node, float]
) -> dict[Node, float]:
    """Middle of each node: as near to its neighbours as the order of its row lets it be."""
    near = neighbours(lines)
    x: dict[Node, float] = {}
    steps: dict[Node, float] = {}
    for row in rows:
        at = 0.0
        for left, node in zip([None, *row], row, strict=False):
            if left is not None:
                at += (widths[left] + widths[node]) / 2 + 12
            steps[node] = x[node] = at
        middle = at / 2
        for node in row:
            x[node] -= middle
    for turn in range(60):
        for row in rows if turn % 2 == 0 else reversed(rows):
            wanted = []
            for node in row:
                weights = {n: 6.0 if {n[0], node[0]}.isdisjoint(boxes) else 1.0 for n in near[node]}
                total = sum(weights.values())
                mean = math.fsum(x[n] * w for n, w in weights.items()) / total if total else x[node]
                wanted.append((mean - steps[node], max(total, 1.0)))
            for node, value in zip(row, rising(wanted), strict=True):
                x[node] = value + steps[node]
    edge = min(x[node] - widths[node] / 2 for node in x)
    return {node: at - edge + MARGIN for node, at in x.items()}


def rising(wanted: Iterable[tuple[float, float]]) -> list[float]:
    """The rising numbers that are nearest to those wanted, by weight (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in wanted:
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, p, m), (b, q, n) = pools[-2:]
            pools[-2:] = [((a * p + b * q) / (p + q), p + q, m + n)]
    return [value for value, _, count in pools for _ in range(count)]


# --- ink -------------------------------------------------------------------------------------


def thickness(count: int) -> float:
    """Width of a line: a step for each tripling, so that one import more redraws little."""
    steps = ((2, 1.2), (9, 2.0), (29, 3.0), (99, 4.2))
    return next((width for most, width in steps if count <= most), 5.6)


def draw(title: str, edges: Edges) -> str:
    """The picture of a graph."""
    closing = upward(edges)
    boxes = layers_of(edges, closing)
    lines = lines_of(edges, boxes, closing)
    rows = ordered(lines, boxes)
    widths = widths_of(lines, boxes)
    x = placed(rows, lines, boxes, widths)
    top = {row[0][1]: MARGIN + k * (BOX + BETWEEN) for k, row in enumerate(rows)}
    colours = colours_of(edges)
    ranks = {box: rank for rank, box in enumerate(colours)}
    leaving = ports(lines, widths, x)
    ink = []
    for line in sorted(lines, key=lambda line: (line.red, ranks[line.to])):
        upper, lower = (leaving[line], top[line.upper[1]]), (x[line.lower], top[line.lower[1]])
        ink.append(_stroke(line, upper, lower, boxes, colours))
        ink += _tip(line, upper, lower, boxes, colours)
    for box, layer in sorted(boxes.items()):
        middle, width = x[box, layer], widths[box, layer]
        ink.append(
            f'<rect class="box" x="{middle - width / 2:.1f}" y="{top[layer]:.1f}" '
            f'width="{width:.1f}" height="{BOX:.0f}" rx="4" '
            f'stroke="{colours.get(box, COLOURS[0])}"/>'
            f'<text x="{middle:.1f}" y="{top[layer] + 18.5:.1f}">{html.escape(box)}</text>'
        )
    right = max(x[node] + widths[node] / 2 for node in x) + MARGIN
    size = (f"{right:.0f}", f"{max(top.values()) + BOX + MARGIN:.0f}")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" role="img">'
    )
    ground = f'<rect class="ground" width="{size[0]}" height="{size[1]}"/>'
    title = f"<title>{html.escape(title)}</title>"
    return "\n".join([head, title, f"<style>{STYLE}\n</style>", ground, *ink, "</svg>"]) + "\n"


def colours_of(edges: Edges) -> dict[str, str]:
    """The colour of each box that is imported, the most imported first."""
    weight: Counter[str] = Counter()
    for (_, imported), count in edges.items():
        weight[imported] += count
    ranked = sorted(weight, key=lambda box: (-weight[box], box))
    first, *others = COLOURS
    return {box: others[(k - 1) % len(others)] if k else first for k, box in enumerate(ranked)}


def ports(
    lines: Sequence[Line], widths: Mapping[Node, float], x: Mapping[Node, float]
) -> dict[Line, float]:
    """Where each line begins at the lower side of what it leaves: side by side, in order."""
    leaving: dict[Node, list[Line]] = defaultdict(list)
    for line in lines:
        leaving[line.upper].append(line)
    found = {}
    for node, own in leaving.items():
        own.sort(key=lambda line: (x[line.lower], line.to))
        step = min(max(widths[node] - 12, 0.0) / max(len(own) - 1, 1), 12.0)
        for k, line in enumerate(own):
            found[line] = x[node] + (k - (len(own) - 1) / 2) * step
    return found


def _stroke(
    line: Line, upper: Point, lower: Point, boxes: Mapping[str, int], colours: Mapping[str, str]
) -> str:
    (x0, y0), (x1, y1) = upper, lower
    y0 += BOX
    if line.red and line.lower[0] in boxes:
        x1 += 14  # beside the tip of what comes from above
    after = f" V {y1 + BOX:.1f}" if line.lower[0] not in boxes else ""
    half = (y1 - y0) / 2
    bend = f"{x0:.1f} {y0 + half:.1f} {x1:.1f} {y1 - half:.1f}"
    path = f"M {x0:.1f} {y0:.1f} C {bend} {x1:.1f} {y1:.1f}"
    kind = 'class="up"' if line.red else f'class="line" stroke="{colours[line.to]}"'
    return f'<path {kind} stroke-width="{thickness(line.count)}" d="{path}{after}"/>'


def _tip(
    line: Line, upper: Point, lower: Point, boxes: Mapping[str, int], colours: Mapping[str, str]
) -> Iterator[str]:
    at, down = (upper, False) if line.red else (lower, True)
    if (line.upper if line.red else line.lower)[0] not in boxes:
        return
    x, y = at[0], at[1] if down else at[1] + BOX
    back = -9 if down else 9
    kind = 'class="tip"' if line.red else f'fill="{colours[line.to]}"'
    yield f'<path {kind} d="M {x - 6:.1f} {y + back:.1f} h 12 L {x:.1f} {y:.1f} z"/>'
