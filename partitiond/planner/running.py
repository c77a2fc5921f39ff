"""What runs now, as a packing: the start of the plan that changes least."""

from partitiond.core.partition import CpuCores
from partitiond.core.plan import Candidate, Placement
from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing
from partitiond.planner.share import add_if_harmless


def engine_key(candidate: Candidate, memory_bytes: int) -> tuple[object, ...]:
    """What an engine was started with, as far as a candidate decides it."""
    size = candidate.size
    form = (candidate.model, candidate.variant)
    return (form, size, candidate.batch, candidate.kv_cache_bytes, memory_bytes)


def staying_items(instance: Instance) -> list[tuple[int, int, Placement]]:
    """Running replicas that could stay as they are: (device, item, placement)."""
    index_of = {device.id: i for i, device in enumerate(instance.request.devices)}
    found = []
    for placement in instance.request.running:
        index = index_of.get(placement.device_id)
        if index is None or not _cores_exist(instance, index, placement):
            continue
        group = instance.groups[instance.group_of[index]]
        key = engine_key(placement.candidate, placement.partition.memory_bytes)
        for item in sorted({i for fit in group.fits for i in fit}):
            candidate = instance.items[item].candidate
            if engine_key(candidate, candidate.memory_bytes) == key:
                found.append((index, item, placement))
                break
    return found


def _cores_exist(instance: Instance, index: int, placement: Placement) -> bool:
    partition = placement.partition
    return not isinstance(partition, CpuCores) or set(partition.cores) <= set(
        instance.request.devices[index].cores
    )


def running_packing(instance: Instance, staying: list[tuple[int, int, Placement]]) -> Packing:
    """A packing of the replicas that can stay; those that fit no more are left out."""
    packing = Packing(instance)
    most = {need.model: need.max_replicas for need in instance.needs}
    for index, item, _ in staying:
        load, model = packing.loads[index], instance.items[item].model
        option = packing.best_option(index, [*load.items, item])
        if option is None or packing.counts[model] >= most[model]:
            continue
        if not packing.pools_allow(index, item):
            continue
        if load.option is not None and load.option != option:
            packing.rerun(index, option)
        packing.add(index, item, option)
    return packing


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
