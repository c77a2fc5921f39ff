"""Says which tests share a process, in which order they run, and until when they begin.

The tests of a file stay together, because they share what is started once for a file. All files
with real engines are one group, and so are all files with Ray: two of either at a time need more
memory than small machines have. Those with a browser share it, and the demo that it looks at; those
that read the sources, their trees. The longest group begins first, because what begins last ends
last; `tests/durations.txt` says how long each file took when that was last recorded.
"""

import functools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

DEADLINE: Final = "TESTS_BEGIN_BEFORE"
"""Seconds since 1970. A test that would begin later does not run, and `tests.run` names it."""
GROUPS: Final = {
    "mark.engine": "tests of real engines",
    "mark.ray": "tests of Ray",
    "mark.browser": "tests of a browser",
    "tests.structure.imports": "tests of the sources",
}
"""Words in a file that make its tests members of a group."""
SIMULATED: Final = "[simulated"
"""In the name of a test: it is a twin of one with a real engine, and starts none."""
DURATIONS: Final = Path(__file__).with_name("durations.txt")
UNKNOWN_SECONDS: Final = 0.1
"""Of one test in a file that was never recorded; a guess."""


def group_of(nodeid: str, root: Path) -> str:
    """Return the group of a test: its file, or a name for several files."""
    file = nodeid.partition("::")[0]
    words = _groups_in(root / file)
    if SIMULATED in nodeid:
        return file
    return next((name for word, name in GROUPS.items() if word in words), file)


@functools.cache
def _groups_in(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    return frozenset(word for word in GROUPS if word in text)


@functools.cache
def recorded() -> Mapping[str, float]:
    """Return the seconds of each file."""
    rows = (line.split() for line in DURATIONS.read_text(encoding="utf-8").splitlines())
    return {file: float(seconds) for seconds, file in rows}


def longest_first(
    nodeids: list[str], root: Path, seconds: Mapping[str, float]
) -> dict[str, tuple[float, str]]:
    """Return the key that each test is sorted by: the seconds of its group, then the group."""
    groups = {nodeid: group_of(nodeid, root) for nodeid in nodeids}
    total: defaultdict[str, float] = defaultdict(float)
    cases = Counter(nodeid.partition("::")[0] for nodeid in nodeids)
    for nodeid, group in groups.items():
        file = nodeid.partition("::")[0]
        of_file = seconds.get(file, UNKNOWN_SECONDS * cases[file])
        total[group] += of_file / cases[file]
    return {nodeid: (-total[group], group) for nodeid, group in groups.items()}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.workers:
        key = longest_first([item.nodeid for item in items], config.rootpath, recorded())
        items.sort(key=lambda item: key[item.nodeid])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol() -> bool | None:
    """Leave out what would begin too late. It has no report then, which `tests.run` sees."""
    return True if time.time() > float(os.environ.get(DEADLINE, "inf")) else None
