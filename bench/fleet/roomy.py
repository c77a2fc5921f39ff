"""Runs partitiond's daemon with simulated engines on a CPU with more cores than this machine has.

`python -m bench.fleet.roomy CORES serve ...`: the CPU device has cores 0 to CORES-1; an engine that
is pinned to one of these is pinned to one of this machine's cores.
"""

import os
import sys
from pathlib import Path
from typing import Any

from partitiond.cli.main import main
from partitiond.core.replica.engine import EngineLaunch
from partitiond.devices import cpu
from partitiond.engines.process import commands
from partitiond.engines.process.journal import RunFolder


def pretend(cores: int) -> None:
    """Make this process see `cores` cores from now on."""
    real = sorted(os.sched_getaffinity(0))
    shim_command = commands.shim_command

    def usable(root: Path, allowed: tuple[int, ...], wanted: object) -> tuple[int, ...]:
        del root, allowed, wanted
        return tuple(range(cores))

    def on_real_cores(
        argv: list[str], env: dict[str, str], launch: EngineLaunch, folder: RunFolder
    ) -> dict[str, Any]:
        command = shim_command(argv, env, launch, folder)
        return command | {"cores": sorted({real[core % len(real)] for core in command["cores"]})}

    cpu._usable_cores = usable
    commands.shim_command = on_real_cores


if __name__ == "__main__":
    pretend(int(sys.argv[1]))
    main(sys.argv[2:])
