"""Where engines can start beside those they replace: the choice between devices that are alike."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partitiond.core.hardware import SharingMode
from partitiond.core.plan import Placement
from partitiond.planner.packing import Packing
from partitiond.planner.pools import usable_bytes
from partitiond.planner.types import Instance


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """What runs on a device; equal for devices on which the answer is the same.

    Attributes:
        staying: (item, how many) that could stay as they are.
        count: of all replicas.
        modes, sm_percent, memory_bytes: of all replicas together.
    """

    staying: frozenset[tuple[int, int]]
    count: int
    modes: frozenset[SharingMode]
    sm_percent: int
    memory_bytes: int


def in_the_way(
    instance: Instance,
    packing: Packing,
    bins: Sequence[int],
    staying: Sequence[collections.Counter[int]],
) -> NDArray[np.int64]:
    """Whether something that runs has to go before all of a load can start, by load and device.

    In mode MIG that depends on slices, which are chosen later: yes is the answer then.

    Args:
        instance, packing: the problem and its answer, on abstract devices.
        bins: devices that are alike, which are rows (loads) and columns (real ones).
        staying: by position in `bins`, how many replicas of an item run that could stay.

    Returns:
        1 where it has to, else 0.
    """
    running: dict[str, list[Placement]] = {instance.request.devices[b].id: [] for b in bins}
    for placement in instance.request.running:
        if placement.device_id in running:
            running[placement.device_id].append(placement)
    held = [_held(*pair) for pair in zip(staying, running.values(), strict=True)]
    loads = [tuple(sorted(packing.loads[b].items)) for b in bins]
    room = usable_bytes(instance.request.devices[bins[0]])
    rows, columns = list(dict.fromkeys(loads)), list(dict.fromkeys(held))
    kinds = np.array(
        [[not _fits_beside(instance, load, there, room) for there in columns] for load in rows],
        dtype=np.int64,
    )
    row_of, column_of = {r: n for n, r in enumerate(rows)}, {c: n for n, c in enumerate(columns)}
    return kinds[np.ix_([row_of[load] for load in loads], [column_of[one] for one in held])]


def _held(staying: collections.Counter[int], running: Sequence[Placement]) -> _Held:
    sizes = [placement.candidate.size for placement in running]
    return _Held(
        frozenset(staying.items()),
        len(running),
        frozenset(placement.partition.mode for placement in running),
        sum(size.sm_percent for size in sizes if size.mode is SharingMode.MPS),
        sum(placement.partition.memory_bytes for placement in running),
    )


def _fits_beside(instance: Instance, load: Sequence[int], there: _Held, room: int) -> bool:
    fresh = list((collections.Counter(load) - collections.Counter(dict(there.staying))).elements())
    if not fresh or there.count == len(load) - len(fresh):
        return True  # nothing starts, or nothing leaves
    candidates = [instance.items[item].candidate for item in fresh]
    modes = there.modes | {candidate.size.mode for candidate in candidates}
    if len(modes) > 1 or modes <= {SharingMode.MIG, SharingMode.WHOLE}:
        return False
    shares = sum(c.size.sm_percent for c in candidates if c.size.mode is SharingMode.MPS)
    asked = sum(candidate.memory_bytes for candidate in candidates)
    return there.sm_percent + shares <= 100 and there.memory_bytes + asked <= room
