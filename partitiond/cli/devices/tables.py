"""Draws devices for people: a table of all, and everything about one."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import Column, bare_fields, table_of, time_text, titled
from partitiond.cli.tables import HALF_PAGE_ROWS, MANY_ROWS, core_list
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import xid_meaning
from partitiond.core.hardware.hosts import hosts_of
from partitiond.core.hardware.kinds import Device, DeviceKind, MigInstance, short_device
from partitiond.core.units import Bytes, format_bytes
from partitiond.core.views.lists import ReplicaView

Pair = tuple[str, str | Text]

UNCORDON: Final = "Once that is over: partitiond devices cordon {device} --lift"

_STYLES = {"fine": "green", "degraded": "yellow", "failed": "red", "cordoned": "red"}


def devices_table(
    devices: Sequence[Device],
    engines: Sequence[ReplicaView] | None = None,
    *,
    whole: bool = False,
) -> RenderableType:
    """Devices of all hosts; below the table, notes on the devices that are not fine.

    Args:
        devices: all of them.
        engines: running and pending engines of the devices; None if they are not known.
        whole: draw one line for each device; else very many devices have one line for all alike.
    """
    if not devices:
        return "No devices: enable the CPU ([cpu] enabled = true) or install an NVIDIA driver."
    there = engines or ()

    def held(device: Device) -> int:
        return sum(e.held_bytes for e in there if e.device_id == device.id)

    def coming(device: Device) -> int:
        return sum(e.coming_bytes for e in there if e.device_id == device.id)

    table = table_of(
        [(d,) for d in devices] if whole else equal_devices(devices),
        Column("device", _names, whole=True),
        Column("host", _hosts, shown=len(hosts_of(devices)) > 1),
        Column("hardware", lambda alike: alike[0].hardware),
        Column(">memory", lambda alike: format_bytes(alike[0].memory_bytes)),
        Column(">free", lambda alike: _range([d.free_bytes for d in alike])),
        Column(">held", lambda alike: _range([*map(held, alike)]), shown=engines is not None),
        Column(
            ">to come",
            lambda alike: _range([*map(coming, alike)]),
            shown=any(engine.coming_bytes for engine in there),
        ),
        Column("cores", lambda alike: "" if len(alike) > 1 else core_list(alike[0].cores)),
        Column("sharing", lambda alike: sharing_text(alike[0])),
        Column("state", lambda alike: device_state(alike[0])),
    )
    told = [(short_device(d.id), note) for d in devices for note in notes_on(d)]
    most = len(told) if whole or len(devices) <= MANY_ROWS else HALF_PAGE_ROWS
    notes = [Text(f"{name}: {note}") for name, note in told[:most]]
    if len(told) > most:
        notes.append(Text(f"... and {len(told) - most} more notes (--all)"))
    cordoned = [short_device(device.id) for device in devices if device.cordoned]
    if cordoned:
        notes.append(Text(UNCORDON.format(device=cordoned[0])))
    return Group(table, *notes) if notes else table


def equal_devices(devices: Sequence[Device]) -> list[tuple[Device, ...]]:
    """Each device alone, or, if they are more than a page, grouped by kind and state.

    The smallest groups come first, because they differ from most devices.
    """
    if len(devices) <= MANY_ROWS:
        return [(device,) for device in devices]
    groups: dict[object, list[Device]] = {}
    for device in devices:
        what = (device.hardware, device.memory_bytes, sharing_text(device))
        groups.setdefault((*what, str(device_state(device))), []).append(device)
    return sorted((tuple(group) for group in groups.values()), key=len)


def _names(alike: Sequence[Device]) -> str:
    more = f" and {len(alike) - 1} alike" if len(alike) > 1 else ""
    return short_device(alike[0].id) + more


def _hosts(devices: Sequence[Device]) -> str:
    names = hosts_of(devices)
    return names[0] if len(names) == 1 else f"{len(names)} hosts"


def _range(sizes: Sequence[int]) -> str:
    least, most = format_bytes(Bytes(min(sizes))), format_bytes(Bytes(max(sizes)))
    return least if least == most else f"{least} to {most}"


def sharing_text(device: Device) -> str:
    """The allowed modes; with MIG on, also the instances that exist."""
    modes = ", ".join(mode.value for mode in device.modes)
    if not device.mig_instances:
        return modes
    found = [instance.mig_profile for instance in device.mig_instances]
    counts = {name: found.count(name) for name in sorted(set(found))}
    return f"{modes}: " + ", ".join(f"{count}x {name}" for name, count in counts.items())


def device_state(device: Device) -> Text:
    """One word: cordoned, or the health; a CPU has no health."""
    word = device.health.value
    if device.cordoned and word != "failed":
        word = "cordoned"
    elif device.kind is DeviceKind.CPU:
        return Text("-")
    return Text(word, style=_STYLES.get(word, ""))


def notes_on(device: Device) -> Iterator[str]:
    """Notes that an operator should know about the device now."""
    if device.cordoned:
        yield f"cordoned: {device.cordon_reason or 'no reason is given'}"
    elif device.health_reason:
        yield device.health_reason
    if device.foreign:
        count = len(device.foreign)
        noun = "process" if count == 1 else "processes"
        held = format_bytes(Bytes(sum(p.used_bytes for p in device.foreign)))
        yield f"{count} foreign {noun} with {held}"
    if device.mig_fixed:
        yield "its MIG geometry cannot be changed from here; instances that exist are used"


def device_view(details: DeviceDetails) -> RenderableType:
    """Everything about one device; readings that it does not report are left out."""
    parts: list[RenderableType] = [
        titled(details.device.id, bare_fields(tuple(_what_it_is(details))))
    ]
    health = tuple(_health(details))
    if details.device.kind is DeviceKind.GPU:
        parts.append(titled("Health", bare_fields(health)))
    if details.xids:
        parts.append(titled("Xid messages", _xids(details)))
    if details.device.mig_instances:
        parts.append(titled("MIG instances", _instances(details.device)))
    if details.device.foreign:
        parts.append(titled("Foreign processes", _foreign(details.device)))
    return Group(*parts, Text())


def _what_it_is(details: DeviceDetails) -> Iterator[Pair]:
    device = details.device
    yield "name", device.name
    yield "hardware", device.hardware
    yield "driver", device.driver
    if details.architecture:
        yield "architecture", f"{details.architecture} {details.compute_capability}".strip()
    yield "memory", f"{format_bytes(device.memory_bytes)}, {format_bytes(device.free_bytes)} free"
    if details.ours_bytes:
        yield "our engines", format_bytes(Bytes(details.ours_bytes))
    if details.hidden_bytes:
        yield "hidden", f"{format_bytes(Bytes(details.hidden_bytes))} by processes not seen here"
    yield "cores", core_list(device.cores)
    yield "sharing", ", ".join(mode.value for mode in device.modes)
    if details.compute_mode:
        yield "compute mode", details.compute_mode
    if details.mig_mode:
        then = "" if details.mig_mode == details.mig_pending else f", {details.mig_pending} then"
        yield "MIG", details.mig_mode + (f"{then} with the next reset" if then else "")
    if details.persistence is not None:
        yield "persistence", "on" if details.persistence else "off"
    if details.pci_bus_id:
        yield "PCI", details.pci_bus_id
    if details.power_watts is not None:
        limit = details.power_limit_watts
        of = "" if limit is None else f" of {limit:.0f} W"
        yield "power", f"{details.power_watts:.0f} W{of}"
    if details.energy_joules is not None:
        yield "energy", f"{details.energy_joules / 3.6e6:.2f} kWh since the driver was loaded"


def _health(details: DeviceDetails) -> Iterator[Pair]:
    device, told = details.device, details.readings
    yield "state", device_state(device)
    for note in notes_on(device):
        yield "", note
    if told.temperature_c is not None:
        slow = "" if told.slowdown_c is None else f", slows down at {told.slowdown_c} °C"
        yield "temperature", f"{told.temperature_c} °C{slow}"
    if told.throttle:
        yield "throttled", ", ".join(told.throttle)
    if told.ecc_volatile is not None:
        life = "" if told.ecc_aggregate is None else f", {told.ecc_aggregate} in its life"
        yield "uncorrected errors", f"{told.ecc_volatile} since the driver was loaded{life}"
    if told.remapped_rows is not None:
        pending = ", more pending" if told.remap_pending else ""
        yield "remapped rows", f"{told.remapped_rows}{pending}"
    if told.retired_pages is not None:
        pending = ", more pending" if told.retirement_pending else ""
        yield "retired pages", f"{told.retired_pages}{pending}"


def _xids(details: DeviceDetails) -> RenderableType:
    return table_of(
        details.xids[-10:],
        Column("at", lambda event: time_text(event.at)),
        Column(">Xid", lambda event: str(event.code)),
        Column("what", lambda event: xid_meaning(event.code).words),
    )


def _instances(device: Device) -> RenderableType:
    def state(found: MigInstance) -> str:
        return "in others' use" if found.busy else "" if found.uuid else "no compute instance"

    return table_of(
        device.mig_instances,
        Column("MIG profile", lambda i: i.mig_profile),
        Column("slices", lambda i: f"{i.slice_start}-{i.slice_start + i.slice_count - 1}"),
        Column(">memory", lambda i: format_bytes(i.memory_bytes)),
        Column("state", state),
        Column("uuid", lambda i: i.uuid or "-", whole=True),
    )


def _foreign(device: Device) -> RenderableType:
    return table_of(
        device.foreign,
        Column(">pid", lambda p: str(p.pid)),
        Column("command", lambda p: p.name or "-"),
        Column(">memory", lambda p: format_bytes(p.used_bytes) if p.used_bytes else "-"),
    )
