"""Sets how property tests draw examples, and which tests run at the same time.

A failure must come from the change under test, so `make test` and `make test-full` draw the same
examples every time. `make hunt` looks for new ones.
"""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from partitiond import native

if os.environ.get("PARTITIOND_TEST_NATIVE") == "1" and not native.activate():
    raise RuntimeError("PARTITIOND_TEST_NATIVE is 1, and nothing is compiled")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As for every job in the background of a script: what tests start and interrupt inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without the phase that explains a failure: it traces every line, and a planner that is traced
# runs into the test's time limit before it can say what failed.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
# No deadline: an example that a busy machine interrupts is not a slow one.
settings.register_profile("fixed", derandomize=True, database=None, phases=PHASES, deadline=None)
settings.register_profile("hunt", phases=PHASES, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

ENGINE = "tests of real engines"


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


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A command that a test runs in its own process sets the umask; the next test has its own."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest group comes first where there are several workers: what begins last ends last."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not _starts_engines(item.path))
