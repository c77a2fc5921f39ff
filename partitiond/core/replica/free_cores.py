"""Moves new replicas to free cores, so that old ones can serve until the new ones do. Pure.

A plan names the cores of each replica, and a replica whose batch, memory or release changes keeps
its cores. If as many other cores are free meanwhile, the new engine gets those instead, and the old
engine serves until the new one does. Shares of a GPU have no place of their own and need no move;
a MIG slice stays where the plan puts it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.plan.record import Placement, same_engine


def beside_what_runs(
    placements: Sequence[Placement], running: Sequence[Placement], devices: Sequence[Device]
) -> tuple[Placement, ...]:
    """Move placements that need cores of a replaced replica to free cores, if possible.

    Args:
        placements: of a plan.
        running: placements that run now.
        devices: of the plan.
    """
    known = {device.id: device for device in devices}
    old = {placement.replica_id: placement for placement in running}
    found = list(placements)
    for at, new in enumerate(found):
        before = old.get(new.replica_id)
        if before is not None and same_engine(before, new):
            continue
        moved = None
        if isinstance(new.partition, CpuCores):
            others = [p for p in found if p is not new]
            moved = _on_free_cores(new, [*running, *others], running, known)
        if moved is not None:
            found[at] = moved
    return tuple(found)


def _on_free_cores(
    new: Placement,
    holders: Sequence[Placement],
    running: Sequence[Placement],
    devices: Mapping[str, Device],
) -> Placement | None:
    """Move a placement to cores without a holder; None if that is not needed, or not possible."""
    partition, device = new.partition, devices.get(new.device_id)
    if not isinstance(partition, CpuCores) or device is None:
        return None
    if set(partition.cores).isdisjoint(_cores(running, new.device_id)):
        return None
    taken = _cores(holders, new.device_id)
    free = [core for core in device.cores if core not in taken]
    wanted = len(partition.cores)
    nodes = [[core for core in node if core in free] for node in device.core_nodes]
    chosen = next((cores for cores in (*nodes, free) if len(cores) >= wanted), None)
    if chosen is None:
        return None
    cores = tuple(sorted(chosen[:wanted]))
    return dataclasses.replace(new, partition=dataclasses.replace(partition, cores=cores))


def _cores(placements: Sequence[Placement], device_id: str) -> set[int]:
    return {
        core
        for p in placements
        if p.device_id == device_id and isinstance(p.partition, CpuCores)
        for core in p.partition.cores
    }
