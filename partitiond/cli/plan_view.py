"""A plan drawn for a terminal: what it saves, what each model gets, every device to scale."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from partitiond.core.hardware import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.interference import level_of, mode_overhead_bytes, sigma
from partitiond.core.plan import (
    Certificate,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    PlanDiff,
    Status,
)
from partitiond.core.profile import ProfileKind
from partitiond.core.units import GIB, format_bytes

COLOURS = (
    "cyan", "magenta", "green", "yellow", "blue", "red",
    "bright_cyan", "bright_magenta", "bright_green", "bright_yellow", "bright_blue", "bright_red",
)  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_DRAWN_DEVICES = 16
"""Devices drawn one by one; a larger plan lists the rest in one line."""
NARROW = 100
"""Columns below which the model table leaves out what the devices below show as well."""
KIND_MARK = {
    ProfileKind.ESTIMATED: ("estimated", "yellow"),
    ProfileKind.TRANSFERRED: ("transferred", "yellow"),
    ProfileKind.MEASURED: ("measured", "green"),
}


SHORT_KIND = {"estimated": "est.", "transferred": "transf.", "measured": "meas."}


def render_plan(plan: Plan, diff: PlanDiff | None = None) -> RenderableType:
    """The plan as something rich can print, at any width from 60 columns.

    Args:
        plan: the plan.
        diff: what applying it changes, shown at the end.
    """
    return _PlanView(plan, diff)


@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """How one model is shown: a letter and a colour."""

    letter: str
    colour: str


@dataclasses.dataclass(frozen=True, slots=True)
class _PlanView:
    plan: Plan
    diff: PlanDiff | None

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw for the width there is."""
        width = min(options.max_width, 140)
        marks = _marks(self.plan)
        yield Text(f"Plan {self.plan.id}", style="bold").append(
            f"  {self.plan.certificate.objective.value}", style="dim"
        )
        yield Padding(_summary(self.plan, width), (1, 0))
        if self.plan.forecasts:
            yield _model_table(self.plan, marks, wide=width >= NARROW)
        yield from _devices(self.plan, marks, width)
        yield from _unplaced(self.plan)
        yield from _explanation(self.plan)
        if self.diff is not None:
            yield from _difference(self.diff)


def _marks(plan: Plan) -> dict[str, _Mark]:
    models = [forecast.model for forecast in plan.forecasts]
    models += [p.model for p in plan.placements if p.model not in models]
    return {
        model: _Mark(LETTERS[n % len(LETTERS)], COLOURS[n % len(COLOURS)])
        for n, model in enumerate(dict.fromkeys(models))
    }


def _summary(plan: Plan, width: int) -> RenderableType:
    """Bars: the baselines, this plan, the bound; then the certificate in words."""
    proof = plan.certificate
    if proof.objective is Objective.MIN_DEVICES:
        rows = [
            ("one model per device", proof.baseline_one_model_per_device, "dim"),
            ("first-fit decreasing", proof.baseline_first_fit, "dim"),
            ("this plan", proof.value, "bold green"),
            ("no plan needs less than", proof.bound, "cyan"),
        ]
    else:
        rows = [
            ("first-fit decreasing", proof.baseline_first_fit, "dim"),
            ("this plan", proof.value, "bold green"),
            ("no plan gives more than", proof.bound, "cyan"),
        ]
    shown = [(name, value, style) for name, value, style in rows if value is not None]
    most = max((value for _, value, _ in shown), default=0) or 1
    room = max(10, min(60, width - 34))
    lines = [
        Text(f"{name:>24} ", style="" if name == "this plan" else "dim")
        .append(f"{_number(value):>6} ", style=style)
        .append("█" * max(1 if value else 0, round(room * value / most)), style=style)
        for name, value, style in shown
    ]
    return Group(*lines, _certificate(proof, plan))


def _certificate(proof: Certificate, plan: Plan) -> Text:
    unit = "weighted requests/s"
    if proof.objective is Objective.MIN_DEVICES:
        same = all(d.price_per_hour == 1.0 for d in plan.devices)
        unit = "devices" if same else "price per hour"
    words = {
        Status.OPTIMAL: ("proven optimal", "green"),
        Status.FEASIBLE: (f"gap {proof.gap:.1%}, not proven optimal", "yellow"),
        Status.INFEASIBLE: ("infeasible", "red"),
        Status.OUT_OF_TIME: ("out of time", "red"),
    }
    text, style = words[proof.status]
    line = Text(f"{'in ' + unit:>24} ", style="dim").append(text, style=style)
    line.append(f" in {proof.seconds:.1f} s\n{'found by':>24} ", style="dim")
    return line.append(proof.method, style="dim")


def _model_table(plan: Plan, marks: dict[str, _Mark], *, wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("replicas", no_wrap=True)
    table.add_column("req/s", justify="right", no_wrap=True)
    table.add_column("wanted", justify="right", no_wrap=True)
    table.add_column("TTFT ms", justify="right", no_wrap=True)
    table.add_column("TPOT ms", justify="right", no_wrap=True)
    if wide:
        table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("profile" if wide else "from", no_wrap=True)
    for forecast in plan.forecasts:
        mine = [p for p in plan.placements if p.model == forecast.model]
        cells = _model_cells(forecast, mine, marks[forecast.model], wide=wide)
        table.add_row(*cells)
    table.caption = "replicas: count x partition /batch variant; TTFT and TPOT at p95 as planned"
    table.caption_justify = "left"
    return table


def _model_cells(
    forecast: ModelForecast, mine: Sequence[Placement], mark: _Mark, *, wide: bool
) -> list[RenderableType]:
    wanted = forecast.demand_req_per_s
    enough = wanted is None or forecast.capacity_req_per_s >= wanted * (1 - 1e-6)
    sizes = collections.Counter(
        (p.candidate.size.key, p.candidate.batch, p.candidate.variant) for p in mine
    )
    pieces = "\n".join(
        f"{n}x {key} /{batch} {variant}".rstrip()
        for (key, batch, variant), n in sorted(sizes.items())
    )
    kind = KIND_MARK[forecast.profile_kind] if forecast.profile_kind else ("-", "dim")
    good = forecast.replicas > 0 and enough
    cells: list[RenderableType] = [
        Text(mark.letter, style=f"bold {mark.colour}"),
        Text(forecast.model, style=mark.colour),
        Text(pieces or "none", style="" if pieces else "red"),
        Text(_number(forecast.capacity_req_per_s), style="green" if good else "red"),
        Text("max" if wanted is None else _number(wanted)),
        Text(_milliseconds(forecast.ttft_p95_seconds)),
        Text(_milliseconds(forecast.tpot_p95_seconds)),
    ]
    if wide:
        cells.append(Text(format_bytes(sum(p.partition.memory_bytes for p in mine))))
    shown = kind[0] if wide else SHORT_KIND.get(kind[0], kind[0])
    cells.append(Text(shown, style=kind[1]))
    return cells


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f}"


def _devices(plan: Plan, marks: dict[str, _Mark], width: int) -> Iterator[RenderableType]:
    used = [d for d in plan.devices if plan.on_device(d.id)]
    for device in used[:MAX_DRAWN_DEVICES]:
        yield from _device(device, plan.on_device(device.id), marks, width)
    left = len(used) - MAX_DRAWN_DEVICES
    if left > 0:
        yield Text(f"... and {left} more in use (see --json)\n", style="dim")
    empty = len(plan.devices) - len(used)
    if empty and plan.placements:
        yield Text(f"{empty} of {len(plan.devices)} devices stay empty\n", style="dim")


def _device(
    device: Device, here: tuple[Placement, ...], marks: dict[str, _Mark], width: int
) -> Iterator[RenderableType]:
    """A head line and one bar per resource that the mode divides."""
    mode = here[0].partition.mode
    busy, kappas = [p.candidate.busy for p in here], [p.candidate.kappa for p in here]
    level = level_of(mode, sigma(mode, busy, kappas=kappas)) or 1.0
    head = Text(device.id, style="bold", overflow="ellipsis", no_wrap=True)
    head.append(f"  {mode.value}, {_replicas(len(here))}", style="dim")
    if level > 1:
        head.append(f", slowed by {level - 1:.0%}", style="dim")
    yield head
    room = max(20, width - 29)
    here = tuple(sorted(here, key=lambda p: (marks[p.model].letter, p.replica_id)))
    memory = [(p, float(p.partition.memory_bytes)) for p in here]
    kept = headroom_bytes(device.memory_bytes) + mode_overhead_bytes(mode)
    kept += max(device.reserved_bytes, device.memory_bytes - device.free_bytes)
    used = sum(size for _, size in memory)
    label = f"{used / GIB:.3g} of {device.memory_bytes / GIB:.3g} GiB"
    yield _bar(_Bar("memory", memory, device.memory_bytes, kept, label), marks, room)
    if mode is SharingMode.MPS:
        shares = [(p, float(p.candidate.size.sm_percent)) for p in here]
        total = sum(size for _, size in shares)
        yield _bar(_Bar("SMs", shares, 100, 0, f"{total:.0f} %"), marks, room)
    if device.kind is DeviceKind.CPU:
        cores = [(p, float(p.candidate.size.cores)) for p in here]
        count = len(device.cores)
        total = sum(size for _, size in cores)
        yield _bar(_Bar("cores", cores, count, 0, f"{total:.0f} of {count}"), marks, room)
    yield Text()


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """One resource of one device: what its parts take of the total, and what must stay free."""

    name: str
    parts: Sequence[tuple[Placement, float]]
    total: float
    kept: float
    label: str


def _bar(bar: _Bar, marks: dict[str, _Mark], room: int) -> Text:
    """Parts to scale, each opened by its model's letter; then free, then kept free."""
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


def _details(placement: Placement) -> str:
    candidate = placement.candidate
    parts = [candidate.size.key, f"batch {candidate.batch}", candidate.variant]
    return ", ".join(part for part in parts if part)


def _unplaced(plan: Plan) -> Iterator[RenderableType]:
    for missing in plan.unplaced:
        yield Text("not served in full: ", style="bold red").append(missing.reason, style="")
        if missing.remedy:
            yield Text(f"  what would help: {missing.remedy}", style="yellow")
    if plan.unplaced:
        yield Text()


def _explanation(plan: Plan) -> Iterator[RenderableType]:
    told = {u.reason for u in plan.unplaced}
    lines = [line for line in plan.explanation if line not in told]
    if lines:
        yield Text("Why", style="bold")
        grid = Table.grid(padding=(0, 1))
        for line in lines:
            grid.add_row("  -", Text(line))
        yield grid
        yield Text()


def _difference(diff: PlanDiff) -> Iterator[RenderableType]:
    if diff.is_empty:
        yield Text("Nothing to change: this plan is applied already.", style="green")
        return
    yield Text("Changes", style="bold")
    rows = [("+", "start", p, "green") for p in diff.start]
    rows += [("~", "move", new, "yellow") for _, new in diff.move]
    rows += [("-", "stop", p, "red") for p in diff.stop]
    for sign, word, p, style in rows[:40]:
        yield Text(f"  {sign} {word} ", style=style).append(
            f"{p.replica_id} on {p.device_id} ({_details(p)})", style=""
        )
    if len(rows) > 40:
        yield Text(f"  ... and {len(rows) - 40} more", style="dim")
    if diff.keep:
        yield Text(f"  = keep {_replicas(len(diff.keep))} as they are", style="dim")
