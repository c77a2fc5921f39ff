"""A how-to page begins with the command that does the job."""

import re
from pathlib import Path

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("*.md"))


def test_a_heading_one_sentence_and_the_command() -> None:
    wrong = []
    for page in PAGES:
        title, sentence, block = page.read_text("utf-8").split("\n\n")[:3]
        one = sentence.endswith(":") and not re.search(r"[.!?] [A-Z]", sentence)
        if not (title.startswith("# ") and one and block.startswith("```console\n$ ")):
            wrong.append(page.name)
    assert len(PAGES) > 15
    assert not wrong
