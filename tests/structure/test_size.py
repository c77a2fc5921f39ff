"""Product, tests and pages do not grow: what is added is paid for by what goes.

    python -m tests.structure.test_size

prints the numbers of `MOST_LINES` and `MOST_WORDS`.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.structure.imports import ROOT

MOST_LINES: Mapping[str, int] = {
    "partitiond": 124_800,
    "tests": 91_400,
}
"""Lines of Python below a folder, rounded up to hundreds. They only fall."""
MOST_WORDS = 59_800
"""Words of all pages below docs/, as `wc -w` counts, rounded up to hundreds. They only fall."""
MOST_WORDS_OF_A_DECISION = 250
ROUNDING = 100


def lines_below(folder: Path) -> int:
    """Lines of all Python files."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.py"))


def words(page: Path) -> int:
    """Words of a page, what stands in tables and code included."""
    return len(page.read_text("utf-8").split())


def words_below(folder: Path) -> int:
    """Words of all pages."""
    return sum(words(page) for page in folder.rglob("*.md"))


def rounded(count: int) -> int:
    """What is written down of so many."""
    return math.ceil(count / ROUNDING) * ROUNDING


def told(name: str, count: int, most: int, unit: str = "lines of Python") -> str:
    """What to do about so many lines or words of a folder; empty if nothing is to be done."""
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


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_folder_has_no_more_lines_than_before(name: str) -> None:
    assert not told(name, lines_below(ROOT / name), MOST_LINES[name])


def test_pages_have_no_more_words_than_before() -> None:
    assert not told("docs", words_below(ROOT / "docs"), MOST_WORDS, "words")


def test_a_decision_is_read_in_a_minute() -> None:
    pages = list((ROOT / "docs" / "decisions").glob("0*.md"))
    long = [page.name for page in pages if words(page) > MOST_WORDS_OF_A_DECISION]
    assert len(pages) > 20
    assert not long, f"more than {MOST_WORDS_OF_A_DECISION} words"


def test_more_lines_are_refused_and_fewer_are_written_down(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "b.py").write_text("c = 3\n")
    (tmp_path / "c.txt").write_text("no Python\n")
    (tmp_path / "room/d.md").write_text("# Three words | and\n\nthree more\n")
    assert lines_below(tmp_path) == 3
    assert words_below(tmp_path) == 7
    assert "1 more than" in told("x", 1201, 1200)
    assert "write 1100 in" in told("x", 1100, 1200)
    assert "101 words, 1 more" in told("x", 101, 100, "words")
    assert told("x", 1101, 1200) == told("x", 1200, 1200) == ""


if __name__ == "__main__":
    for name in MOST_LINES:
        print(f'    "{name}": {rounded(lines_below(ROOT / name)):_},')
    print(f"MOST_WORDS = {rounded(words_below(ROOT / 'docs')):_}")
