"""The product and its pages do not grow: what is added is paid for by what goes.

    python -m tests.structure.test_size

prints the numbers of `MOST_STATEMENTS` and `MOST_WORDS`. What is gone, and does not come back, is
in `tests/structure/test_absence.py`.
"""

import ast
import math
from pathlib import Path

from tests.structure.imports import ROOT

MOST_STATEMENTS = 69_100
"""Statements of Python below partitiond/, rounded up to hundreds. They only fall.

Statements and not lines: a house that is judged by its lines packs them.
"""
MOST_WORDS = 58_400
"""Words of all pages below docs/, as `wc -w` counts, rounded up to hundreds. They only fall."""
MOST_WORDS_OF_A_DECISION = 250
ROUNDING = 100


def statements_below(folder: Path) -> int:
    """Count the statements of all Python files."""
    return sum(
        isinstance(node, ast.stmt)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
    )


def words(page: Path) -> int:
    """Count the words of a page, what stands in tables and code included."""
    return len(page.read_text("utf-8").split())


def words_below(folder: Path) -> int:
    """Count the words of all pages."""
    return sum(words(page) for page in folder.rglob("*.md"))


def rounded(count: int) -> int:
    """Return what is written down of so many."""
    return math.ceil(count / ROUNDING) * ROUNDING


def told(name: str, count: int, most: int, unit: str) -> str:
    """Say what to do about so many statements or words; empty if nothing is to be done."""
    if count > most:
        return (
            f"{name}/ has {count} {unit}, {count - most} more than tests/structure/"
            "test_size.py allows: take out as much, of what is repeated or no longer needed."
        )
    if rounded(count) < most:
        return (
            f"{name}/ has {count} {unit}: write {rounded(count)} in tests/structure/test_size.py."
        )
    return ""


def test_the_product_has_no_more_statements_than_before() -> None:
    count = statements_below(ROOT / "partitiond")
    assert not told("partitiond", count, MOST_STATEMENTS, "statements")


def test_pages_have_no_more_words_than_before() -> None:
    assert not told("docs", words_below(ROOT / "docs"), MOST_WORDS, "words")


def test_a_decision_is_read_in_a_minute() -> None:
    pages = list((ROOT / "docs" / "decisions").glob("0*.md"))
    long = [page.name for page in pages if words(page) > MOST_WORDS_OF_A_DECISION]
    assert len(pages) > 20
    assert not long, f"more than {MOST_WORDS_OF_A_DECISION} words"


def test_more_is_refused_and_less_is_written_down(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text('"""Says a."""\na = 1; b = 2\n')
    (tmp_path / "b.py").write_text("if (\n    c\n):\n    d = 3\n")
    (tmp_path / "c.txt").write_text("no Python\n")
    (tmp_path / "room/d.md").write_text("# Three words | and\n\nthree more\n")
    assert statements_below(tmp_path) == 5
    assert words_below(tmp_path) == 7
    assert "1 more than" in told("x", 1201, 1200, "statements")
    assert "write 1100 in" in told("x", 1100, 1200, "statements")
    assert "101 words, 1 more" in told("x", 101, 100, "words")
    assert told("x", 1101, 1200, "words") == told("x", 1200, 1200, "words") == ""


if __name__ == "__main__":
    print(f"MOST_STATEMENTS = {rounded(statements_below(ROOT / 'partitiond')):_}")
    print(f"MOST_WORDS = {rounded(words_below(ROOT / 'docs')):_}")
