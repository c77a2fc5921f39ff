"""Draws the devices of a plan to scale: their replicas, how full they are, their MIG slices."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from partitiond.core.hardware.hosts import hosts_of
from partitiond.core.hardware.kinds import (
    Device,
    DeviceKind,
    SharingMode,
    headroom_bytes,
    short_device,
)
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import level_of, mode_overhead_bytes, sigma
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.units import GIB

COLOURS = (
    "cyan", "magenta", "green", "yellow", "blue", "red",
    "bright_cyan", "bright_magenta", "bright_green", "bright_yellow", "bright_blue", "bright_red",
)  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_DRAWN_DEVICES = 16
"""Most devices drawn one by one; of more, devices with the same content are drawn once."""
MIG_SLICES = 8
LABEL_WIDTH = 29
"""Columns beside a bar, for its name and its figure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """The letter and the colour of one model."""

    letter: str
    colour: str


def marks_of(plan: Plan) -> dict[str, Mark]:
    """A mark for each model; beyond 52 models, letters repeat."""
    models = [forecast.model for forecast in plan.forecasts]
    models += [p.model for p in plan.placements]
    return {
        model: Mark(LETTERS[n % len(LETTERS)], COLOURS[n % len(COLOURS)])
        for n, model in enumerate(dict.fromkeys(models))
    }


def draw_devices(
    plan: Plan, marks: dict[str, Mark], width: int, *, most: int | None = MAX_DRAWN_DEVICES
) -> Iterator[RenderableType]:
    """Draw the devices in use, or one for each content if there are many; then list empty ones.

    Args:
        plan, marks, width: the plan to draw, the marks of models, and the columns available.
        most: most drawings; None for one of every content.
    """
    here = by_key((placement.device_id, placement) for placement in plan.placements)
    used = [d for d in plan.devices if here[d.id]]
    alike: dict[object, list[Device]] = {}
    for device in used:
        content = tuple(sorted((p.model, p.candidate.size.key, p.candidate.batch)
                               for p in here[device.id]))  # fmt: skip
        key: object = device.id if len(used) <= MAX_DRAWN_DEVICES else (device.hardware, content)
        alike.setdefault(key, []).append(device)
    drawn = sorted(alike.values(), key=len, reverse=len(used) > MAX_DRAWN_DEVICES)
    shown = drawn if most is None else drawn[:most]
    several = len(hosts_of(plan.devices)) > 1
    for devices in shown:
        on = hosts_of(devices) if several else ()
        yield from _device(devices, tuple(here[devices[0].id]), marks, width, on)
    left = sum(len(devices) for devices in drawn[len(shown) :])
    if left > 0:
        yield Text(f"... and {left} more in use (plan --all draws them)\n", style="dim")
    if line := _empty_line(plan):
        yield Text(line, style="dim")


def _empty_line(plan: Plan) -> str:
    """A line with the number of empty devices of each kind; "" if all devices are used."""
    used = {p.device_id for p in plan.placements}
    empty = [d for d in plan.devices if d.id not in used]
    if not empty or not plan.placements:
        return ""
    kinds = collections.Counter(d.hardware for d in empty)
    which = ", ".join(f"{count}x {kind}" for kind, count in kinds.items())
    cordoned = sum(d.cordoned for d in empty)
    more = f"; {cordoned} of them cordoned" if cordoned else ""
    return f"{len(empty)} of {len(plan.devices)} devices stay empty: {which}{more}\n"


def _device(
    alike: Sequence[Device],
    here: tuple[Placement, ...],
    marks: dict[str, Mark],
    width: int,
    hosts: tuple[str, ...],
) -> Iterator[RenderableType]:
    """A head line and one bar per resource that the mode divides; `hosts` are named if given."""
    device, mode = alike[0], here[0].partition.mode
    yield _head(alike, here, mode, hosts)
    room = max(20, width - LABEL_WIDTH)
    here = tuple(sorted(here, key=lambda p: (marks[p.model].letter, p.replica_id)))
    if mode is SharingMode.MIG:
        yield _slices(device, here, marks, room)
    memory = [(p, float(p.partition.memory_bytes)) for p in here]
    used = sum(size for _, size in memory)
    label = f"{used / GIB:.3g} of {device.memory_bytes / GIB:.3g} GiB"
    if mode is not SharingMode.MIG:
        kept = headroom_bytes(device.memory_bytes) + mode_overhead_bytes(mode)
        kept += max(device.reserved_bytes, device.memory_bytes - device.free_bytes)
        yield _bar(_Bar("memory", memory, device.memory_bytes, kept, label), marks, room)
    if mode is SharingMode.MPS:
        shares = [(p, float(p.candidate.size.sm_percent)) for p in here]
        total = sum(size for _, size in shares)
        taken = device.occupied_sm_percent
        yield _bar(_Bar("SMs", shares, 100, taken, f"{total:.0f} %"), marks, room)
    if device.kind is DeviceKind.CPU:
        cores = [(p, float(p.candidate.size.cores)) for p in here]
        count, total = len(device.cores), sum(size for _, size in cores)
        yield _bar(_Bar("cores", cores, count, 0, f"{total:.0f} of {count}"), marks, room)
    yield Text()


def _head(
    alike: Sequence[Device],
    here: Sequence[Placement],
    mode: SharingMode,
    hosts: tuple[str, ...],
) -> Text:
    device = alike[0]
    busy, kappas = [p.candidate.busy for p in here], [p.candidate.kappa for p in here]
    level = level_of(mode, sigma(mode, busy, kappas=kappas)) or 1.0
    head = Text(short_device(device.id), style="bold", overflow="ellipsis", no_wrap=True)
    if len(alike) > 1:
        head.append(f" and {len(alike) - 1} alike", style="bold")
    if hosts:
        head.append(f" on {hosts[0]}" if len(hosts) == 1 else f" on {len(hosts)} hosts")
    head.append(f"  {mode.value}, {replicas(len(here))}", style="dim")
    if level > 1:
        head.append(f", slowed by {level - 1:.0%}", style="dim")
    if device.cordoned:
        head.append(", cordoned", style="red")
    return head


def replicas(count: int) -> str:
    """A number of replicas, in words."""
    return "1 replica" if count == 1 else f"{count} replicas"


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """One resource of one device: the parts taken of the total, and the part kept free."""

    name: str
    parts: Sequence[tuple[Placement, float]]
    total: float
    kept: float
    label: str


def _bar(bar: _Bar, marks: dict[str, Mark], room: int) -> Text:
    """Draw parts to scale, each after its model's letter; then the free and the kept part."""
    line = Text(f"{bar.name:>7} ", style="dim", no_wrap=True)
    at, drawn = 0.0, 0
    for placement, size in bar.parts:
        at += size
        end = min(room, max(drawn + 1, round(room * at / max(1, bar.total))))
        mark = marks[placement.model]
        if end > drawn:
            line.append(mark.letter, style=f"bold {mark.colour}")
            line.append("█" * (end - drawn - 1), style=mark.colour)
        drawn = max(drawn, end)
    shut = min(room - drawn, round(room * bar.kept / max(1, bar.total)))
    line.append("·" * (room - drawn - shut), style="dim")
    line.append("░" * shut, style="dim")
    return line.append(f" {bar.label}", style="dim")


def _slices(device: Device, here: Sequence[Placement], marks: dict[str, Mark], room: int) -> Text:
    """Draw the eight memory slices in place: each instance with its letter and MIG profile."""
    line = Text(f"{'slices':>7} ", style="dim", no_wrap=True)
    edges = [round(room * n / MIG_SLICES) for n in range(MIG_SLICES + 1)]
    starts = {
        p.partition.slice_start: (p, p.partition) for p in here if isinstance(p.partition, MigSlice)
    }
    at = 0
    while at < MIG_SLICES:
        if at in starts:
            placement, part = starts[at]
            end = min(MIG_SLICES, at + max(1, part.slice_count))
            _instance(line, part, marks[placement.model], edges[end] - edges[at])
        else:
            end = at + 1
            line.append(("░" if at in device.occupied_slices else "·") * (edges[end] - edges[at]))
        at = end
    used = sum(part.slice_count for _, part in starts.values())
    return line.append(f" {used} of {MIG_SLICES} slices", style="dim")


def _instance(line: Text, part: MigSlice, mark: Mark, width: int) -> None:
    name = f" {part.mig_profile} " if width >= len(part.mig_profile) + 4 else ""
    line.append(mark.letter, style=f"bold {mark.colour}")
    line.append(name, style=mark.colour)
    line.append("█" * max(0, width - 2 - len(name)), style=mark.colour)
    line.append("▌" if width > 1 else "", style=mark.colour)
