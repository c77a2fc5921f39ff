"""Whose the memory of a GPU is that is in use: our engines', or others'.

A driver tells how much is in use, and which processes hold how much of it. Both have holes: under
MPS memory may be attributed to the server, with MIG on the figures of processes may need a right
that is not ours, and from within a container other processes cannot be seen at all. What nobody
is named for is counted as foreign as long as none of our engines is on the GPU. Once one is, it
is counted as ours beyond what was hidden before: it is never known, and a GPU that shrank by its
own engines would have them moved away from themselves.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Final

from partitiond.core.units import MIB

SLACK_BYTES: Final = 256 * MIB
"""Left unexplained: the driver's own share of a context, below any engine's (some 500 MiB)."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with memory on a GPU.

    Attributes:
        used_bytes: None where the driver does not say.
        gpu_instance: id of the GPU instance it runs in; None outside of MIG, and where unknown.
    """

    pid: int
    used_bytes: int | None = None
    gpu_instance: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MemorySplit:
    """The memory in use on a GPU, by whose it is.

    Attributes:
        ours_bytes: of our engines and MPS servers.
        foreign_bytes: of everyone else, what is hidden included.
        hidden_bytes: in use by processes that cannot be seen.
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
    """Split what is in use.

    Args:
        used_bytes: in use by anyone, without what the driver reserves.
        processes: those that the driver names and that can be told apart here.
        own_pids: processes of our engines and MPS servers, on whichever device.
        hidden_before: `hidden_bytes` of the last look at which none of ours was on the GPU.
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
