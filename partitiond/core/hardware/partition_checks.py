"""Checks a partition's memory: free before its engine starts, not exceeded afterwards. Pure.

Nothing inside an engine enforces its footprint, so it is checked from outside. Before the start the
whole budget has to be free beside the memory that neighbours were promised and do not hold yet.
After the start the engine may hold its budget and a tolerance, as long as the neighbours' promises
stay covered. While it serves it may hold both: the headroom of the plan covers the tolerance.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.core.units import MIB, format_bytes

OVERSHOOT_SHARE: Final = 0.03
"""Of the budget. The plan leaves 3 % of a device free (`hardware.headroom_bytes`), so engines that
all overshoot by this much still fit together. Chosen so."""
OVERSHOOT_BYTES: Final = 128 * MIB
"""Least tolerance: CUDA contexts of one engine differ by about this between drivers. A guess."""
OUTGROWN_LOOKS: Final = 3
"""Looks in a row that must find an engine beyond its budget and the tolerance before it has to go:
a single look may catch memory that is released a moment later. A guess, not a measurement."""
KV_SHORTFALL_SHARE: Final = 0.05
KV_SHORTFALL_TOKENS: Final = 256
"""Two blocks of 128 tokens: caches are whole blocks, and one holds no tokens. Both are chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuUse:
    """The memory of one GPU at a moment.

    Attributes:
        total_bytes: all of it.
        reserved_bytes: memory that the driver keeps.
        free_bytes: memory that an allocation could get.
        processes: processes and what each holds, as far as they can be told apart from here.
        all_told: whether `processes` lists every process on the GPU.
    """

    total_bytes: int
    reserved_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    all_told: bool = True

    @property
    def used_bytes(self) -> int:
        """Memory that processes hold together, told apart or not."""
        return max(0, self.total_bytes - self.reserved_bytes - self.free_bytes)

    def held_by(self, pids: Sequence[int]) -> int | None:
        """Return the memory that these processes hold together; None if the driver reports none of
        it.
        """
        known = [p.used_bytes for p in self.processes if p.pid in pids and p.used_bytes is not None]
        return sum(known) if known else None


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbour:
    """An engine on the same device.

    Attributes:
        budget_bytes: memory that its partition promises to it.
        held_bytes: memory that it holds now; None if the driver does not say.
    """

    name: str
    budget_bytes: int
    held_bytes: int | None


def promised_bytes(neighbours: Sequence[Neighbour]) -> int:
    """Return the memory that neighbours may still take: promised and, as far as is known, not held
    yet.
    """
    return sum(
        max(0, n.budget_bytes - n.held_bytes) for n in neighbours if n.held_bytes is not None
    )


def room_bytes(use: GpuUse, neighbours: Sequence[Neighbour]) -> int:
    """Return the memory for one more engine without taking it from a neighbour; negative if
    overdrawn.

    This is the free memory less what is promised and not held. If the driver does not tell what a
    neighbour holds, the budgets of all have to fit as well, whatever is free at the moment.
    """
    room = use.free_bytes - promised_bytes(neighbours)
    if any(n.held_bytes is None for n in neighbours):
        budgets = sum(n.budget_bytes for n in neighbours)
        room = min(room, use.total_bytes - use.reserved_bytes - budgets)
    return room


def tolerance_bytes(budget_bytes: int) -> int:
    """By how much an engine may exceed its budget if no other engine needs the memory."""
    return max(OVERSHOOT_BYTES, int(budget_bytes * OVERSHOOT_SHARE))


def overshoot(
    budget_bytes: int, held_bytes: int, use: GpuUse, neighbours: Sequence[Neighbour]
) -> str:
    """Explain why an engine that holds this much may not stay; empty if it may.

    Args:
        budget_bytes: of its partition.
        held_bytes: memory that it holds when it is ready to serve.
        use: of its device, now.
        neighbours: the other engines of the device.
    """
    excess = held_bytes - budget_bytes
    if excess <= 0:
        return ""
    tolerance = tolerance_bytes(budget_bytes)
    if excess > tolerance:
        return (
            f"it holds {format_bytes(held_bytes)} of device memory, {format_bytes(excess)} more "
            f"than its partition ({format_bytes(budget_bytes)}); {format_bytes(tolerance)} more "
            "would be tolerated."
        )
    missing = promised_bytes(neighbours) - use.free_bytes
    if missing > 0:
        return (
            f"it holds {format_bytes(excess)} more than its partition "
            f"({format_bytes(budget_bytes)}), and its neighbours lack {format_bytes(missing)} of "
            "theirs."
        )
    return ""


def outgrown(
    budget_bytes: int,
    held_bytes: Sequence[int],
    tolerance_bytes: int,
    looks: int = OUTGROWN_LOOKS,
) -> bool:
    """Return whether a serving engine has outgrown its share of a device and has to go.

    Args:
        budget_bytes: of its partition.
        held_bytes: memory that it held at each look, oldest first.
        tolerance_bytes: by how much it may exceed the budget permanently.
        looks: newest looks that all have to find it beyond budget and tolerance.
    """
    newest = held_bytes[-looks:]
    return len(newest) == looks and min(newest) > budget_bytes + tolerance_bytes


def kv_shortfall(planned_tokens: int, reported_tokens: int) -> str:
    """Explain why an engine's KV cache is too small for its plan; empty if it is not, or is not
    known.

    Args:
        planned_tokens: tokens that its KV bytes hold; 0 if that is not known.
        reported_tokens: tokens that the engine reports; 0 if it does not.
    """
    if planned_tokens <= 0 or reported_tokens <= 0:
        return ""
    least = int(planned_tokens * (1 - KV_SHORTFALL_SHARE)) - KV_SHORTFALL_TOKENS
    if reported_tokens >= least:
        return ""
    return (
        f"its KV cache holds {reported_tokens:,} tokens where {planned_tokens:,} were planned "
        f"({least:,} would be tolerated)."
    )
