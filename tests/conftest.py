"""How property tests draw: the same examples with every run, or new ones on request.

A run that fails says something about the change it runs for, so `make test` and `make test-full`
draw the same examples every time. `make hunt` looks for new ones.
"""

import os

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
