"""Gives each engine a cgroup of its own where systemd delegated one to the daemon's service.

- **delegated**: a cgroup `engine-<replica>` below that of the service (`Delegate=yes`). It survives
  a restart with `KillMode=process`. It gets a memory limit only if the daemon sits in a subgroup
  (`DelegateSubgroup=`, systemd 254 and newer): a cgroup that hands controllers to its children may
  hold no processes, so the service manager would fail to put the next daemon into such a cgroup.
- **none**: the engine stays in the daemon's cgroup; only its session tells it apart.

In both cases the supervisor leads a session of its own and is found again by its run folder, by
which its tree is also killed; a cgroup adds accounting, a limit, and a name in `systemd-cgls`.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process.delegation import Delegation, delegation

CgroupMode = Literal["auto", "delegated", "none"]

LIMIT_FACTOR: Final = 1.25
"""A cgroup counts what a profile does not: page cache, the kernel's share, pages touched first.
What is reclaimable is reclaimed below the limit; an engine beyond it leaks. A guess."""

_INTO_CGROUP: Final = (
    "folder=$1; limit=$2; other=$3; shift 3; "
    'if mkdir -p "$folder" && echo $$ >"$folder/cgroup.procs"; then '
    'if [ -n "$limit" ]; then parent=${folder%/*}; '
    '{ echo +memory >"$parent/cgroup.subtree_control" && echo "$limit" >"$folder/memory.max"; } '
    '2>/dev/null || echo "no memory limit for $folder" >&2; '
    '{ echo 0 >"$folder/memory.swap.max"; } 2>/dev/null; fi; '
    'elif [ -z "$other" ]; then exit 1; fi; exec "$@"'
)
"""The move happens between fork and exec: a shell can do that, a daemon with threads cannot."""


def memory_limit_bytes(launch: EngineLaunch) -> int | None:
    """Return the limit of an engine's cgroup in bytes; None if the plan packs no host memory.

    The plan packs host memory only on the CPU device. On a GPU the budget is the GPU's memory, and
    an engine that is being profiled has no budget yet.
    """
    if launch.placement is None or not isinstance(launch.placement.partition, CpuCores):
        return None
    return int(launch.memory_bytes * LIMIT_FACTOR)


class EngineCgroups:
    """Gives each engine a cgroup, as the setting and this host allow.

    Args:
        mode: the setting `engine.cgroup`.
        look: reads what was delegated to this process.
    """

    def __init__(
        self, mode: CgroupMode = "none", look: Callable[[], Delegation | None] = delegation
    ) -> None:
        self._mode: CgroupMode = mode
        self._look = look

    def words(self, name: str, *, limit: int | None = None) -> tuple[str, ...]:
        """Return words before a command that put it into a cgroup of its own; none if it stays.

        Args:
            name: of the run folder of an engine, or of what outlives the daemon as engines do.
            limit: memory limit in bytes.

        Raises:
            StartFailedError: the mode that was set is not possible here.
        """
        here = None if self._mode == "none" else self._look()
        if here is not None:
            memory = str(limit) if limit is not None and here.subgroup else ""
            other = "none" if self._mode == "auto" else ""
            folder = str(_folder(here.folder, name))
            return ("/bin/sh", "-c", _INTO_CGROUP, "cgroup", folder, memory, other)
        if self._mode == "delegated":
            raise StartFailedError(
                "engine.cgroup = delegated is not possible here: no cgroup was delegated to this "
                "process.",
                hint="Set engine.cgroup to auto, or make it possible (`partitiond setup` shows "
                "how).",
            )
        return ()

    def tidy(self, name: str) -> None:
        """Remove the cgroup of an engine that is gone."""
        here = None if self._mode == "none" else self._look()
        if here is not None:
            with contextlib.suppress(OSError):  # there was none, or a process is still leaving it
                _folder(here.folder, name).rmdir()


def _folder(parent: Path, name: str) -> Path:
    return parent / f"engine-{name}"
