"""What runs now, as a packing: the start of the plan that changes least."""

from partitiond.core.partition import CpuCores
from partitiond.core.plan import Placement
from partitiond.planner.instance import Group, Instance
from partitiond.planner.packing import Packing
from partitiond.planner.rules import lonely
from partitiond.planner.share import add_if_harmless
from partitiond.planner.types import EngineKey, engine_key


def staying_items(instance: Instance) -> list[tuple[int, int, Placement]]:
    """Running replicas that could stay as they are: (device, item, placement).

    Not among them: what is on a device that is gone, cordoned or may not hold it any more, and
    what no candidate speaks for.
    """
    index_of = {device.id: i for i, device in enumerate(instance.request.devices)}
    known: dict[int, dict[EngineKey, int]] = {}
    found = []
    for placement in instance.request.running:
        index = index_of.get(placement.device_id)
        if index is None or not _cores_exist(instance, index, placement):
            continue
        number = instance.group_of[index]
        if number not in known:
            known[number] = _items_by_key(instance, instance.groups[number])
        key = engine_key(placement.candidate, placement.partition.memory_bytes)
        item = known[number].get(key)
        if item is not None:
            found.append((index, item, placement))
    return found


def _items_by_key(instance: Instance, group: Group) -> dict[EngineKey, int]:
    found: dict[EngineKey, int] = {}
    for item in sorted({i for fit in group.fits for i in fit}):
        candidate = instance.items[item].candidate
        found.setdefault(engine_key(candidate, candidate.memory_bytes), item)
    return found


def _cores_exist(instance: Instance, index: int, placement: Placement) -> bool:
    partition = placement.partition
    return not isinstance(partition, CpuCores) or set(partition.cores) <= set(
        instance.request.devices[index].cores
    )


def running_packing(instance: Instance, staying: list[tuple[int, int, Placement]]) -> Packing:
    """A packing of the replicas that can stay; those that fit no more are left out.

    Devices keep their numbers: load i is device i of the request.
    """
    packing = Packing(instance)
    most = {need.model: need.max_replicas for need in instance.needs}
    waiting = [(index, item) for index, item, _ in staying]
    while waiting:
        # A replica that must be near to one further down the list gets its turn again.
        refused = [pair for pair in waiting if not put_back(packing, *pair, most)]
        if len(refused) == len(waiting):
            break
        waiting = refused
    return packing


def put_back(packing: Packing, index: int, item: int, most: dict[int, int]) -> bool:
    """Add a running replica where it runs, at a higher level if need be; False where it cannot be.

    Args:
        packing: to add to.
        index: the device.
        item: the replica's item.
        most: replicas of each model at most.
    """
    load, model = packing.loads[index], packing.instance.items[item].model
    if packing.counts.get(model, 0) >= most.get(model, 0):
        return False
    option = packing.best_option(index, [*load.items, item])
    if option is None or not packing.pools_allow(index, item):
        return False
    if lonely(packing, index, model):
        return False
    if load.option is not None and load.option != option:
        packing.rerun(index, option)
    packing.add(index, item, option)
    return True


def restore(packing: Packing, staying: list[tuple[int, int, Placement]], *, may_open: bool) -> None:
    """Put running replicas of models without a rate back where room is left."""
    unrated = {need.model: need for need in packing.instance.needs if not need.rated}
    here = {index: [*load.items] for index, load in enumerate(packing.loads)}
    for index, item, _ in staying:
        if item in here[index]:
            here[index].remove(item)
            continue
        need = unrated.get(packing.instance.items[item].model)
        if need is None or packing.counts[need.model] >= need.max_replicas:
            continue
        if packing.loads[index].items or may_open:
            add_if_harmless(packing, index, item)
