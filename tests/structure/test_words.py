"""Names use words that a reader knows: ordinary ones, or those of the glossary.

`python -m tests.structure.test_words` prints the words that are neither. An ordinary English or
programming word goes into `ordinary_words.txt`; a word of the field, or one of ours, goes into
docs/glossary.md.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

from tests.structure.imports import ROOT, parsed

ORDINARY = pathlib.Path(__file__).with_name("ordinary_words.txt")
PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")

COINED = frozenset({"world", "worlds"})
"""Coined words that are still in names. The list only becomes shorter."""


def words_of(name: str) -> set[str]:
    return {part.lower() for part in PART.findall(name)}


def names_in(module: str, source: str) -> Iterator[str]:
    """Yield the names of a module and of its public classes and functions."""
    yield module
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            not node.name.startswith("_")
        ):
            yield node.name


def all_names() -> Iterator[tuple[str, str]]:
    """Yield (path, name) for all of partitiond."""
    for path in sorted((ROOT / "partitiond").rglob("*.py")):
        module = path.parent.name if path.stem == "__init__" else path.stem
        for name in names_in(module, path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT).as_posix(), name


def known_words() -> set[str]:
    known = {*ORDINARY.read_text(encoding="utf-8").split(), *COINED}
    for row in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
        if row.startswith("- **"):
            known |= words_of(row.partition(":")[0])
    return known


def strange_words(names: Iterator[tuple[str, str]], known: set[str]) -> list[str]:
    return [f"{w} ({n}, {path})" for path, n in names for w in sorted(words_of(n) - known)]


def test_names_use_ordinary_words_or_those_of_the_glossary() -> None:
    assert not strange_words(all_names(), known_words()), __doc__


def test_a_coined_word_is_refused() -> None:
    names = (("x.py", name) for name in names_in("routing", "class DrowsyReplica: ..."))
    assert strange_words(names, known_words()) == ["drowsy (DrowsyReplica, x.py)"]


def test_ordinary_words_are_sorted_and_none_of_them_is_coined() -> None:
    words = ORDINARY.read_text(encoding="utf-8").split()
    assert words == sorted(set(words))
    assert not COINED & set(words)


if __name__ == "__main__":
    print("\n".join(strange_words(all_names(), known_words())))
