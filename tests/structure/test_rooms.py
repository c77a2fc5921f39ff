"""The rooms of one package form layers: no two of them import each other."""

from typing import Final

from tests.structure.imports import PACKAGE, both_ways, graph, rooms

KNOWN_PAIRS: Final[dict[str, str]] = {}
"""Pairs of rooms that import each other, with reasons. There are none, and none may come."""


def test_no_two_rooms_of_a_package_import_each_other() -> None:
    within = f"{PACKAGE}."
    found = {
        f"{a.removeprefix(within)}, {b.removeprefix(within)}"
        for a, b in both_ways(graph(), rooms())
    }
    assert not found - set(KNOWN_PAIRS), "these rooms import each other"
    assert not set(KNOWN_PAIRS) - found, "these pairs are no more: strike them off the list"


def test_rooms_are_paired_at_every_depth_and_modules_never() -> None:
    edges = {
        "p.a.one": frozenset({"p.b.two", "p.a.three"}),
        "p.a.three": frozenset({"p.a.one", "p.c"}),
        "p.b.two": frozenset({"p.a.deep.four"}),
        "p.a.deep.four": frozenset({"p.a.wide.five"}),
        "p.a.wide.five": frozenset({"p.a.deep.four", "p.a.wide"}),
        "p.c": frozenset({"p.a.one"}),
    }
    packages = {"p", "p.a", "p.b", "p.a.deep", "p.a.wide"}
    assert both_ways(edges, packages) == {("p.a", "p.b"), ("p.a.deep", "p.a.wide")}
