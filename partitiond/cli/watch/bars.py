"""Draws devices in `partitiond top`: memory and compute as bars to scale, filled by replicas."""

import dataclasses
from collections.abc import Iterable, Sequence

from rich.text import Text

from partitiond.cli.plan.devices import COLOURS, LABEL_WIDTH, LETTERS, Mark
from partitiond.cli.watch.tables import plain
from partitiond.core.hardware.kinds import DeviceKind, short_device
from partitiond.core.units import GIB
from partitiond.core.views.overview import DeviceOverview, Overview, ReplicaOverview

LINES_OF_DEVICE = 3


def marks_of(overview: Overview) -> dict[str, Mark]:
    """A letter and a colour for each model, by name; beyond 52 models, letters repeat."""
    names = {m.name for m in overview.models} | {r.model for r in overview.replicas}
    return {
        name: Mark(LETTERS[n % len(LETTERS)], COLOURS[n % len(COLOURS)])
        for n, name in enumerate(sorted(names))
    }


def device_lines(
    shown: DeviceOverview,
    replicas: Iterable[ReplicaOverview],
    marks: dict[str, Mark],
    width: int,
    *,
    with_host: bool = False,
) -> list[Text]:
    """A head line, the bar of memory and the bar of compute; `with_host` names the host."""
    device = shown.device
    here = sorted(
        (r for r in replicas if r.device_id == device.id),
        key=lambda r: (not r.held_bytes, marks[r.model].letter, r.engine),
    )
    room = max(16, width - LABEL_WIDTH - 1)
    said = f"{shown.held_bytes / GIB:.3g} of {device.memory_bytes / GIB:.3g} GiB"
    if shown.used_bytes is not None:
        said += f", {shown.used_bytes / GIB:.3g} used"
    memory = _Bar(
        "memory",
        [(r, float(r.held_bytes or r.coming_bytes)) for r in here],
        float(device.memory_bytes),
        float(device.memory_bytes - shown.room_bytes),
        said,
    )
    compute = sum(r.compute_share for r in here if r.held_bytes)
    cpu = device.kind is DeviceKind.CPU
    label = f"{compute * len(device.cores):.3g} of {len(device.cores)}" if cpu else f"{compute:.0%}"
    shares = [(r, r.compute_share if r.held_bytes or r.coming_bytes else 0.0) for r in here]
    bars = (memory, _Bar("cores" if cpu else "SMs", shares, 1.0, 0.0, label))
    where = f" on {device.host}" if with_host else ""
    return [_head(shown, len(here), width, where), *(_drawn(bar, marks, room) for bar in bars)]


def _head(shown: DeviceOverview, count: int, width: int, where: str) -> Text:
    device = shown.device
    head = Text(short_device(device.id) + where, style="bold", no_wrap=True, overflow="ellipsis")
    said = [device.hardware, f"{count} engine{'' if count == 1 else 's'}"]
    if shown.coming_bytes:
        said.append(f"{shown.coming_bytes / GIB:.3g} GiB to come")
    if shown.busy_share is not None:
        said.append(f"{shown.busy_share:.0%} busy")
    if shown.watts is not None:
        said.append(f"{shown.watts:.0f} W")
    if shown.celsius is not None:
        said.append(f"{shown.celsius:.0f} °C")
    head.append("  " + ", ".join(said), style="dim")
    if shown.cordoned:
        head.append(f"  cordoned: {plain(shown.cordoned)}", style="red")
    head.truncate(width, overflow="ellipsis")
    return head


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """One resource: each engine's part of the total, and the part that must stay free.

    Attributes:
        parts: engines that run, then pending ones. Pending engines are drawn hollow, as far as
            there is room now: they may wait for room that running engines still hold.
    """

    name: str
    parts: Sequence[tuple[ReplicaOverview, float]]
    total: float
    kept: float
    label: str


def _drawn(bar: _Bar, marks: dict[str, Mark], room: int) -> Text:
    line = Text(f"{bar.name:>7} ", style="dim", no_wrap=True, overflow="ellipsis")
    scale = room / max(1e-9, bar.total)
    at, drawn = 0.0, 0
    for replica, size in bar.parts:
        at += size
        end = min(room, max(drawn + bool(size), round(at * scale)))
        mark = marks[replica.model]
        if end > drawn:
            line.append(mark.letter, style=f"bold {mark.colour}")
            body = "█" if replica.held_bytes else "▒"
            line.append(body * (end - drawn - 1), style=mark.colour)
        drawn = max(drawn, end)
    shut = max(0, min(room - drawn, round(bar.kept * scale)))
    line.append("·" * (room - drawn - shut) + "░" * shut, style="dim")
    return line.append(f" {bar.label}", style="dim")
