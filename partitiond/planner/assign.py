"""Abstract devices to real ones with the fewest moves; then replica ids and cores."""

import collections
import dataclasses
from collections.abc import Iterable

from ortools.graph.python import linear_sum_assignment

from partitiond.core.hardware import DeviceKind, SharingMode
from partitiond.core.partition import (
    CpuCores,
    MemoryShare,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.plan import Candidate, Placement
from partitiond.planner.cores import CoreWish, choose_cores
from partitiond.planner.instance import Group, Instance
from partitiond.planner.packing import Packing
from partitiond.planner.running import staying_items

Staying = list[tuple[int, int, Placement]]


@dataclasses.dataclass(slots=True)
class _Slot:
    """One replica of the plan on its real device, before it has an id."""

    index: int
    item: int
    kept: Placement | None
    replica_id: str = ""


def assign(instance: Instance, packing: Packing) -> tuple[Placement, ...]:
    """Placements on real devices; running replicas keep device, partition and id where they can."""
    slots = _slots(instance, packing)
    _name(instance, slots)
    cores = _cores(instance, slots)
    slots.sort(key=lambda s: (s.index, s.replica_id))
    return tuple(
        Placement(
            replica_id=slot.replica_id,
            model=candidate.model,
            device_id=instance.request.devices[slot.index].id,
            partition=_partition(
                instance.request.devices[slot.index].id, candidate, cores.get(slot.replica_id, ())
            ),
            candidate=candidate,
        )
        for slot in slots
        for candidate in (instance.items[slot.item].candidate,)
    )


def bytes_to_load(instance: Instance, packing: Packing) -> int:
    """Weights and the like that applying the packing has to load, in bytes."""
    return sum(
        instance.items[slot.item].load_bytes
        for slot in _slots(instance, packing)
        if slot.kept is None
    )


def _slots(instance: Instance, packing: Packing) -> list[_Slot]:
    staying = staying_items(instance)
    real = {}
    for group in instance.groups:
        real.update(_match_devices(instance, packing, group, staying))
    waiting: dict[tuple[int, int], list[Placement]] = collections.defaultdict(list)
    for index, item, placement in staying:
        waiting[index, item].append(placement)
    slots = []
    for abstract, load in enumerate(packing.loads):
        for item in load.items:
            kept = waiting[real[abstract], item]
            slots.append(_Slot(real[abstract], item, kept.pop(0) if kept else None))
    return slots


def _match_devices(
    instance: Instance, packing: Packing, group: Group, staying: Staying
) -> dict[int, int]:
    """Real device of each abstract one of a group, so that the most bytes stay loaded."""
    bins = group.bins
    runs: dict[int, collections.Counter[int]] = {b: collections.Counter() for b in bins}
    for index, item, _ in staying:
        if index in runs:
            runs[index][item] += 1
    if len(bins) == 1 or not any(runs.values()):
        order = [b for b in bins if packing.loads[b].items]
        order += [b for b in bins if not packing.loads[b].items]
        return dict(zip(order, bins, strict=True))
    kept = [
        [_kept_bytes(instance, packing.loads[abstract].items, runs[real]) for real in bins]
        for abstract in bins
    ]
    most = max(max(row) for row in kept)
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    for left, row in enumerate(kept):
        for right, stays in enumerate(row):
            # Equal matches go to the device of the same place, so that the answer is unique.
            solver.add_arc_with_cost(left, right, 2 * (most - stays) + (left != right))
    solver.solve()
    return {bins[left]: bins[solver.right_mate(left)] for left in range(len(bins))}


def _kept_bytes(instance: Instance, items: list[int], runs: collections.Counter[int]) -> int:
    """In MiB, at least 1 per replica that stays."""
    both = collections.Counter(items) & runs
    return sum(n * (1 + instance.items[item].load_bytes // 2**20) for item, n in both.items())


def _name(instance: Instance, slots: list[_Slot]) -> None:
    """Ids: kept ones first, then those of replicas that move, then the lowest free numbers."""
    for slot in slots:
        slot.replica_id = slot.kept.replica_id if slot.kept is not None else ""
    taken = {slot.replica_id for slot in slots}
    running = instance.request.running
    leaving = [p for p in running if p.replica_id not in taken]
    unnamed = [slot for slot in slots if not slot.replica_id]
    for same_device in (True, False):
        for slot in (s for s in unnamed if not s.replica_id):
            model = instance.items[slot.item].candidate.model
            device = instance.request.devices[slot.index].id
            mine = [
                p
                for p in leaving
                if p.model == model and (not same_device or p.device_id == device)
            ]
            if mine:
                slot.replica_id = mine[0].replica_id
                leaving.remove(mine[0])
    taken = {slot.replica_id for slot in slots} | {p.replica_id for p in running}
    last: dict[str, int] = collections.defaultdict(int)
    for slot in (s for s in unnamed if not s.replica_id):
        model = instance.items[slot.item].candidate.model
        while True:
            last[model] += 1
            slot.replica_id = f"{model}-{last[model]}"
            if slot.replica_id not in taken:
                break


def _cores(instance: Instance, slots: list[_Slot]) -> dict[str, tuple[int, ...]]:
    """Cores of the replicas on CPU devices, such that engines on GPUs find theirs, too."""
    found: dict[str, tuple[int, ...]] = {}
    for host in sorted({d.host for d in instance.request.devices}):
        wishes = [_wish(instance, slot) for slot in _on_host(instance, slots, host)]
        if any(wish.exclusive for wish in wishes):
            found |= choose_cores(wishes)
    return found


def _on_host(instance: Instance, slots: list[_Slot], host: str) -> Iterable[_Slot]:
    return (s for s in slots if instance.request.devices[s.index].host == host)


def _wish(instance: Instance, slot: _Slot) -> CoreWish:
    device = instance.request.devices[slot.index]
    kept = slot.kept.partition if slot.kept is not None else None
    return CoreWish(
        name=slot.replica_id,
        count=instance.items[slot.item].cores if device.cores else 0,
        allowed=device.cores,
        exclusive=device.kind is DeviceKind.CPU,
        kept=kept.cores if isinstance(kept, CpuCores) else (),
    )


def _partition(device_id: str, candidate: Candidate, cores: tuple[int, ...]) -> Partition:
    memory = candidate.memory_bytes
    match candidate.size.mode:
        case SharingMode.MEMORY:
            return MemoryShare(device_id, memory)
        case SharingMode.MPS:
            return MpsShare(device_id, memory, candidate.size.sm_percent)
        case SharingMode.CORES:
            return CpuCores(device_id, memory, cores)
        case _:
            return WholeDevice(device_id, memory)
