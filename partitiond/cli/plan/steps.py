"""Draws the changes of applying a plan: in brief, or with the time and memory they take."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.columns import Column, table_of
from partitiond.cli.plan.devices import replicas
from partitiond.core.hardware.kinds import short_device
from partitiond.core.plan.diff import DeviceChange, DiffCost, DiffStep, StepKind
from partitiond.core.plan.record import Placement, PlanDiff
from partitiond.core.units import format_bytes, format_duration

MAX_STEPS = 40
FEW_STEPS = 6
"""Most steps shown of a plan that is shown as a page."""
MAX_DEVICES = 12
SIGNS = {
    StepKind.START: ("+", "green"),
    StepKind.MOVE: ("~", "yellow"),
    StepKind.STOP: ("-", "red"),
}


def brief_changes(diff: PlanDiff, *, most: int | None = MAX_STEPS) -> Iterator[RenderableType]:
    """One line for each replica that changes, at most `most` lines."""
    if diff.is_empty:
        yield _nothing()
        return
    yield Text("Changes", style="bold")
    rows = [("+", "start", p, "green") for p in diff.start]
    rows += [("~", "move", new, "yellow") for _, new in diff.move]
    rows += [("-", "stop", p, "red") for p in diff.stop]
    for sign, word, p, style in rows[:most]:
        yield Text(f"  {sign} {word} ", style=style).append(
            f"{p.replica_id} on {short_device(p.device_id)} ({_details(p)})", style=""
        )
    yield from _left(diff, len(rows), most)
    yield from _kept(diff)


def _nothing() -> Text:
    return Text("Nothing to change: this plan is applied already.", style="green")


def _kept(diff: PlanDiff) -> Iterator[RenderableType]:
    if diff.keep:
        yield Text(f"  = keep {replicas(len(diff.keep))} as they are", style="dim")


def _details(placement: Placement) -> str:
    candidate = placement.candidate
    parts = [candidate.size.key, f"batch {candidate.batch}", candidate.variant]
    return ", ".join(part for part in parts if part)


def changes_view(
    diff: PlanDiff, takes: DiffCost, width: int, *, most: int | None = MAX_STEPS
) -> Iterator[RenderableType]:
    """Starts, moves and stops with their time, at most `most`; then memory of devices meanwhile."""
    if diff.is_empty:
        yield _nothing()
        return
    yield Text("Changes", style="bold")
    yield _steps(diff, takes, most, wide=width >= 100)
    yield from _left(diff, len(takes.steps), most)
    yield from _kept(diff)
    yield from _on_the_way(takes, most)


def _left(diff: PlanDiff, there: int, most: int | None) -> Iterator[RenderableType]:
    """The number of changes that are not shown, and the number of all by kind."""
    if most is not None and there > most:
        counts = f"{len(diff.start)} starts, {len(diff.move)} moves, {len(diff.stop)} stops"
        yield Text(f"  ... and {there - most} more: in all {counts} (plan --all)", style="dim")


def _steps(diff: PlanDiff, takes: DiffCost, most: int | None, *, wide: bool) -> Table:
    new = {p.replica_id: p for p in (*diff.start, *(p for _, p in diff.move))}
    return table_of(
        takes.steps[:most],
        Column("", _sign, whole=True),
        Column("replica", lambda s: s.replica_id),
        Column("from", lambda s: short_device(s.from_device_id) or "-"),
        Column("to", _target),
        Column(
            "as",
            lambda s: _details(new[s.replica_id]) if s.replica_id in new else "",
            shown=wide,
        ),
        Column(">loads", _loads, whole=True, shown=wide),
        Column(">takes", _takes, whole=True),
    )


def _sign(step: DiffStep) -> Text:
    sign, style = SIGNS[step.kind]
    return Text(f"{sign} {step.kind.value}", style=style)


def _target(step: DiffStep) -> str:
    way = " (makes way)" if step.makes_way else ""
    return "-" if step.kind is StepKind.STOP else short_device(step.device_id) + way


def _loads(step: DiffStep) -> str:
    return "" if step.kind is StepKind.STOP else format_bytes(step.load_bytes)


def _takes(step: DiffStep) -> str:
    about = "" if step.measured else "~"
    stop = step.kind is StepKind.STOP
    return "drains" if stop else f"{about}{format_duration(step.seconds)}"


def _on_the_way(takes: DiffCost, most: int | None) -> Iterator[RenderableType]:
    starts = [s for s in takes.steps if s.kind is not StepKind.STOP]
    measured = sum(s.measured for s in starts)
    if starts:
        source = "all seen before" if measured == len(starts) else "~ estimated from bytes"
        if 0 < measured < len(starts):
            source = f"{measured} seen before, ~ the others estimated from bytes"
        yield Text(
            f"All serve after about {format_duration(takes.seconds)} ({source}): one start at a "
            "time on each device, devices side by side."
        )
    making = [s for s in starts if s.makes_way]
    if making:
        yield Text(
            f"{replicas(len(making))} can only start once something on its device has drained "
            "(makes way): its model serves less meanwhile.",
            style="yellow",
        )
    yield from outage_lines(takes, most=most)
    tight = sorted((d for d in takes.devices if d.extra_bytes), key=lambda d: -d.extra_bytes)
    if not tight:
        yield Text("No device needs more memory on the way than before or after.")
        return
    yield Text("Memory on the way, while old and new replicas both exist:")
    shown = tight if most is None else tight[: min(MAX_DEVICES, most)]
    for device in shown:
        yield Text(f"  {_device(device)}")
    if len(tight) > len(shown):
        yield Text(f"  ... and {len(tight) - len(shown)} devices more (plan --all)", style="dim")


def outage_lines(takes: DiffCost, *, most: int | None = MAX_STEPS) -> Iterator[RenderableType]:
    """One line for each model that serves nothing for a while."""
    shown = takes.outages[:most]
    for outage in shown:
        later = f", beginning after about {format_duration(outage.from_seconds)}"
        yield Text(
            f"{outage.model} has no replica for about {format_duration(outage.seconds)}"
            f"{later if outage.from_seconds else ''}: old and new do not fit side by side. "
            "Requests that can wait so long are held, the others get 503 with Retry-After.",
            style="red",
        )
    if len(takes.outages) > len(shown):
        yield Text(
            f"... and {len(takes.outages) - len(shown)} models more (plan --all)", style="red"
        )


def _device(change: DeviceChange) -> str:
    return (
        f"{short_device(change.device_id)}: +{format_bytes(change.extra_bytes)} at the peak "
        f"({format_bytes(change.before_bytes)} before, {format_bytes(change.after_bytes)} after, "
        f"{format_bytes(change.room_bytes)} there)"
    )
