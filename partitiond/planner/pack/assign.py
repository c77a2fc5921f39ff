"""Assigns abstract devices to real ones with the fewest moves; then replica ids and cores.

Equal devices are preferred where engines can start beside the ones they replace.
"""

import collections
import dataclasses
import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import linear_sum_assignment

from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
    way_of,
)
from partitiond.core.mig.geometry import Geometry, Place, geometry_on
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement
from partitiond.planner.model.cores import CoreWish, choose_cores
from partitiond.planner.model.pools import usable_bytes
from partitiond.planner.model.ties import twins
from partitiond.planner.model.types import Instance
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import staying_items

Size = tuple[tuple[SharingMode, str], int, int]
"""Way (`types.Way`), SM percentage and bytes of a replica."""
Held = tuple[collections.Counter[int], list[Size]]
"""Contents of a device: which items, and how many of each, could stay as they are; all sizes."""

Staying = tuple[tuple[int, int, Placement], ...]
Contents = tuple[tuple[int, ...], ...]
"""Items on each abstract device."""


@dataclasses.dataclass(slots=True)
class _Slot:
    """One replica of the plan on its real device, before it has an id.

    Attributes:
        place: its GPU instance in mode MIG.
    """

    index: int
    item: int
    kept: Placement | None
    replica_id: str = ""
    place: Place | None = None


_KNOWN: Final = weakref.WeakKeyDictionary[Instance, dict[Contents, list[_Slot]]]()
"""What was matched: a solve asks for the same few packings again and again."""


def assign(instance: Instance, packing: Packing) -> tuple[Placement, ...]:
    """Return placements on real devices; running replicas keep theirs and their ids if possible."""
    slots = _slots(instance, packing)
    _name(instance, slots)
    cores = _cores(instance, slots)
    slots.sort(key=lambda s: (s.index, s.replica_id))
    return tuple(
        Placement(
            replica_id=slot.replica_id,
            model=candidate.model,
            device_id=instance.request.devices[slot.index].id,
            partition=_partition(instance, slot, cores),
            candidate=candidate,
        )
        for slot in slots
        for candidate in (instance.items[slot.item].candidate,)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What applying a packing does to the running replicas.

    Attributes:
        kept: number of replicas by model that stay as they are.
        placed: number of replicas by model in the packing.
        load_bytes: bytes of weights that have to be loaded.
    """

    kept: collections.Counter[str]
    placed: collections.Counter[str]
    load_bytes: int


def applied(instance: Instance, packing: Packing) -> Applied:
    """Compare a packing with the running replicas, on the devices that it would be assigned."""
    slots = _slots(instance, packing)
    items = instance.items
    return Applied(
        kept=collections.Counter(slot.kept.model for slot in slots if slot.kept is not None),
        placed=collections.Counter(items[slot.item].candidate.model for slot in slots),
        load_bytes=sum(items[slot.item].load_bytes for slot in slots if slot.kept is None),
    )


def _slots(instance: Instance, packing: Packing) -> list[_Slot]:
    contents = tuple(tuple(load.items) for load in packing.loads)
    known = _KNOWN.setdefault(instance, {})
    if contents not in known:
        known[contents] = _matched(instance, contents)
    return [dataclasses.replace(slot) for slot in known[contents]]


def _matched(instance: Instance, contents: Contents) -> list[_Slot]:
    staying = staying_items(instance)
    real: dict[int, int] = {}
    for bins in twins(instance):
        real.update(_match_devices(instance, contents, bins, staying))
    waiting = by_key(((index, item), placement) for index, item, placement in staying)
    slots = []
    for abstract, items in enumerate(contents):
        for item in items:
            kept = waiting[real[abstract], item]
            slots.append(_Slot(real[abstract], item, kept.pop(0) if kept else None))
        if items:
            _choose_slices(instance, slots[-len(items) :])
    return slots


def _choose_slices(instance: Instance, slots: list[_Slot]) -> None:
    """Place the replicas of one device in mode MIG; a replica that cannot keep its place moves."""
    here = [s for s in slots if instance.items[s.item].mig_profile]
    if not here:
        return
    geometry = geometry_on(instance.request.devices[here[0].index])
    assert geometry is not None, "an item in mode MIG fits only where there is a geometry"
    wishes = [
        SliceWish(
            instance.items[slot.item].mig_profile,
            _place_of(slot.kept),
            instance.items[slot.item].load_bytes,
        )
        for slot in here
    ]
    for slot, place in zip(here, choose_slices(geometry, wishes), strict=True):
        slot.place = place
        if place != _place_of(slot.kept):
            slot.kept = None


def _place_of(kept: Placement | None) -> Place | None:
    if kept is None or not isinstance(kept.partition, MigSlice):
        return None
    partition = kept.partition
    return partition.mig_profile, partition.slice_start, partition.slice_count


def _match_devices(
    instance: Instance, contents: Contents, bins: tuple[int, ...], staying: Staying
) -> dict[int, int]:
    """Return the real device of each interchangeable abstract one, so that most bytes stay loaded.

    Among equal matches, the one with the most devices on which engines can start beside the ones
    they replace wins; then the one to the devices of the same position, so the answer is unique.
    """
    runs: dict[int, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    position = {b: n for n, b in enumerate(bins)}
    running_on: dict[int, set[int]] = collections.defaultdict(set)
    for index, item, _ in staying:
        if index in position:
            runs[position[index]][item] += 1
            running_on[item].add(position[index])
    here = {instance.request.devices[b].id for b in bins}
    if len(bins) == 1 or not any(p.device_id in here for p in instance.request.running):
        order = sorted(bins, key=lambda b: not contents[b])
        return dict(zip(order, bins, strict=True))
    kept = np.zeros((len(bins), len(bins)), dtype=np.int64)
    for left, abstract in enumerate(bins):
        items = contents[abstract]
        for right in set().union(*(running_on[item] for item in items)):
            kept[left, right] = _kept_bytes(instance, items, runs[right])
    blocked = in_the_way(instance, contents, bins, [runs[n] for n in range(len(bins))])
    more = len(bins) + 1  # exceeds the sum of the less important costs
    cost = more * (more * (kept.max() - kept) + blocked) + 1 - np.eye(len(bins), dtype=np.int64)
    rows, columns = np.indices(kept.shape)
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    solver.add_arcs_with_cost(rows.ravel(), columns.ravel(), cost.ravel())
    solver.solve()
    return {bins[n]: bins[solver.right_mate(n)] for n in range(len(bins))}


def _kept_bytes(instance: Instance, items: Sequence[int], runs: collections.Counter[int]) -> int:
    """Return the weights that stay loaded, in MiB, with at least 1 per replica that stays."""
    both = collections.Counter(items) & runs
    return sum(n * (1 + instance.items[item].load_bytes // 2**20) for item, n in both.items())


def _name(instance: Instance, slots: list[_Slot]) -> None:
    """Set replica ids: kept ids first, then ids of replicas that move, then lowest free numbers."""
    for slot in slots:
        slot.replica_id = slot.kept.replica_id if slot.kept is not None else ""
    taken = {slot.replica_id for slot in slots}
    running = instance.request.running
    leaving = by_key((p.model, p) for p in running if p.replica_id not in taken)
    unnamed = [slot for slot in slots if not slot.replica_id]
    for same_device in (True, False):
        for slot in (s for s in unnamed if not s.replica_id):
            there = leaving[instance.items[slot.item].candidate.model]
            device = instance.request.devices[slot.index].id
            mine = [p for p in there if not same_device or p.device_id == device]
            if mine:
                slot.replica_id = mine[0].replica_id
                there.remove(mine[0])
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
    """Return the cores of replicas on CPU devices; engines on GPUs still find their cores."""
    found: dict[str, tuple[int, ...]] = {}
    by_host = by_key((instance.request.devices[s.index].host, s) for s in slots)
    for _, here in sorted(by_host.items()):
        wishes = [_wish(instance, slot) for slot in here]
        if any(wish.exclusive for wish in wishes):
            found |= choose_cores(wishes)
    return found


def _wish(instance: Instance, slot: _Slot) -> CoreWish:
    device = instance.request.devices[slot.index]
    kept = slot.kept.partition if slot.kept is not None else None
    return CoreWish(
        name=slot.replica_id,
        count=instance.items[slot.item].cores if device.cores else 0,
        allowed=device.cores,
        exclusive=device.kind is DeviceKind.CPU,
        kept=kept.cores if isinstance(kept, CpuCores) else (),
        nodes=device.core_nodes,
    )


def _partition(instance: Instance, slot: _Slot, cores: Mapping[str, tuple[int, ...]]) -> Partition:
    it, device_id = instance.items[slot.item], instance.request.devices[slot.index].id
    candidate, memory = it.candidate, it.candidate.memory_bytes
    match candidate.size.mode:
        case SharingMode.MEMORY:
            return MemoryShare(device_id, memory)
        case SharingMode.MPS:
            percent, group = candidate.size.sm_percent, it.way[1]
            return MpsShare(device_id, memory, percent, isolation_group=group)
        case SharingMode.CORES:
            return CpuCores(device_id, memory, cores.get(slot.replica_id, ()))
        case SharingMode.MIG if slot.place is not None:
            name, start, size = slot.place
            return MigSlice(device_id, memory, name, start, size)
        case _:
            return WholeDevice(device_id, memory)


@dataclasses.dataclass(frozen=True, slots=True)
class SliceWish:
    """One replica's need for a GPU instance.

    Attributes:
        mig_profile: MIG profile of the instance.
        kept: the instance it runs in now; None for a replica that starts.
        load_bytes: bytes it has to load if it moves.
    """

    mig_profile: str
    kept: Place | None = None
    load_bytes: int = 0


def choose_slices(geometry: Geometry, wishes: list[SliceWish]) -> list[Place]:
    """Return a place for every wish, in order; as many loaded bytes as possible stay in place.

    Raises:
        ValueError: the wishes are no set that the geometry can hold.
    """
    counts = collections.Counter(wish.mig_profile for wish in wishes)
    running = [n for n, wish in enumerate(wishes) if wish.kept is not None]
    # All sets of replicas that may stay, the one with most bytes first. A GPU holds seven.
    sizes = range(len(running) + 1)
    subsets = [chosen for size in sizes for chosen in itertools.combinations(running, size)]
    subsets.sort(key=lambda chosen: (-sum(1 + wishes[n].load_bytes for n in chosen), chosen))
    for staying in subsets:
        kept = {n: place for n in staying if (place := wishes[n].kept) is not None}
        places = geometry.places(counts, tuple(kept.values()))
        if places is not None:
            fresh = [place for place in places if place not in kept.values()]
            left = {name: iter([p for p in fresh if p[0] == name]) for name in counts}
            return [
                kept[n] if n in kept else next(left[wish.mig_profile])
                for n, wish in enumerate(wishes)
            ]
    raise ValueError(f"the set {dict(counts)} cannot be placed")


def in_the_way(
    instance: Instance,
    contents: Contents,
    bins: Sequence[int],
    staying: Sequence[collections.Counter[int]],
) -> NDArray[np.int64]:
    """Return, by load and device, whether a running replica must end before the load can start.

    In mode MIG that depends on slices, which are chosen later; the answer is then 1.

    Args:
        contents: items on each abstract device.
        bins: equal devices, which are both the rows (loads) and the columns (real devices).
        staying: by position in `bins`, how many replicas of each item run and could stay.

    Returns:
        1 if a running replica must end first, else 0.
    """
    running: dict[str, list[Size]] = {instance.request.devices[b].id: [] for b in bins}
    for p in instance.request.running:
        if p.device_id in running:
            size = (way_of(p.partition), p.candidate.size.sm_percent, p.partition.memory_bytes)
            running[p.device_id].append(size)
    held = [*zip(staying, running.values(), strict=True)]
    loads = [contents[b] for b in bins]
    room = usable_bytes(instance.request.devices[bins[0]])
    # Of most pairs nothing stays: then sums decide, and a large fleet has many pairs.
    numbers = dict[object, int]()
    ours = np.array([_sums([_size(instance, i) for i in load], numbers) for load in loads])
    theirs = np.array([_sums(sizes, numbers) for _, sizes in held])
    alike = (ours[:, None, 0] == theirs[:, 0]) & (ours[:, None, 0] >= 0)
    fits = alike & (ours[:, None, 1:] + theirs[:, 1:] <= [100, room]).all(axis=2)
    fits[[not load for load in loads], :] = True  # nothing starts
    fits[:, [not sizes for _, sizes in held]] = True  # nothing leaves
    stays_at = by_key((item, n) for n, stay in enumerate(staying) for item in stay)
    for row, load in enumerate(loads):
        for column in {n for item in load for n in stays_at[item]}:
            fits[row, column] = _fits_beside(instance, load, held[column], room)
    return np.where(fits, 0, 1)


def _size(instance: Instance, item: int) -> Size:
    it = instance.items[item]
    return it.way, it.candidate.size.sm_percent, it.memory_bytes


def _sums(sizes: Sequence[Size], numbers: dict[object, int]) -> tuple[int, int, int]:
    """Return the number of the way in which a device is shared, below 0 if nothing may come beside
    these; their share of SMs, and their bytes."""
    way = sizes[0][0] if len({way for way, _, _ in sizes}) == 1 else None
    if way is None or way[0] in {SharingMode.MIG, SharingMode.WHOLE}:
        return -1, 0, 0
    percent = sum(share for _, share, _ in sizes) if way[0] is SharingMode.MPS else 0
    return numbers.setdefault(way, len(numbers)), percent, sum(size[2] for size in sizes)


def _fits_beside(instance: Instance, load: Sequence[int], there: Held, room: int) -> bool:
    staying, sizes = there
    fresh = list((collections.Counter(load) - staying).elements())
    if not fresh or len(sizes) == len(load) - len(fresh):
        return True  # nothing starts, or nothing leaves
    way, percent, memory = _sums([*sizes, *(_size(instance, item) for item in fresh)], {})
    return way >= 0 and percent <= 100 and memory <= room
