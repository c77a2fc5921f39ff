"""Sets how property tests draw examples, and what each test finds.

A failure must come from the change under test, so `make test` and `make test-full` draw the same
examples every time. `make soak` looks for new ones.
"""

import gc
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from partitiond import native
from tests.order import pytest_collection_modifyitems, pytest_runtest_protocol
from tests.reported import pytest_configure
from tests.workers import pytest_addoption, pytest_runtestloop

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_protocol",
    "pytest_runtestloop",
]

gc.disable()  # until the collection of tests is over, which makes hardly any garbage

if os.environ.get("PARTITIOND_TEST_NATIVE") == "1" and not native.activate(native.PROXY):
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


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no collection of garbage looks at it again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A command that a test runs in its own process sets the umask; the next test has its own."""
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, with a shorter name than pytest's: the path of a Unix socket is short."""
    name = re.sub(r"\W", "_", request.node.name.removeprefix("test_"))
    return tmp_path_factory.mktemp(name[:12])
