"""A how-to page begins with the command that does the job."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_a_heading_one_sentence_and_the_command(page: Path) -> None:
    title, sentence, block = page.read_text("utf-8").split("\n\n")[:3]
    assert title.startswith("# ")
    assert sentence.endswith(":"), "a sentence that leads to the command"
    assert not re.search(r"[.!?] [A-Z]", sentence), "one sentence"
    assert block.startswith("```console\n$ "), "a command"
