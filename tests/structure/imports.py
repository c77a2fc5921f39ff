"""The import graph of the package, hidden and type-only imports included."""

import ast
import functools
from collections.abc import Collection, Mapping
from pathlib import Path

from docs.import_pictures import imported_by, modules_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "partitiond"


@functools.cache
def modules() -> dict[str, Path]:
    """The file of each module."""
    return modules_of(ROOT, [PACKAGE])


@functools.cache
def parsed(text: str) -> ast.Module:
    """The syntax tree of a source, made once for all tests that look at it."""
    return ast.parse(text)


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return parsed(modules()[module].read_text(encoding="utf-8"))


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    """The modules that each module imports, anywhere in it."""
    known = modules()
    return {name: frozenset(imported_by(tree_of(name), known)) - {name} for name in known}


def circles(edges: Mapping[str, frozenset[str]]) -> list[frozenset[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for after in edges.get(node, ()):
            if after not in index:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], index[after])
        if low[node] == index[node]:
            at = stack.index(node)
            component = frozenset(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for node in edges:
        if node not in index:
            visit(node)
    return found


def rooms() -> frozenset[str]:
    """The packages below the package: folders with modules of their own."""
    return frozenset(name for name, path in modules().items() if path.stem == "__init__")


def both_ways(edges: Mapping[str, frozenset[str]], rooms: Collection[str]) -> set[tuple[str, str]]:
    """The pairs of rooms of one package that import each other, by their whole names."""
    crossed = {
        parted
        for module, imported in edges.items()
        for other in imported
        if (parted := _where_they_part(module, other)) is not None
    }
    return {(a, b) for a, b in crossed if a < b and (b, a) in crossed and {a, b} <= {*rooms}}


def _where_they_part(module: str, other: str) -> tuple[str, str] | None:
    """The two siblings that hold these modules; None if one module holds the other."""
    mine, its = module.split("."), other.split(".")
    for depth, (a, b) in enumerate(zip(mine, its, strict=False), start=1):
        if a != b:
            return ".".join(mine[:depth]), ".".join(its[:depth])
    return None
