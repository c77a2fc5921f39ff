"""The tree explains the product: small rooms, described, without import circles."""

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from docs.import_pictures import between, upward
from tests.structure.imports import PACKAGE, ROOT, circles, graph, modules, tree_of

MOST_FILES = 20
ROOT_MODULES = {"__init__", "__main__", "daemon", "gpu_host", "native", "run_folder", "serde"}
"""The root keeps what wires everything, and what everything uses."""
PRONOUNS = {
    "How", "One", "What", "Whatever", "When", "Where", "Whether", "Which", "Who", "Whose", "Why",
}  # fmt: skip
PLUGINS = ROOT / PACKAGE / "engines" / "vllm" / "plugins"
"""A folder on the path of engines, and no package."""
MIRRORED = 0.75
"""Least share of tests of one package that lie where the module that they test lies."""
TWO_MEANINGS: Mapping[str, str] = {}
"""Public class names that stand twice, with reasons. At most ten."""
KNOWN_CIRCLES: Mapping[str, str] = {}
"""Import circles by their first module, with reasons. The list may only become shorter."""


def _files(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def test_a_folder_has_at_most_twenty_files() -> None:
    count = Counter(path.parent for path in _files(PACKAGE, "loadgen", "bench"))
    assert not {folder: n for folder, n in count.items() if n > MOST_FILES}


def test_a_folder_of_modules_says_what_lives_there() -> None:
    folders = {path.parent for path in _files(PACKAGE, "loadgen", "bench")} - {PLUGINS}
    silent = [
        folder
        for folder in folders
        if not (folder / "__init__.py").exists()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert not silent


def test_the_root_holds_what_wires_everything() -> None:
    assert {path.stem for path in (ROOT / PACKAGE).glob("*.py")} <= ROOT_MODULES


def test_a_module_says_what_it_does() -> None:
    wrong = {}
    for module in modules():
        said = ast.get_docstring(tree_of(module)) or ""
        first = said.split()[0].strip("`:,.") if said else ""
        if first in {"", *PRONOUNS} or said.strip(".") in module:
            wrong[module] = said.partition("\n")[0]
    assert not wrong, "a docstring opens with a verb"


def test_no_two_modules_import_each_other() -> None:
    found = circles(graph())
    unknown = [sorted(circle) for circle in found if _named(circle) not in KNOWN_CIRCLES]
    assert not unknown, "these import each other"
    gone = set(KNOWN_CIRCLES) - {_named(circle) for circle in found}
    assert not gone, "these circles are no more: strike them off the list"


def test_the_rooms_of_the_controller_are_layers() -> None:
    imports = [(module, imported) for module, found in graph().items() for imported in found]
    assert not upward(between(imports, f"{PACKAGE}.controller")), "the red arrows of its picture"


def _named(circle: frozenset[str]) -> str:
    return min(circle)


def test_a_circle_is_found_and_a_chain_is_none() -> None:
    edges: Mapping[str, frozenset[str]] = {
        "a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")
    }  # fmt: skip
    assert circles(edges) == [frozenset("bc")]


def test_a_public_class_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for module in modules():
        for node in tree_of(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    assert twice.keys() == TWO_MEANINGS.keys(), twice
    assert len(TWO_MEANINGS) <= 10


def test_tests_lie_where_what_they_test_lies() -> None:
    beside = (path.relative_to(ROOT).with_suffix("") for path in _files("loadgen", "bench"))
    packages = {*modules(), *(".".join(path.parts) for path in beside)}
    places = {tuple(name.removeprefix(f"{PACKAGE}.").split(".")) for name in packages}
    rooms = {place[0] for place in places}
    found = []
    for file in (ROOT / "tests").rglob("test_*.py"):
        *folder, name = file.relative_to(ROOT / "tests").with_suffix("").parts
        if not folder or folder[0] in rooms:
            found.append((*folder, name.removeprefix("test_")) in places)
    assert sum(found) / len(found) >= MIRRORED, f"{sum(found)} of {len(found)}"
