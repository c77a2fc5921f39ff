"""Reads the `[[devices]]` tables of a fleet file.

[[devices]]
hardware = "a100-80gb"      # a key of the catalog
count = 8
per_host = 8                # devices in one host
host = "node-a"             # hosts are numbered if there are several
rack = "r1"                 # fault domain above the host
cores = 16                  # host cores for the engines of one device
host_memory = "512GiB"      # for all engines of one host; left out: no limit
modes = ["mps", "mig"]      # left out: all that the hardware has
price_per_hour = 1.8
idle_watts = 55
max_watts = 400

[[devices]]                 # one device, partly used by other programs
hardware = "a100-80gb"
id = "gpu-3"
occupied_slices = [0, 1, 2, 3]      # memory slices under GPU instances that are not ours
# mig_instances = ["3g.40gb@4"]     # idle GPU instances that exist, and may be used
# mig_fixed = true                  # only those: the GPU may not be repartitioned
# occupied_sm_percent = 30          # or SMs that other programs hold under MPS
# reserved = "2GiB", memory = "79GiB", max_replicas = 16, cordoned = true
"""

import collections
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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
from partitiond.core.mig.text import EMPTY, parse_geometry, places_for
from partitiond.core.units import Bytes, parse_bytes

MAX_DEVICES: Final = 4096
"""Most devices in one file; more are a typing mistake."""

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$"


def size_of_text(value: object) -> object:
    """Return bytes from "2GiB" or a number; anything else is left to the field's own check."""
    return parse_bytes(value) if isinstance(value, str | int) else value


Size = Annotated[int, BeforeValidator(size_of_text)]


class DeviceTable(BaseModel):
    """One table: one device, or several alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hardware: str
    count: int = Field(default=1, ge=1, le=MAX_DEVICES)
    id: str | None = Field(default=None, pattern=_NAME)
    host: str | None = Field(default=None, pattern=_NAME)
    rack: str = Field(default="", pattern=rf"{_NAME}|^$")
    per_host: int = Field(default=8, ge=1, le=64)
    cores: int = Field(default=16, ge=0, le=1024)
    host_memory: Annotated[Size, Field(gt=0)] | None = None
    modes: tuple[SharingMode, ...] | None = None
    memory: Annotated[Size, Field(gt=0)] | None = None
    reserved: Annotated[Size, Field(ge=0)] = 0
    price_per_hour: float = Field(default=1.0, gt=0, le=1e6)
    cordoned: bool = False
    max_replicas: int | None = Field(default=None, ge=1, le=256)
    occupied_sm_percent: int = Field(default=0, ge=0, le=100)
    occupied_slices: tuple[Annotated[int, Field(ge=0, lt=MIG_MEMORY_SLICES)], ...] = ()
    mig_instances: tuple[str, ...] = ()
    mig_fixed: bool = False
    idle_watts: float | None = Field(default=None, ge=0, le=1e5)
    max_watts: float | None = Field(default=None, gt=0, le=1e5)


def devices_of(tables: tuple[DeviceTable, ...], path: object) -> tuple[Device, ...]:
    """Return all devices of the tables, in order.

    Args:
        tables: the file's tables.
        path: the file's path, for messages.

    Raises:
        SpecError: unknown hardware, a limit that contradicts another, an id given twice.
    """
    if sum(table.count for table in tables) > MAX_DEVICES:
        raise SpecError(
            f"{path}: devices: more than {MAX_DEVICES} devices.", hint="Lower the counts."
        )
    found: list[Device] = []
    alike: collections.Counter[str] = collections.Counter()
    cores_given: collections.Counter[str] = collections.Counter()
    for number, table in enumerate(tables, start=1):
        place = f"{path}: devices, entry {number}"
        spec = _spec(table, place)
        for nth in range(table.count):
            host = _host(table, number, nth, alike[spec.key])
            first = cores_given[host]
            cores_given[host] += table.cores
            device_id = _id(table, nth, f"{spec.key}-{alike[spec.key]}")
            alike[spec.key] += 1
            cores = tuple(range(first, first + table.cores))
            found.append(_device(table, spec, device_id, host, cores))
    _refuse_twins(found, path)
    return tuple(found)


def host_memory_of(
    tables: tuple[DeviceTable, ...], devices: tuple[Device, ...], path: object
) -> tuple[tuple[str, int], ...]:
    """Return the memory for engines by host, as far as the tables give it.

    Raises:
        SpecError: two tables give one host different sizes.
    """
    found: dict[str, int] = {}
    said = (table.host_memory for table in tables for _ in range(table.count))
    for device, memory in zip(devices, said, strict=True):
        if memory is not None and found.setdefault(device.host, memory) != memory:
            raise SpecError(
                f"{path}: devices: the host {device.host} has two different host_memory.",
                hint="Give the same in every table of the host, or in one of them only.",
            )
    return tuple(sorted(found.items()))


def _host(table: DeviceTable, number: int, nth: int, alike: int) -> str:
    if table.host is None:
        return f"node-{number}-{alike // table.per_host}"
    return table.host if table.count <= table.per_host else f"{table.host}-{nth // table.per_host}"


def _id(table: DeviceTable, nth: int, usual: str) -> str:
    if table.id is None:
        return usual
    return table.id if table.count == 1 else f"{table.id}-{nth}"


def _refuse_twins(devices: list[Device], path: object) -> None:
    counts = collections.Counter(d.id for d in devices)
    twice = sorted(i for i, n in counts.items() if n > 1)
    if twice:
        raise SpecError(
            f"{path}: devices: the id {twice[0]!r} is given {counts[twice[0]]} times.",
            hint="Give each table an `id` of its own, or none.",
        )


def _spec(table: DeviceTable, place: str) -> HardwareSpec:
    """Return the kind of device, after checking the table's limits against it."""
    spec = HARDWARE.get(table.hardware)
    if spec is None:
        raise SpecError(
            f"{place}: the hardware {table.hardware!r} is not known.",
            hint=f"Use one of {', '.join(HARDWARE)}.",
        )
    for said, hint in _contradictions(table, spec):
        raise SpecError(f"{place}: {said}.", hint=hint)
    return spec


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
        asked = parse_geometry(",".join(table.mig_instances) or EMPTY)
        if any(start is None for _, start in asked):
            yield "an instance has no first slice", 'Write them as "3g.40gb@4".'
            return
        places = places_for(spec.mig_profiles, asked, ())
    except SpecError as error:
        yield f"mig_instances: {error.message.rstrip('.')}", error.hint
        return
    if covered_slices(places) & set(table.occupied_slices):
        yield (
            "mig_instances and occupied_slices overlap",
            "Name idle instances in mig_instances, and slices in use in occupied_slices.",
        )


def _instances(table: DeviceTable, spec: HardwareSpec, device_id: str) -> tuple[MigInstance, ...]:
    asked = parse_geometry(",".join(table.mig_instances) or EMPTY)
    memory = {profile.name: profile.memory_bytes for profile in spec.mig_profiles}
    return tuple(
        MigInstance(name, start, size, memory[name], uuid=f"MIG-{device_id}-{start}")
        for name, start, size in places_for(spec.mig_profiles, asked, ())
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
