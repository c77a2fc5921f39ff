"""The threat model names tests that exist, and each of our security tests is in it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)


def test_every_named_test_exists() -> None:
    assert len(NAMED) > 30
    for path, name in NAMED:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{path}::{name}"


def test_every_file_of_security_tests_holds_a_line() -> None:
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    named = {Path(path).name for path, _ in NAMED}
    assert files - named == {Path(__file__).name}


def test_each_row_of_a_table_of_lines_names_a_test() -> None:
    lines = PAGE[PAGE.index("## Lines of defence") : PAGE.index("## What is not defended")]
    for row in re.findall(r"^\| (.+) \| (.+) \|$", lines, re.MULTILINE):
        if row[0] not in {"Line", "---"}:
            assert "::test_" in row[1], row[0]
