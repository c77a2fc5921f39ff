"""Says which tests run at the same time, in which order, and until when they begin.

Tests wait for processes, which take several times as long on a slow machine. There what is left of
the time is given: after TESTS_BEGIN_BEFORE (seconds since 1970) no further test begins, and the
summary says how many were left out. So the tests of which each says something of its own come
first, and those that try the same with further examples come last.
"""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

ENGINE: Final = "tests of real engines"
DEADLINE: Final = "TESTS_BEGIN_BEFORE"
FURTHER: Final = ("tests/property/", "tests/oracle/", "tests/e2e/test_conformance.py")
"""Of these tests those marked slow try further examples of what `make test` tries, too."""


class OneEngineAtATime(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file stay together, because they share what is started once for a file. Those
    of files with real engines are one group: two of those at a time need more memory than small
    machines have. Twins of theirs with the simulated engine are none of it.
    """

    def _split_scope(self, nodeid: str) -> str:
        path: str = super()._split_scope(nodeid)
        if "[simulated" in nodeid or not _starts_engines(self.config.rootpath / path):
            return path
        return ENGINE


@functools.cache
def _starts_engines(path: Path) -> bool:
    return "mark.engine" in path.read_text()


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Callable[..., None]
) -> OneEngineAtATime:
    return OneEngineAtATime(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest group comes first where there are several workers: what begins last ends last."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: (item.nodeid.startswith(FURTHER), not _starts_engines(item.path))
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what would begin too late; what has begun ends."""
    deadline = os.environ.get(DEADLINE)
    if deadline is not None and time.time() > float(deadline):
        pytest.skip("left out: this machine is slow, and the time for tests to begin is over")
