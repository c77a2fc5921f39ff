"""Checks the limits of devices and hosts, and the driver's rules of placement under MIG, anew."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import (
    Device,
    DeviceKind,
    MigInstance,
    MigProfile,
    SharingMode,
    headroom_bytes,
)
from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare
from partitiond.core.model.spec import Isolation
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import MAX_REPLICAS_PER_DEVICE, mode_overhead_bytes
from partitiond.core.plan.record import ModelDemand, Placement
from partitiond.core.units import format_bytes
from partitiond.planner.check.fault import Fault, Kind

_STARTS: Final[dict[tuple[int, int], frozenset[int]]] = {
    # (compute slices, memory slices): first memory slices, as `nvidia-smi mig -lgipp` lists them
    (1, 1): frozenset({0, 1, 2, 3, 4, 5, 6}),
    (1, 2): frozenset({0, 2, 4, 6}),
    (2, 2): frozenset({0, 2, 4}),
    (3, 4): frozenset({0, 4}),
    (4, 4): frozenset({0}),
    (7, 8): frozenset({0}),
}


def check_device(
    device: Device,
    here: tuple[Placement, ...],
    demands: Mapping[str, ModelDemand],
    level: float | None,
) -> Iterator[Fault]:
    """Yield violations on one device."""
    if not here:
        return
    for p in here:
        yield from _check_placement(device, p)
    modes = {p.partition.mode for p in here}
    if len(modes) > 1:
        several = ", ".join(sorted(modes))
        yield Fault(Kind.MODE, f"{device.id} is shared in several modes: {several}")
    mode = here[0].partition.mode
    yield from _check_numbers(device, here, mode)
    yield from _check_isolation(device, here, demands)
    if mode is SharingMode.MIG:
        yield from check_instances(device, here)
    else:
        yield from _check_memory(device, here, mode)
    yield from _check_compute(device, here)
    if level is None:
        told = f"{device.id} is shared by so many that no level of interference covers it"
        yield Fault(Kind.INTERFERENCE, told)


def _check_numbers(
    device: Device, here: tuple[Placement, ...], mode: SharingMode
) -> Iterator[Fault]:
    """Check that replicas may be on the device in this mode, and that there are not too many."""
    limit, count = MAX_REPLICAS_PER_DEVICE[mode], len(here)
    if count > limit:
        yield Fault(Kind.REPLICAS, f"{device.id} holds {count} replicas, {mode} allows {limit}")
    if device.cordoned:
        yield Fault(Kind.CORDONED, f"{device.id} is cordoned and holds {count} replicas")
    if device.max_replicas is not None and count > device.max_replicas:
        told = f"{device.id} holds {count} replicas, it allows {device.max_replicas}"
        yield Fault(Kind.REPLICAS, told)
    how = f"and cannot be used in mode {mode}"
    if device.occupied_slices and mode is not SharingMode.MIG:
        yield Fault(Kind.MODE, f"{device.id} is cut by MIG for others {how}")
    if device.occupied_sm_percent and mode is not SharingMode.MPS:
        yield Fault(Kind.MODE, f"{device.id} is used by others under MPS {how}")


def _check_isolation(
    device: Device, here: tuple[Placement, ...], demands: Mapping[str, ModelDemand]
) -> Iterator[Fault]:
    """Check that models get a device of their own, or hardware isolation, if they ask for it, and
    that all under MPS are of one isolation group."""
    crowded = len(here) > 1 or device.occupied_slices or device.occupied_sm_percent
    for p in here:
        isolation = demands[p.model].isolation
        if isolation is Isolation.DEVICE and crowded:
            told = f"{p.replica_id} wants a device of its own and shares {device.id}"
            yield Fault(Kind.ISOLATION, told)
        if isolation is Isolation.HARDWARE and crowded and not isinstance(p.partition, MigSlice):
            told = f"{p.replica_id} wants hardware isolation and shares {device.id}"
            yield Fault(Kind.ISOLATION, told)
    serves = [("what sleeps or is measured", device.mps_group)] * (device.mps_group is not None)
    for p, share in ((p, p.partition) for p in here if isinstance(p.partition, MpsShare)):
        group = demands[p.model].isolation_group
        serves = serves or [(p.model, group)]
        if group != serves[0][1]:
            yield Fault(
                Kind.GROUP,
                f"{p.model} and {serves[0][0]} share {device.id} under MPS and are of different "
                "isolation groups, and an MPS daemon serves one group",
            )
        if group != share.isolation_group:
            told = f"{p.replica_id} is not placed as of the isolation group of {p.model}"
            yield Fault(Kind.GROUP, told)


def _check_placement(device: Device, p: Placement) -> Iterator[Fault]:
    size, name = p.candidate.size, p.replica_id
    if p.candidate.model != p.model:
        yield Fault(Kind.HARDWARE, f"{name} serves {p.model} at a point of {p.candidate.model}")
    if p.candidate.hardware != device.hardware:
        told = f"{name} is profiled on {p.candidate.hardware}, {device.id} is another kind"
        yield Fault(Kind.HARDWARE, told)
    if p.partition.mode not in device.modes:
        told = f"{device.id} does not allow the mode {p.partition.mode} of {name}"
        yield Fault(Kind.MODE, told)
    if p.partition.mode is not size.mode:
        told = f"{name} is profiled on {size.key} but placed in mode {p.partition.mode}"
        yield Fault(Kind.MODE, told)
    if p.partition.memory_bytes < p.candidate.memory_bytes:
        need = format_bytes(p.candidate.memory_bytes)
        yield Fault(Kind.MEMORY, f"{name} needs {need}, its partition has less")
    match p.partition:
        case MpsShare(sm_percent=percent) if percent != size.sm_percent:
            told = f"{name} is profiled at {size.sm_percent} % of SMs, placed at {percent}"
            yield Fault(Kind.SMS, told)
        case CpuCores(cores=cores) if len(set(cores)) != size.cores:
            told = f"{name} is profiled on {size.cores} cores, placed on {len(set(cores))}"
            yield Fault(Kind.CORES, told)
        case MigSlice(mig_profile=profile) if profile != size.mig_profile:
            told = f"{name} is profiled on {size.mig_profile}, placed on {profile}"
            yield Fault(Kind.SLICES, told)
        case _:
            pass


def _check_memory(
    device: Device, here: tuple[Placement, ...], mode: SharingMode
) -> Iterator[Fault]:
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    usable -= headroom_bytes(device.memory_bytes)
    used = mode_overhead_bytes(mode) + sum(
        max(p.partition.memory_bytes, p.candidate.memory_bytes) for p in here
    )
    if used > usable:
        yield Fault(
            Kind.MEMORY,
            f"{device.id} needs {format_bytes(used)} for its replicas and has "
            f"{format_bytes(max(0, usable))} after headroom, reserved and foreign use",
            excess=used / max(1, usable) - 1,
        )


def _check_compute(device: Device, here: tuple[Placement, ...]) -> Iterator[Fault]:
    percent = sum(p.candidate.size.sm_percent for p in here if isinstance(p.partition, MpsShare))
    if percent and percent + device.occupied_sm_percent > 100:
        others = f" beside the {device.occupied_sm_percent} % of others"
        yield Fault(
            Kind.SMS,
            f"{device.id} gives away {percent} % of its SMs"
            f"{others if device.occupied_sm_percent else ''}",
            excess=(percent + device.occupied_sm_percent) / 100 - 1,
        )
    taken: dict[int, str] = {}
    for p in here:
        for core in p.partition.cores if isinstance(p.partition, CpuCores) else ():
            if core not in device.cores:
                told = f"{p.replica_id} is on core {core}, which {device.id} does not have"
                yield Fault(Kind.CORES, told)
            if core in taken:
                told = f"core {core} belongs to both {taken[core]} and {p.replica_id}"
                yield Fault(Kind.CORES, told)
            taken[core] = p.replica_id


def check_host(
    host: str, devices: Sequence[Device], placements: Sequence[Placement], memory: int | None
) -> Iterator[Fault]:
    """Yield violations of limits that the devices of a host share.

    Args:
        host: name of the host.
        devices: its devices.
        placements: replicas; those on other devices are ignored.
        memory: memory for engines on the host, if that is stated.
    """
    yield from _check_host_cores(host, devices, placements)
    yield from _check_host_memory(host, devices, placements, memory)


def _check_host_cores(
    host: str, devices: Sequence[Device], placements: Sequence[Placement]
) -> Iterator[Fault]:
    """Check host cores: GPU engines need some too; a core serves one engine, on whatever device.

    Each core that is wanted is matched to a core of its own. If one finds none, all cores that were
    looked at are too few for the engines that may use no others (Hall).
    """
    on = by_key((p.device_id, p) for p in placements)
    shares = (p.partition for d in devices for p in on[d.id])
    pinned = {core for share in shares if isinstance(share, CpuCores) for core in share.cores}
    gpus = [d for d in devices if d.kind is DeviceKind.GPU and d.cores]
    allowed = {d.id: {*d.cores} - pinned for d in gpus}
    needs = {d.id: sum(p.candidate.size.cores for p in on[d.id]) for d in gpus}
    owner: dict[int, str] = {}

    def matched(device: str, seen: set[int]) -> bool:
        for core in sorted(allowed[device]):
            if core in seen:
                continue
            seen.add(core)
            if core not in owner or matched(owner[core], seen):
                owner[core] = device
                return True
        return False

    for device in (d for d, need in needs.items() for _ in range(need)):
        seen = set[int]()
        if not matched(device, seen):
            crowded = [d for d, need in needs.items() if need and allowed[d] <= seen]
            yield Fault(
                Kind.HOST,
                f"engines on {', '.join(crowded)} of {host} need {sum(needs[d] for d in crowded)} "
                f"host cores, {len(seen)} are free for them",
            )
            return


def memory_of_host(devices: Sequence[Device], stated: int | None) -> int | None:
    """Return the bytes for engines on a host of these devices; None for no limit."""
    on_cpu = (
        min(d.memory_bytes - d.reserved_bytes, d.free_bytes) - headroom_bytes(d.memory_bytes)
        for d in devices
        if d.kind is DeviceKind.CPU
    )
    return min((*on_cpu, *(() if stated is None else (stated,))), default=None)


def _check_host_memory(
    host: str, devices: Sequence[Device], placements: Sequence[Placement], stated: int | None
) -> Iterator[Fault]:
    budget = memory_of_host(devices, stated)
    if budget is None:
        return
    on_cpu = {d.id for d in devices if d.kind is DeviceKind.CPU}
    here = {d.id for d in devices}
    used = sum(
        p.partition.memory_bytes if p.device_id in on_cpu else p.candidate.host_memory_bytes
        for p in placements
        if p.device_id in here
    )
    if used > budget:
        yield Fault(
            Kind.HOST,
            f"engines on {host} need {format_bytes(used)} of host memory, "
            f"{format_bytes(max(0, budget))} are there",
        )


def check_instances(device: Device, here: tuple[Placement, ...]) -> Iterator[Fault]:
    """Yield violations among the GPU instances of one device."""
    profiles = offered(device)
    cuts = [(p, p.partition) for p in here if isinstance(p.partition, MigSlice)]
    holder, numbers = _others(device, [cut for _, cut in cuts])
    for p, cut in cuts:
        profile = profiles.get(cut.mig_profile)
        if profile is None:
            told = f"{device.id} has no MIG profile {cut.mig_profile}, which {p.replica_id} needs"
            yield Fault(Kind.SLICES, told)
            continue
        numbers[profile.name] += 1
        there = _existing(device, cut)
        if device.mig_fixed and (there is None or there.busy or not there.uuid):
            told = f"{device.id} may not be cut anew, and {p.replica_id} has no idle instance there"
            yield Fault(Kind.FIXED, told)
        yield from _check_place(device, p, cut, profile, there)
        for number in range(cut.slice_start, cut.slice_start + cut.slice_count):
            if number in holder:
                yield Fault(
                    Kind.SLICES,
                    f"memory slice {number} of {device.id} belongs to both {holder[number]} "
                    f"and {p.replica_id}",
                )
            holder[number] = p.replica_id
    for name, count in numbers.items():
        most = profiles[name].max_instances if name in profiles else count
        if count > most:
            told = f"{device.id} has {count} instances of {name}, it can have {most}"
            yield Fault(Kind.SLICES, told)


def offered(device: Device) -> dict[str, MigProfile]:
    """Return the device's MIG profiles by name."""
    spec = HARDWARE.get(device.hardware)
    listed = device.mig_profiles or (spec.mig_profiles if spec is not None else ())
    return {p.name: p for p in listed}


def _others(
    device: Device, cuts: list[MigSlice]
) -> tuple[dict[int, str], collections.Counter[str]]:
    """Return memory slices held by others, and instances by MIG profile, beside the placements.

    An existing idle instance may be used as it is, even if another program made it.
    """
    used = [i for i in (_existing(device, cut) for cut in cuts) if i and i.uuid and not i.busy]
    holder = dict.fromkeys(device.occupied_slices, "others")
    for i in device.mig_instances:
        if i.busy:
            holder.update(dict.fromkeys(_slices(i), "others"))
    staying = [i for i in device.mig_instances if i not in used and set(_slices(i)) & set(holder)]
    for i in used:
        for number in _slices(i):
            holder.pop(number, None)
    return holder, collections.Counter(i.mig_profile for i in staying)


def _slices(instance: MigInstance) -> range:
    return range(instance.slice_start, instance.slice_start + instance.slice_count)


def _existing(device: Device, cut: MigSlice) -> MigInstance | None:
    """Return the instance that exists at exactly that place."""
    wanted = (cut.mig_profile, cut.slice_start, cut.slice_count)
    there = device.mig_instances
    return next((i for i in there if (i.mig_profile, i.slice_start, i.slice_count) == wanted), None)


def _check_place(
    device: Device, p: Placement, cut: MigSlice, profile: MigProfile, there: MigInstance | None
) -> Iterator[Fault]:
    """Check that the driver would make this instance there, and that the replica fits into it."""
    if cut.slice_count != profile.memory_slices:
        yield Fault(
            Kind.SLICES,
            f"{p.replica_id} covers {cut.slice_count} memory slices of {device.id}, "
            f"{profile.name} has {profile.memory_slices}",
        )
    starts = profile.starts or _STARTS.get((profile.compute_slices, profile.memory_slices), ())
    if there is None and cut.slice_start not in starts:
        told = f"an instance of {profile.name} cannot start at slice {cut.slice_start}"
        yield Fault(Kind.SLICES, told)
    memory = (
        there.memory_bytes if there is not None and there.memory_bytes else profile.memory_bytes
    )
    room = memory - headroom_bytes(memory)
    need = max(cut.memory_bytes, p.candidate.memory_bytes)
    if need > room:
        yield Fault(
            Kind.MEMORY,
            f"{p.replica_id} needs {format_bytes(need)}, an instance of {profile.name} has "
            f"{format_bytes(max(0, room))} after headroom",
            excess=need / max(1, room) - 1,
        )
