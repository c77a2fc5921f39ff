"""Splits the used memory of a GPU into that of our engines and that of foreign processes.

The driver reports the used memory, and the memory of each process. Both have gaps: under MPS,
memory may be attributed to the server; with MIG, the figures of processes may need a permission
that we lack; and inside a container, other processes cannot be seen at all. Memory without a named
process counts as foreign while none of our engines is on the GPU. Once one is, such memory counts
as ours, except for the amount that was hidden before: its owner is never known, and if a GPU
shrank by the memory of its own engines, plans would move these engines away.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.units import MIB

SLACK_BYTES: Final = 256 * MIB
"""Ignored if unexplained: the driver's own share of a context, below any engine's (~ 500 MiB)."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with memory on a GPU.

    Attributes:
        used_bytes: None if the driver does not report it.
        gpu_instance: id of the process's GPU instance; None outside of MIG, and if unknown.
    """

    pid: int
    used_bytes: int | None = None
    gpu_instance: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MemorySplit:
    """The used memory of a GPU, by owner.

    Attributes:
        ours_bytes: of our engines and MPS servers.
        foreign_bytes: of all other processes, hidden memory included.
        hidden_bytes: used by processes that cannot be seen.
        foreign: processes that are not ours.
    """

    ours_bytes: int
    foreign_bytes: int
    hidden_bytes: int
    foreign: tuple[GpuProcess, ...]


def split_memory(
    used_bytes: int,
    processes: Sequence[GpuProcess],
    own_pids: Collection[int],
    hidden_before: int = 0,
) -> MemorySplit:
    """Split the used memory by owner.

    Args:
        used_bytes: used by all processes, without the driver's reserve.
        processes: that the driver names and that can be told apart here.
        own_pids: processes of our engines and MPS servers, on any device.
        hidden_before: `hidden_bytes` of the last split with none of our processes on the GPU.
    """
    ours = [p for p in processes if p.pid in own_pids]
    foreign = tuple(p for p in processes if p.pid not in own_pids)
    named_ours, named_foreign = _sum(ours), min(used_bytes, _sum(foreign))
    rest = max(0, used_bytes - named_ours - named_foreign)
    here = bool(ours) or (bool(own_pids) and not processes)
    untold_ours = any(p.used_bytes is None for p in ours)
    untold_foreign = any(p.used_bytes is None for p in foreign)
    if rest <= SLACK_BYTES:
        others = hidden = 0
    elif not here or (untold_foreign and not untold_ours):
        others, hidden = rest, 0 if untold_foreign else rest
    elif untold_ours and not untold_foreign and not hidden_before:
        others = hidden = 0
    else:
        others = hidden = min(rest, hidden_before)
    total_foreign = named_foreign + others
    return MemorySplit(
        ours_bytes=max(0, used_bytes - total_foreign) if here else 0,
        foreign_bytes=total_foreign,
        hidden_bytes=hidden,
        foreign=foreign,
    )


def _sum(processes: Sequence[GpuProcess]) -> int:
    return sum(p.used_bytes or 0 for p in processes)
