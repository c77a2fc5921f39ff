"""Every test that the comparison page names for a claim of ours exists and has tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def claims() -> list[tuple[str, list[str]]]:
    """(claim, files) of the table below the heading that promises them."""
    table = PAGE.split("## What holds our column")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return [(row[1].strip(), re.findall(r"`(tests/[^`]+)`", row[2])) for row in rows[2:]]


def test_every_claim_names_tests_that_exist() -> None:
    found = claims()
    assert len(found) > 15
    for claim, files in found:
        assert files, f"no test is named for: {claim}"
        for name in files:
            file = ROOT / name
            assert file.is_file(), f"{claim}: {name} is not there"
            text = file.read_text(encoding="utf-8")
            assert re.search(r"def test_|class Test|TestCase", text), (
                f"{claim}: {name} tests nothing"
            )


def test_every_row_of_the_table_says_something_of_each_project() -> None:
    table = PAGE.split("\n\n| | partitiond")[1].split("\n\n")[0].splitlines()
    widths = {line.count("|") for line in table[1:]}
    assert len(widths) == 1
    assert all(cell.strip() for line in table[2:] for cell in line.split("|")[1:-1])
