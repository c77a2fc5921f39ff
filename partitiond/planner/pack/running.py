"""Turns the running replicas into a packing, the start of the plan with the fewest changes."""

import functools
from collections.abc import Iterable, Sequence

from partitiond.core.hardware.partition import CpuCores
from partitiond.core.plan.record import Placement
from partitiond.planner.model.types import EngineKey, Instance, engine_key
from partitiond.planner.pack.adding import add_if_harmless, put, spot_on
from partitiond.planner.pack.packing import Packing


@functools.lru_cache(maxsize=1)
def staying_items(instance: Instance) -> tuple[tuple[int, int, Placement], ...]:
    """Return the running replicas that could stay as they are: (device, item, placement).

    Excluded are replicas on a device that is gone, cordoned or may not hold them any more, and
    replicas that no candidate supports.
    """
    return _items_of(instance, instance.request.running)


def _items_of(
    instance: Instance, placements: Sequence[Placement]
) -> tuple[tuple[int, int, Placement], ...]:
    """Return the placements that the instance has an item for: (device, item, placement)."""
    devices, known = instance.request.devices, dict[int, dict[EngineKey, int]]()
    index_of = {device.id: i for i, device in enumerate(devices)}
    found = []
    for placement in placements:
        index, partition = index_of.get(placement.device_id), placement.partition
        if index is None or (
            isinstance(partition, CpuCores) and not {*partition.cores} <= {*devices[index].cores}
        ):
            continue
        fits = instance.groups[instance.group_of[index]].fits
        # Groups that differ only in their host share one `fits`, and there are many hosts.
        if id(fits) not in known:
            known[id(fits)] = _items_by_key(instance, fits)
        item = known[id(fits)].get(engine_key(placement.candidate, partition))
        if item is not None:
            found.append((index, item, placement))
    return tuple(found)


def _items_by_key(instance: Instance, fits: tuple[tuple[int, ...], ...]) -> dict[EngineKey, int]:
    found: dict[EngineKey, int] = {}
    for item in sorted({i for fit in fits for i in fit}):
        it = instance.items[item]
        found.setdefault(engine_key(it.candidate, it), item)
    return found


def running_packing(instance: Instance, *, company: bool = True) -> Packing:
    """Return a packing of the replicas that can stay, at higher levels if necessary.

    Devices keep their numbers: load i is device i of the request. Replicas that no longer fit are
    left out, and those without the models that they have to be near; `company=False` has these.
    """
    return _packed(instance, staying_items(instance), company=company)


def packing_of(instance: Instance, placements: Sequence[Placement]) -> Packing | None:
    """Return a packing of exactly these placements; None if the instance does not allow it."""
    packing = _packed(instance, _items_of(instance, placements))
    packing.settle()
    return packing if sum(packing.counts.values()) == len(placements) else None


def _packed(
    instance: Instance, items: Iterable[tuple[int, int, Placement]], *, company: bool = True
) -> Packing:
    packing, needs = Packing(instance), {need.model: need for need in instance.needs}

    def put_back(index: int, item: int) -> bool:
        need = needs.get(instance.items[item].model)
        if need is None or packing.counts[need.model] >= need.max_replicas:
            return False
        spot = spot_on(packing, index, item, company=company)
        if spot is not None:
            put(packing, spot)
        return spot is not None

    waiting = [(index, item) for index, item, _ in items]
    while waiting:
        # A replica that must be near one further down the list is tried again.
        refused = [pair for pair in waiting if not put_back(*pair)]
        if len(refused) == len(waiting):
            break
        waiting = refused
    return packing


def restore(packing: Packing, *, may_open: bool) -> None:
    """Put running replicas of models without a rate back if there is room for them."""
    unrated = {need.model: need for need in packing.instance.needs if not need.rated}
    here = {index: [*load.items] for index, load in enumerate(packing.loads)}
    for index, item, _ in staying_items(packing.instance):
        if item in here[index]:
            here[index].remove(item)
            continue
        need = unrated.get(packing.instance.items[item].model)
        if need is None or packing.counts[need.model] >= need.max_replicas:
            continue
        if packing.loads[index].items or may_open:
            add_if_harmless(packing, index, item)
