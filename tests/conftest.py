"""How property tests draw, and which tests may run at the same time.

A run that fails says something about the change it runs for, so `make test` and `make test-full`
draw the same examples every time. `make hunt` looks for new ones.
"""

import os

import pytest
from hypothesis import Phase, settings

from partitiond import native

if os.environ.get("PARTITIOND_TEST_NATIVE") == "1" and not native.activate():
    raise RuntimeError("PARTITIOND_TEST_NATIVE is 1, and nothing is compiled")

# Without the phase that explains a failure: it traces every line, and a planner that is traced
# runs into the test's time limit before it can say what failed.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
settings.register_profile("fixed", derandomize=True, database=None, phases=PHASES)
settings.register_profile("hunt", phases=PHASES, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers (`-n 2 --dist loadgroup`) the tests of a file stay together, because
    they share what is started once for a file. All tests of real engines are one group, the first:
    two of those at a time need more memory than small machines have, and what begins last ends
    last.
    """
    if not config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)
    for item in items:
        real = item.get_closest_marker("engine") is not None
        group = "engine" if real else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
