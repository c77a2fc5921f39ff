"""Compiles the planner's kernels ahead of time: `python -m partitiond.planner [--done]`.

The command prints the share that is compiled while it runs. With `--done` its exit status says
whether all kernels are compiled.
"""

import os
import sys
from typing import Final

from partitiond.planner.warm import is_warm, warm

NICE: Final = 15
"""Priority of compiling, which waits for whatever else the machine does. Chosen, not measured."""

if __name__ == "__main__":
    if sys.argv[1:] == ["--done"]:
        sys.exit(not is_warm())
    os.nice(NICE)
    # The solver takes a second to import, which the question above does not need.
    from partitiond.planner.api import solve

    warm(solve, lambda share: print(f"{share:.0%}", flush=True))
