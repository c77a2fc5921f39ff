"""Prefers, among equal devices, those where engines can start beside the ones they replace."""

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partitiond.core.hardware.kinds import SharingMode
from partitiond.planner.model.pools import usable_bytes
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.packing import Packing

Size = tuple[SharingMode, int, int]
"""Mode, SM percentage and bytes of a replica."""
Held = tuple[frozenset[tuple[int, int]], tuple[Size, ...]]
"""Contents of a device: which items, and how many of each, could stay as they are; all sizes."""


def in_the_way(
    instance: Instance,
    packing: Packing,
    bins: Sequence[int],
    staying: Sequence[collections.Counter[int]],
) -> NDArray[np.int64]:
    """Return, by load and device, whether a running replica must end before the load can start.

    In mode MIG that depends on slices, which are chosen later; the answer is then 1.

    Args:
        bins: equal devices, which are both the rows (loads) and the columns (real devices).
        staying: by position in `bins`, how many replicas of each item run and could stay.

    Returns:
        1 if a running replica must end first, else 0.
    """
    running: dict[str, list[Size]] = {instance.request.devices[b].id: [] for b in bins}
    for p in instance.request.running:
        if p.device_id in running:
            size = (p.partition.mode, p.candidate.size.sm_percent, p.partition.memory_bytes)
            running[p.device_id].append(size)
    held = [
        (frozenset(stay.items()), tuple(sorted(sizes)))
        for stay, sizes in zip(staying, running.values(), strict=True)
    ]
    loads = [tuple(sorted(packing.loads[b].items)) for b in bins]
    room = usable_bytes(instance.request.devices[bins[0]])
    # Most loads and devices are alike, so each distinct pair is computed once.
    row_of = {load: n for n, load in enumerate(dict.fromkeys(loads))}
    column_of = {there: n for n, there in enumerate(dict.fromkeys(held))}
    kinds = np.array(
        [[not _fits_beside(instance, load, there, room) for there in column_of] for load in row_of],
        dtype=np.int64,
    )
    return kinds[np.ix_([row_of[load] for load in loads], [column_of[there] for there in held])]


def _fits_beside(instance: Instance, load: Sequence[int], there: Held, room: int) -> bool:
    staying, sizes = there
    fresh = list((collections.Counter(load) - collections.Counter(dict(staying))).elements())
    if not fresh or len(sizes) == len(load) - len(fresh):
        return True  # nothing starts, or nothing leaves
    starting = (instance.items[item].candidate for item in fresh)
    together = [*sizes, *((c.size.mode, c.size.sm_percent, c.memory_bytes) for c in starting)]
    modes = {mode for mode, _, _ in together}
    if len(modes) > 1 or modes <= {SharingMode.MIG, SharingMode.WHOLE}:
        return False
    shares = sum(percent for mode, percent, _ in together if mode is SharingMode.MPS)
    return shares <= 100 and sum(memory for _, _, memory in together) <= room
