"""Product and tests do not grow: what is added is paid for by what goes.

    python -m tests.structure.test_size

prints the numbers of `MOST_LINES`.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.structure.imports import ROOT

MOST_LINES: Mapping[str, int] = {
    "partitiond": 127_200,
    "tests": 94_500,
}
"""Lines of Python below a folder, rounded up to hundreds. They only fall."""
ROUNDING = 100


def lines_below(folder: Path) -> int:
    """Lines of all Python files."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.py"))


def rounded(lines: int) -> int:
    """What is written down of so many."""
    return math.ceil(lines / ROUNDING) * ROUNDING


def told(name: str, lines: int, most: int) -> str:
    """What to do about so many lines of a folder; empty if nothing is to be done."""
    if lines > most:
        return (
            f"{name}/ has {lines} lines of Python, {lines - most} more than tests/structure/"
            "test_size.py allows: take out as much, of what is repeated or no longer needed."
        )
    if rounded(lines) < most:
        return f"{name}/ has {lines} lines: write {rounded(lines)} in tests/structure/test_size.py."
    return ""


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_folder_has_no_more_lines_than_before(name: str) -> None:
    assert not told(name, lines_below(ROOT / name), MOST_LINES[name])


def test_more_lines_are_refused_and_fewer_are_written_down(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/a.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "b.py").write_text("c = 3\n")
    (tmp_path / "c.txt").write_text("no Python\n")
    assert lines_below(tmp_path) == 3
    assert "1 more than" in told("x", 1201, 1200)
    assert "write 1100 in" in told("x", 1100, 1200)
    assert told("x", 1101, 1200) == told("x", 1200, 1200) == ""


if __name__ == "__main__":
    for name in MOST_LINES:
        print(f'    "{name}": {rounded(lines_below(ROOT / name)):_},')
