"""Draws a plan for a terminal: what it saves, what models get, every device to scale."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from partitiond.cli.output import PIPE_WIDTH
from partitiond.cli.plan.devices import (
    MAX_DRAWN_DEVICES,
    Mark,
    draw_devices,
    marks_of,
    replicas,
)
from partitiond.cli.plan.steps import FEW_STEPS, MAX_STEPS, brief_changes, changes_view
from partitiond.cli.plan.words import (
    milliseconds,
    number,
    percent,
    proven,
    two_gaps,
    unit_of,
    watts,
)
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.answers import PlanFigures, figures_of
from partitiond.core.plan.costs import no_prices
from partitiond.core.plan.diff import DiffCost
from partitiond.core.plan.page import is_large, worst_served
from partitiond.core.plan.record import (
    MAY_LACK,
    Certificate,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    PlanDiff,
)
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import format_bytes

NARROW = 100
"""Terminal width below which the model table omits columns that the device drawings show."""
LINE = 200
"""Most characters of a sentence on a page, because some sentences list every model."""
KIND_MARK = {
    ProfileKind.ESTIMATED: ("estimated", "yellow"),
    ProfileKind.TRANSFERRED: ("transferred", "yellow"),
    ProfileKind.MEASURED: ("measured", "green"),
}
SHORT_KIND = {"estimated": "est.", "transferred": "transf.", "measured": "meas."}


@dataclasses.dataclass(frozen=True, slots=True)
class _Most:
    """Most models, drawings, models not served in full, and sentences; None for all of them."""

    models: int | None = None
    drawn: int | None = None
    missing: int | None = None
    sentences: int | None = None


ALL = _Most()
SMALL_PLAN = _Most(drawn=MAX_DRAWN_DEVICES, missing=40, sentences=40)
PAGE = _Most(models=6, drawn=3, missing=2, sentences=3)
"""Of a plan of hundreds of models or devices."""


def render_plan(
    plan: Plan,
    diff: PlanDiff | None = None,
    takes: DiffCost | None = None,
    *,
    everything: bool = False,
) -> RenderableType:
    """The plan as something rich can print, at any width from 60 columns.

    Args:
        plan: the plan.
        diff: what applying it changes, shown at the end.
        takes: the time and the memory of the changes; if given, the changes are shown in full.
        everything: show all models, devices, sentences and changes, even beyond a page.
    """
    return _PlanView(plan, diff, takes, everything)


@dataclasses.dataclass(frozen=True, slots=True)
class _PlanView:
    plan: Plan
    diff: PlanDiff | None
    takes: DiffCost | None
    everything: bool

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw for the available width."""
        width = min(options.max_width, 140)
        marks = marks_of(self.plan)
        yield Text(f"Plan {self.plan.id}", style="bold").append(
            f"  {self.plan.certificate.objective.value}", style="dim"
        )
        yield Padding(_summary(self.plan, width), (1, 0), expand=False)
        page = is_large(self.plan) and not self.everything
        most = ALL if self.everything else PAGE if page else SMALL_PLAN
        if self.plan.forecasts:
            lines = options.max_width < PIPE_WIDTH
            yield from _models(self.plan, marks, most.models, wide=width >= NARROW, lines=lines)
        yield from draw_devices(self.plan, marks, width, most=most.drawn)
        yield from _unplaced(self.plan, most.missing, cut=page)
        yield from _explanation(self.plan, most.sentences, cut=page)
        steps = None if self.everything else FEW_STEPS if page else MAX_STEPS
        if self.diff is not None and self.takes is not None:
            yield from changes_view(self.diff, self.takes, width, most=steps)
        elif self.diff is not None:
            yield from brief_changes(self.diff, most=steps)


def _summary(plan: Plan, width: int) -> RenderableType:
    """Draw bars for the baseline, this plan and the bound; then the certificate in words."""
    proof = plan.certificate
    rows: list[tuple[str, float | None, str]] = []
    for p in proof.by_priority:
        rows.append((f"priority {p.priority} in this plan", p.value, "bold green"))
        rows.append(("at most in the best plan", p.bound, "cyan"))
    if not proof.by_priority:
        rows.append(("this plan", proof.own_value, "bold green"))
        rows.append((_bound_words(proof), proof.own_bound, "cyan"))
    if proof.objective is Objective.MIN_DEVICES:
        rows.insert(0, ("one model per device", proof.baseline_one_model_per_device, "dim"))
    shown = [(name, value, style) for name, value, style in rows if value is not None]
    most = max((value for _, value, _ in shown), default=0) or 1
    room = max(10, min(60, width - 34))
    lines = [
        Text(f"{name:>24} ", style="" if name.endswith("this plan") else "dim")
        .append(f"{number(value):>6} ", style=style)
        .append("█" * max(1 if value > 0 else 0, round(room * value / most)), style=style)
        for name, value, style in shown
    ]
    return Group(*lines, _words(plan))


def _bound_words(proof: Certificate) -> str:
    if proof.objective.is_cost:
        return "no plan needs less than"
    return "no such plan gives more" if proof.among else "no plan gives more than"


def _words(plan: Plan) -> Table:
    """The unit of the bars, the proof, and what the plan uses and serves."""
    proof = plan.certificate
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=24, justify="right", style="dim")
    grid.add_column()
    unpriced = proof.objective is Objective.MIN_PRICE and no_prices(plan.devices)
    grid.add_row("in", "devices: none has a price" if unpriced else unit_of(proof.objective))
    if proof.among:
        grid.add_row("such plans are those", proof.among)
    grid.add_row("proof", _certificate(proof))
    if proof.move_price and proof.moves:
        grid.add_row("with its moves", _moves_words(proof))
    grid.add_row("in all", _totals(plan))
    return grid


def _certificate(proof: Certificate) -> Text:
    text, style = proven(proof)
    given_away, unproven = two_gaps(proof)
    line = Text(text, style=style).append(f" in {proof.seconds:.1f} s", style="default")
    if len(proof.by_priority) > 1:
        return line  # the sum weighs each priority 100 times the one below it
    if style != "green":
        line.append(f"; gap to the best plan found {percent(given_away)}, ", style="default")
        line.append(f"from that to the bound {percent(unproven)}", style="default")
    elif given_away > 0:
        line.append(f"; {percent(given_away)} given away to move less", style="default")
    if given_away > 0:
        line.append("; --move-price 0 moves freely", style="dim")
    return line


def _moves_words(proof: Certificate) -> str:
    moves = f"{proof.moves} move" if proof.moves == 1 else f"{proof.moves} moves"
    each = number(proof.move_price) if proof.objective.is_cost else percent(proof.move_price)
    if len(proof.by_priority) > 1:
        return f"{moves} at {each} each"
    value, bound = (number(v / proof.priority_factor) for v in (proof.value, proof.bound))
    such = "such plan" if proof.among else "plan"
    return f"{value}: {moves} at {each} each; no {such} is better than {bound}"


def _totals(plan: Plan) -> str:
    """What the plan uses and serves, with any objective."""
    f = figures_of(plan)
    parts = [f"{f.devices_used} of {f.devices} devices", replicas(f.replicas)]
    if f.wanted_req_per_s:
        parts.append(f"{number(f.served_req_per_s)} of {number(f.wanted_req_per_s)} requests/s")
    if not no_prices(plan.devices):
        parts.append(f"{number(f.price_per_hour)} per hour")
    return ", ".join([*parts, *_power(f)])


def _power(figures: PlanFigures) -> list[str]:
    if figures.draw_watts is not None and figures.replicas:
        return [f"{watts(figures.draw_watts)} drawn"]
    if figures.max_watts:
        return [f"at most {watts(figures.max_watts)}"]
    return []


def _models(
    plan: Plan, marks: dict[str, Mark], most: int | None, *, wide: bool, lines: bool
) -> Iterator[RenderableType]:
    """Draw the table of all models, or of the worst served."""
    shown = plan.forecasts if most is None else worst_served(plan.forecasts, most)
    left = len(plan.forecasts) - len(shown)
    if left:
        yield Text(f"The worst served of {len(plan.forecasts)} models", style="bold")
    yield _model_table(plan, shown, marks, wide=wide, lines=lines)
    if left:
        without = sum(f.replicas == 0 for f in plan.forecasts) - sum(f.replicas == 0 for f in shown)
        none = f", {without} of them without a replica" if without else ""
        yield Text(f"... and {left} more models{none} (plan --all)\n", style="dim")


def _model_table(
    plan: Plan,
    forecasts: Sequence[ModelForecast],
    marks: dict[str, Mark],
    *,
    wide: bool,
    lines: bool,
) -> Table:
    """Draw a row for each model; `lines`: each kind of its replicas has a line of its own."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("replicas", no_wrap=True)
    power = any(forecast.watts is not None for forecast in plan.forecasts)
    right = ["req/s", "wanted", "spare", "TTFT ms", "TPOT ms"]
    right += ["tok/s", "memory"] if wide else []
    right += ["W"] if power else []
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("profile" if wide else "from", no_wrap=True)
    mine = by_key((placement.model, placement) for placement in plan.placements)
    for forecast in forecasts:
        mark = marks[forecast.model]
        pieces = _pieces(mine[forecast.model], "\n" if lines else ", ")
        cells = _cells(forecast, mine[forecast.model], mark, pieces, wide=wide, power=power)
        table.add_row(*cells)
    table.caption = (
        "replicas: count x partition /batch variant; spare: capacity beyond what is wanted; "
        "TTFT and TPOT at p95 as planned"
    )
    table.caption_justify = "left"
    return table


def _cells(
    forecast: ModelForecast,
    mine: Sequence[Placement],
    mark: Mark,
    pieces: str,
    *,
    wide: bool,
    power: bool,
) -> list[RenderableType]:
    wanted = forecast.demand_req_per_s
    enough = wanted is None or forecast.capacity_req_per_s >= wanted * (1 - MAY_LACK)
    good = forecast.replicas > 0 and enough
    kind = KIND_MARK[forecast.profile_kind] if forecast.profile_kind else ("-", "dim")
    cells: list[RenderableType] = [
        Text(mark.letter, style=f"bold {mark.colour}"),
        Text(forecast.model, style=mark.colour),
        Text(pieces or "none", style="" if pieces else "red"),
        Text(number(forecast.capacity_req_per_s), style="green" if good else "red"),
        Text("max" if wanted is None else number(wanted)),
        Text(_spare(forecast), style="" if good else "red"),
        Text(milliseconds(forecast.ttft_p95_seconds)),
        Text(milliseconds(forecast.tpot_p95_seconds)),
    ]
    if wide:
        cells.append(Text(number(forecast.output_tokens_per_s)))
        cells.append(Text(format_bytes(sum(p.partition.memory_bytes for p in mine))))
    if power:
        cells.append(Text("-" if forecast.watts is None else f"{forecast.watts:.0f}"))
    shown = kind[0] if wide else SHORT_KIND.get(kind[0], kind[0])
    cells.append(Text(shown, style=kind[1]))
    return cells


def _pieces(mine: Sequence[Placement], between: str) -> str:
    sizes = collections.Counter(
        (p.candidate.size.key, p.candidate.batch, p.candidate.variant) for p in mine
    )
    return between.join(
        f"{n}x {key} /{batch} {variant}".rstrip()
        for (key, batch, variant), n in sorted(sizes.items())
    )


def _spare(forecast: ModelForecast) -> str:
    spare = forecast.headroom
    if spare is None:
        return "-"
    return f"{spare:+.0%}" if abs(spare) < 10 else f"x{spare + 1:.0f}"


def _unplaced(plan: Plan, most: int | None, *, cut: bool) -> Iterator[RenderableType]:
    """Tell what is missing; `cut`: the most missing first, in short."""
    missing = sorted(plan.unplaced, key=lambda u: -(u.missing_req_per_s or 0.0) if cut else 0.0)
    for one in missing[:most]:
        reason = _short(one.reason) if cut else one.reason
        yield Text("not served in full: ", style="bold red").append(reason, style="")
        if one.remedy and not cut:
            yield Text(f"  what would help: {one.remedy}", style="yellow")
    left = 0 if most is None else len(missing[most:])
    if left > 0:
        yield Text(f"... and {left} more models that lack something (plan --all)", style="red")
    if missing:
        yield Text()


def _explanation(plan: Plan, most: int | None, *, cut: bool) -> Iterator[RenderableType]:
    """Say why; `cut`: in short, and sentences about single models are only counted."""
    told, names = {u.reason for u in plan.unplaced}, {f.model for f in plan.forecasts}
    lines = [line for line in plan.explanation if line not in told]
    if not lines:
        return
    shown = lines
    if cut:
        shown = [_short(line) for line in lines if line.partition(":")[0] not in names]
    shown = shown[:most]
    yield Text("Why", style="bold")
    grid = Table.grid(padding=(0, 1))
    for line in shown:
        grid.add_row("  -", Text(line))
    if left := len(lines) - len(shown):
        grid.add_row("  -", Text(f"... and {left} more sentences (plan --all)"))
    yield grid
    yield Text()


def _short(line: str) -> str:
    return line if len(line) <= LINE else f"{line[: LINE - 1].rstrip(' ,')}…"
