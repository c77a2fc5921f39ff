"""What is gone does not come back: each row names what would be there if it did."""

import re
from pathlib import Path

import pytest

from tests.structure.imports import ROOT

NO_FILES = {
    "pages that answer a number": "docs/decisions/*-lines-are-for.md",
}
"""What is gone, and the files that it would be in."""


@pytest.mark.parametrize("gone", NO_FILES)
def test_no_file_of_what_is_gone_is_there(gone: str) -> None:
    assert not list(ROOT.glob(NO_FILES[gone])), f"{gone}: these are gone"


def test_the_changelog_tells_a_release_in_few_words() -> None:
    unreleased, *_ = re.split(r"\n## \[\d", Path(ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert len(unreleased.split()) <= 600, "of changes that nobody had before, one line each"
