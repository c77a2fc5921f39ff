"""Computes what devices and hosts have for replicas while profile jobs run. Pure.

A job holds its partition. On a GPU its engine takes host cores and host memory, too: as many cores
as an engine needs. Other cores that were idle when the job began may be shared with replicas that
are missing now. A job begins even if nothing of the host is idle: it then takes no more than
running replicas leave, so that a plan beside the job stops none of them for its sake.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from partitiond.controller.runtime.watching import engine_bytes
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.numbers.grouping import grouped
from partitiond.core.plan.record import Placement
from partitiond.core.replica.leases import (
    LEAST_HOST_CORES,
    Lease,
    cores_without,
    devices_beside_leases,
)
from partitiond.core.units import Bytes
from partitiond.planner.model.draw import ENGINE_HOST_BYTES


def devices_beside_jobs(
    devices: Sequence[Device], leases: Sequence[Lease], running: Sequence[Placement]
) -> tuple[Device, ...]:
    """Return the devices without what is lent, and without what jobs take of the hosts.

    Args:
        devices: all, with what replicas use counted as free.
        leases: of the jobs that run.
        running: placements that run or are to run.
    """
    if not leases:
        return tuple(devices)
    there = devices_beside_leases(devices, [lease.partition for lease in leases])
    left: dict[str, Device] = {}
    for host in grouped(there, lambda device: device.host).values():
        jobs = _jobs_on(host, leases)
        lent = _lent_cores(host, jobs, running)
        left |= {d.id: _without_memory(_without_cores(d, lent), host, jobs, running) for d in host}
    return tuple(left[device.id] for device in there)


def host_memory_beside_jobs(
    told: Sequence[tuple[str, int]],
    devices: Sequence[Device],
    leases: Sequence[Lease],
    running: Sequence[Placement],
) -> tuple[tuple[str, int], ...]:
    """Return the memory for engines by host, in bytes, without what jobs on its GPUs take.

    Args:
        told: how much there is, of hosts without a CPU device.
        devices: all.
        leases: of the jobs that run.
        running: placements that run or are to run.
    """
    found = []
    for name, total in told:
        host = [device for device in devices if device.host == name]
        taken = _host_bytes(_jobs_on(host, leases), host, total, running)
        found.append((name, total - taken))
    return tuple(found)


def _jobs_on(host: Collection[Device], leases: Iterable[Lease]) -> list[Lease]:
    ids = {device.id for device in host}
    return [lease for lease in leases if lease.partition.device_id in ids]


def _host_bytes(
    jobs: Iterable[Lease], host: Iterable[Device], total: int, running: Iterable[Placement]
) -> int:
    """Return the host memory that engines of jobs on GPUs take: at most what the total leaves."""
    on_cpu = {device.id: device.kind is DeviceKind.CPU for device in host}
    used = sum(
        p.partition.memory_bytes if on_cpu[p.device_id] else p.candidate.host_memory_bytes
        for p in running
        if p.device_id in on_cpu
    )
    on_gpus = sum(not on_cpu[lease.partition.device_id] for lease in jobs)
    return min(ENGINE_HOST_BYTES * on_gpus, max(0, total - used))


def _without_memory(
    device: Device, host: Iterable[Device], jobs: Iterable[Lease], running: Iterable[Placement]
) -> Device:
    """Return the CPU device, which stands for its host's memory, without what jobs on GPUs take."""
    if device.kind is not DeviceKind.CPU:
        return device
    taken = _host_bytes(jobs, host, engine_bytes(device), running)
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return dataclasses.replace(device, free_bytes=Bytes(usable - taken)) if taken else device


def _without_cores(device: Device, lent: Collection[int]) -> Device:
    if not lent:
        return device
    nodes = tuple(cores_without(node, lent) for node in device.core_nodes)
    cores = cores_without(device.cores, lent)
    return dataclasses.replace(device, cores=cores, core_nodes=nodes)


def _lent_cores(
    host: Sequence[Device], jobs: Iterable[Lease], running: Sequence[Placement]
) -> frozenset[int]:
    """Return the cores that the host's jobs have for themselves, as far as replicas leave them."""
    on_host = {device.id for device in host}
    needs = collections.Counter[str]()
    for placement in running:
        needs[placement.device_id] += placement.candidate.size.cores
    pinned = {
        core
        for p in running
        if p.device_id in on_host and isinstance(p.partition, CpuCores)
        for core in p.partition.cores
    }
    lent: frozenset[int] = frozenset()
    for lease in jobs:
        if lease.shares_cores:
            continue
        on_cpu = isinstance(lease.partition, CpuCores)
        more = lent | frozenset(lease.cores if on_cpu else lease.cores[:LEAST_HOST_CORES])
        if more.isdisjoint(pinned) and _leaves_enough(host, more, needs):
            lent = more
    return lent


def _leaves_enough(host: Iterable[Device], lent: Collection[int], needs: Mapping[str, int]) -> bool:
    """Whether devices with cores keep one without those lent, and enough for what runs."""
    left = {d.id: {*d.cores}.difference(lent) for d in host if d.cores}
    together = len(set().union(*left.values()))
    return all(len(cores) >= max(1, needs[name]) for name, cores in left.items()) and (
        together >= sum(needs[name] for name in left)
    )
