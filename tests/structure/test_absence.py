"""What is gone does not come back: each row names what would be there if it did."""

import re

import pytest

from tests.structure.imports import ROOT

NO_FILES = {
    "pages that answer a number": "docs/decisions/*-lines-are-for.md",
    "costs of a host that were fitted for simulations": "partitiond/simulated/fleet/host_costs.py",
    "a method of the client for each view": "partitiond/client/views.py",
    "probes of a host that only the doctor made": "partitiond/cli/doctor/facts.py",
    "what a setup did, step by step": "partitiond/cli/setup/record.py",
    "a series of readings of engines that are advised on": "partitiond/advise/observe.py",
}
"""What is gone, and the files that it would be in."""
NO_WORDS = {
    "columns of goals": ("docs/benchmarks.md", r"\| goal \||\*\*missed\*\*"),
    "last runs of the soak": ("docs/soak.md", r"Last runs"),
    "tests that hold a column": ("docs/comparison.md", r"tests/"),
    "usage in seconds and energy of devices": (
        "tests/surfaces/frozen/control-api.txt",
        r"UsageLine\.\S*(seconds|hours|joules)",
    ),
    "a rule of its own for each limit of a key": (
        "partitiond/core/keys/shares.py",
        r"SharingRule|UNSPENT|_believed",
    ),
    "a diary of checks": ("CONTRIBUTING.md", r"\bwere wanted\b|took \d+, \d+ and \d+"),
}
"""What is gone from a page, and the words by which it would be seen."""
NO_NAMES = {
    "tables that are drawn row by row": "new_table",
    "step times that were fitted to recorded requests": "FittedSteps",
    "plans for the low end and the middle of a demand": "LevelPlan",
}
"""What is gone, and the function or class that it would be."""


@pytest.mark.parametrize("gone", NO_FILES)
def test_no_file_of_what_is_gone_is_there(gone: str) -> None:
    assert not list(ROOT.glob(NO_FILES[gone])), f"{gone}: these are gone"


@pytest.mark.parametrize("gone", NO_WORDS)
def test_no_page_has_what_is_gone(gone: str) -> None:
    page, words = NO_WORDS[gone]
    assert not re.search(words, (ROOT / page).read_text("utf-8")), f"{gone}: these are gone"


@pytest.mark.parametrize("gone", NO_NAMES)
def test_no_name_of_what_is_gone_is_defined(gone: str) -> None:
    defined = re.compile(rf"^\s*(?:def|class) {NO_NAMES[gone]}\b", re.MULTILINE)
    modules = (ROOT / "partitiond").rglob("*.py")
    assert not [path for path in modules if defined.search(path.read_text("utf-8"))], gone


def test_the_changelog_tells_a_release_in_few_words() -> None:
    unreleased, *_ = re.split(r"\n## \[\d", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert len(unreleased.split()) <= 600, "of changes that nobody had before, one line each"
