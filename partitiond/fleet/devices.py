"""Reads the `[[devices]]` tables of a fleet file."""

import collections
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import (
    MIG_MEMORY_SLICES,
    Device,
    HardwareSpec,
    MigInstance,
    SharingMode,
)
from partitiond.core.mig.geometry import covered_slices
from partitiond.core.mig.text import places_of
from partitiond.core.units import Bytes, parse_bytes
from partitiond.fleet.lines_of_mistakes import Place
from partitiond.fleet.parts import Body

MAX_DEVICES: Final = 4096
"""Most devices in one file; more are a typing mistake."""

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$"


def size_of_text(value: object) -> object:
    """Return bytes from "2GiB" or a number; anything else is left to the field's own check."""
    return parse_bytes(value) if isinstance(value, str | int) else value


Size = Annotated[int, BeforeValidator(size_of_text)]


class DeviceTable(Body):
    """One device, or several alike."""

    hardware: str = Field(description="Its kind, as a100-80gb: a key of the catalog.")
    count: int = Field(1, ge=1, le=MAX_DEVICES, description="How many of them.")
    id: str | None = Field(None, pattern=_NAME, description="Its name in plans.")
    host: str | None = Field(
        None, pattern=_NAME, description="Its host; hosts are numbered if there are several."
    )
    rack: str = Field("", pattern=rf"{_NAME}|^$", description="Fault domain above the host.")
    per_host: int = Field(8, ge=1, le=64, description="Devices in one host.")
    cores: int = Field(
        16, ge=0, le=1024, description="Cores of the host for the engines of one device."
    )
    host_memory: Annotated[Size, Field(gt=0)] | None = Field(
        None, description="Memory for all engines of one host, as 512GiB; left out: no limit."
    )
    modes: tuple[SharingMode, ...] | None = Field(
        None, description="Ways to share it; left out: all that the hardware has."
    )
    memory: Annotated[Size, Field(gt=0)] | None = Field(
        None, description="Its memory, where that is not the hardware's."
    )
    reserved: Annotated[Size, Field(ge=0)] = Field(0, description="Memory that others hold.")
    price_per_hour: float = Field(1.0, gt=0, le=1e6, description="For min-price.")
    cordoned: bool = Field(False, description="Nothing is placed on it.")
    max_replicas: int | None = Field(None, ge=1, le=256, description="At most so many on it.")
    occupied_sm_percent: int = Field(
        0, ge=0, le=100, description="SMs that other programs hold under MPS."
    )
    occupied_slices: tuple[Annotated[int, Field(ge=0, lt=MIG_MEMORY_SLICES)], ...] = Field(
        (), description="Memory slices under GPU instances that are not ours."
    )
    mig_instances: tuple[str, ...] = Field(
        (), description='Idle GPU instances that exist and may be used, as "3g.40gb@4".'
    )
    mig_fixed: bool = Field(False, description="Only those: the GPU may not be repartitioned.")
    idle_watts: float | None = Field(None, ge=0, le=1e5, description="Its draw without load.")
    max_watts: float | None = Field(None, gt=0, le=1e5, description="Its power limit.")


def wrong_devices(
    numbered: Sequence[tuple[int, DeviceTable]],
) -> Iterator[tuple[Place, str, str]]:
    """Yield what the tables have wrong, for `mistakes`: unknown hardware, limits that contradict
    each other, an id given twice, two sizes of one host's memory.
    """
    tables = tuple(table for _, table in numbered)
    if sum(table.count for table in tables) > MAX_DEVICES:
        yield ("devices",), f"more than {MAX_DEVICES} devices", "Lower the counts."
        return
    sound = True
    for number, table in numbered:
        spec = HARDWARE.get(table.hardware)
        if spec is None:
            near = difflib.get_close_matches(table.hardware, HARDWARE, n=1)
            meant = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(HARDWARE)}."
            found = [(f"the hardware {table.hardware!r} is not known", meant)]
        else:
            found = list(_contradictions(table, spec))
        sound = sound and not found
        yield from ((("devices", number), what, cure) for what, cure in found)
    if not sound:
        return
    devices = devices_of(tables)
    counts = collections.Counter(device.id for device in devices)
    for name in sorted(name for name, count in counts.items() if count > 1):
        cure = "Give each table an `id` of its own, or none."
        yield ("devices",), f"the id {name!r} is given {counts[name]} times", cure
    sizes = {(host, size) for host, size in _told_memory(tables, devices)}
    hosts = collections.Counter(host for host, _ in sizes)
    for host in sorted(host for host, count in hosts.items() if count > 1):
        cure = "Give the same in every table of the host, or in one of them only."
        yield ("devices",), f"the host {host} has two different host_memory", cure


def devices_of(tables: tuple[DeviceTable, ...]) -> tuple[Device, ...]:
    """Return all devices of the tables, in order; `wrong_devices` has nothing against them."""
    found: list[Device] = []
    alike: collections.Counter[str] = collections.Counter()
    cores_given: collections.Counter[str] = collections.Counter()
    for number, table in enumerate(tables, start=1):
        spec = HARDWARE[table.hardware]
        for nth in range(table.count):
            host = _host(table, number, nth, alike[spec.key])
            first = cores_given[host]
            cores_given[host] += table.cores
            device_id = _id(table, nth, f"{spec.key}-{alike[spec.key]}")
            alike[spec.key] += 1
            cores = tuple(range(first, first + table.cores))
            found.append(_device(table, spec, device_id, host, cores))
    return tuple(found)


def host_memory_of(
    tables: tuple[DeviceTable, ...], devices: tuple[Device, ...]
) -> tuple[tuple[str, int], ...]:
    """Return the memory for engines by host, as far as the tables give it."""
    return tuple(sorted(set(_told_memory(tables, devices))))


def _told_memory(
    tables: tuple[DeviceTable, ...], devices: tuple[Device, ...]
) -> Iterator[tuple[str, int]]:
    said = (table.host_memory for table in tables for _ in range(table.count))
    for device, memory in zip(devices, said, strict=True):
        if memory is not None:
            yield device.host, memory


def _host(table: DeviceTable, number: int, nth: int, alike: int) -> str:
    if table.host is None:
        return f"node-{number}-{alike // table.per_host}"
    return table.host if table.count <= table.per_host else f"{table.host}-{nth // table.per_host}"


def _id(table: DeviceTable, nth: int, usual: str) -> str:
    if table.id is None:
        return usual
    return table.id if table.count == 1 else f"{table.id}-{nth}"


def _contradictions(table: DeviceTable, spec: HardwareSpec) -> Iterable[tuple[str, str]]:
    """Yield contradictions in the table, each with a hint on what to do about it."""
    allowed = _modes(table, spec)
    for mode in table.modes or ():
        if mode not in spec.modes:
            yield (
                f"{spec.key} does not allow the mode {mode}",
                f"It allows {', '.join(spec.modes)}.",
            )
        elif mode is SharingMode.MIG and mode not in allowed:
            yield (
                "MIG instances need the whole memory of the GPU, and `memory` is less",
                "Leave `memory` out, use `reserved` or `occupied_slices`, or leave mig out.",
            )
    yield from _mig_contradictions(table, spec)
    if table.occupied_slices and table.occupied_sm_percent:
        yield (
            "a GPU is cut by MIG or shared under MPS, not both",
            "Give occupied_slices or occupied_sm_percent.",
        )
    needed = {
        SharingMode.MIG: bool(table.occupied_slices),
        SharingMode.MPS: bool(table.occupied_sm_percent),
    }
    for mode, used in needed.items():
        if used and mode not in allowed:
            yield (
                f"other programs use the GPU in the mode {mode}, which is not among its modes",
                f"Add {mode} to `modes`, or take `cordoned = true`.",
            )
    most = table.max_watts if table.max_watts is not None else spec.tdp_watts
    if table.idle_watts is not None and most is not None and table.idle_watts > most:
        yield f"idle_watts is more than its limit of {most:g} W", "Give the draw without load."
    if table.reserved >= (table.memory or spec.memory_bytes):
        yield "reserved is all of the memory or more", "Take `cordoned = true` to leave it out."


def _mig_contradictions(table: DeviceTable, spec: HardwareSpec) -> Iterable[tuple[str, str]]:
    """Yield contradictions in the table's existing GPU instances, each with a hint."""
    if not table.mig_instances and not table.mig_fixed:
        return
    if SharingMode.MIG not in _modes(table, spec):
        yield "it has GPU instances, and mig is not among its modes", "Add mig to `modes`."
        return
    try:
        places = places_of(spec.mig_profiles, table.mig_instances)
    except SpecError as error:
        yield f"mig_instances: {error.message.rstrip('.')}", error.hint
        return
    if covered_slices(places) & set(table.occupied_slices):
        yield (
            "mig_instances and occupied_slices overlap",
            "Name idle instances in mig_instances, and slices in use in occupied_slices.",
        )


def _instances(table: DeviceTable, spec: HardwareSpec, device_id: str) -> tuple[MigInstance, ...]:
    memory = {profile.name: profile.memory_bytes for profile in spec.mig_profiles}
    return tuple(
        MigInstance(name, start, size, memory[name], uuid=f"MIG-{device_id}-{start}")
        for name, start, size in places_of(spec.mig_profiles, table.mig_instances)
    )


def _modes(table: DeviceTable, spec: HardwareSpec) -> tuple[SharingMode, ...]:
    """Return modes asked for, or all; without MIG if the GPU shows less memory than instances take,
    and MIG alone if there are GPU instances.
    """
    asked = table.modes or spec.modes
    largest = max((p.memory_bytes for p in spec.mig_profiles), default=0)
    short = table.memory is not None and table.memory < largest
    if table.mig_instances or table.mig_fixed:  # MIG is on: the GPU runs nothing else
        asked = tuple(m for m in asked if m is SharingMode.MIG)
    return tuple(m for m in asked if m in spec.modes and not (m is SharingMode.MIG and short))


def _device(
    table: DeviceTable, spec: HardwareSpec, device_id: str, host: str, cores: tuple[int, ...]
) -> Device:
    memory = Bytes(table.memory if table.memory is not None else spec.memory_bytes)
    return Device(
        id=device_id,
        kind=spec.kind,
        hardware=spec.key,
        name=spec.key,
        host=host,
        memory_bytes=memory,
        free_bytes=Bytes(max(0, memory - table.reserved)),
        cores=cores,
        sm_count=spec.sm_count,
        modes=_modes(table, spec),
        reserved_bytes=Bytes(table.reserved),
        price_per_hour=table.price_per_hour,
        rack=table.rack,
        cordoned=table.cordoned,
        max_replicas=table.max_replicas,
        occupied_sm_percent=table.occupied_sm_percent,
        occupied_slices=tuple(sorted(set(table.occupied_slices))),
        mig_instances=_instances(table, spec, device_id),
        mig_fixed=table.mig_fixed,
        idle_watts=table.idle_watts,
        max_watts=table.max_watts,
    )
