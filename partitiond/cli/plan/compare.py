"""Draws plans side by side: what-ifs, the cost of each constraint, changes that make all fit."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.columns import new_table
from partitiond.cli.plan.words import amount_text, number, two_gaps, watts
from partitiond.core.plan.answers import SAME, Alternative, PlanFigures, Relaxations, figures_of
from partitiond.core.plan.record import MAY_LACK, Infeasible, Objective, Plan

MAX_REASONS = 2
"""Most reasons shown for models that an alternative cannot serve."""
MAX_NAMES = 8
NO_GAIN = (
    "it only forbids something, so its plan is one of what is as well: that was not found in time, "
    "or passed over for moves, outages or least numbers of replicas."
)
UNPROVEN = (
    "The plan as it is is not proven the best: what a change gains may be owed in part to another "
    "search, or to moves."
)


def what_if_view(
    base: Plan | None, alternatives: Sequence[Alternative], width: int, title: str = "What if"
) -> Iterator[RenderableType]:
    """The present plan and the alternatives, one line each; then remarks about them."""
    yield Text(title, style="bold")
    table = _table("what if" if title == "What if" else "", wide=width >= 100)
    if base is not None:
        table.add_row(*_cells("as it is", figures_of(base), None, wide=width >= 100))
    for one in alternatives:
        table.add_row(*_cells(one.change, one.figures, one, wide=width >= 100))
    yield table
    for one in alternatives:
        yield from _remarks(one)
    gains = any(one.gain and one.gain > 0 and not one.forbids for one in alternatives)
    if base is not None and gains and max(two_gaps(base.certificate)) > SAME:
        yield Text(f"  {UNPROVEN}", style="yellow")
    yield Text()


def _table(first: str, *, wide: bool) -> Table:
    table = new_table()
    table.add_column(first, overflow="fold", min_width=12)
    table.add_column("devices", justify="right", no_wrap=True)
    table.add_column("requests/s", justify="right", no_wrap=True)
    if wide:
        table.add_column("price/h", justify="right", no_wrap=True)
        table.add_column("power", justify="right", no_wrap=True)
        table.add_column("spare", justify="right", no_wrap=True)
    table.add_column("changes", no_wrap=True)
    table.add_column("against what is")
    return table


def _cells(
    name: str, figures: PlanFigures | None, one: Alternative | None, *, wide: bool
) -> list[RenderableType]:
    blank = 6 if wide else 3
    if figures is None:
        return [Text(name), *([Text("-")] * blank), Text("no plan", style="red")]
    served = number(figures.served_req_per_s or figures.unrated_req_per_s)
    if figures.served_share < 1 - MAY_LACK:
        served += f" of {number(figures.wanted_req_per_s)}"
    cells: list[RenderableType] = [Text(name), Text(str(figures.devices_used)), Text(served)]
    if wide:
        power = figures.draw_watts if figures.draw_watts is not None else figures.max_watts
        spare = figures.least_headroom
        cells += [
            Text(number(figures.price_per_hour)),
            Text(watts(power)),
            Text("-" if spare is None else f"{spare:+.0%}"),
        ]
    changes = "" if one is None else f"+{one.starts} ~{one.moves} -{one.stops}"
    text, style = ("", "") if one is None else against(one)
    return [*cells, Text(changes), Text(text, style=style)]


def against(one: Alternative) -> tuple[str, str]:
    """An alternative compared to the present plan, in words, and the colour of the words."""
    figures = one.figures
    if figures is None:
        return "no plan", "red"
    lacking = f"not all is served: {_names(figures.unplaced)}" if figures.unplaced else ""
    if one.gain is None:
        cost = f": {amount_text(figures.objective, figures.value)}"
        text = lacking or f"all is served{cost if figures.objective.is_cost else ''}"
        lacking, style = "", "red" if lacking else "green"
    elif one.gain == 0:
        text, style = "the same", "dim"
    else:
        text, style = _gain(figures.objective, one.gain), "green" if one.gain > 0 else "red"
        text += "" if one.priority is None else f" at priority {one.priority}"
    if one.is_no_gain:
        text, style = f"{text}, also without the change", "yellow"
    if one.gain_at_most is not None:
        text += f" ({_at_best(figures.objective, one.gain_at_most)})"
    return f"{text}; {lacking}" if lacking else text, style


def _gain(objective: Objective, gain: float) -> str:
    amount = amount_text(objective, abs(gain))
    if objective.is_cost:
        return f"saves {amount}" if gain > 0 else f"costs {amount} more"
    return f"gains {amount}" if gain > 0 else f"loses {amount}"


def _at_best(objective: Objective, most: float) -> str:
    """The most that may be gained, as far as the proofs leave it open."""
    amount = number(abs(most))
    if most == 0:
        return "at best the same"
    if objective.is_cost:
        return f"at best saves {amount}" if most > 0 else f"at least {amount}"
    return f"at best gains {amount}" if most > 0 else f"at least {amount}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _remarks(one: Alternative) -> Iterator[RenderableType]:
    lines = [one.note] if one.note else []
    lines += [NO_GAIN] if one.is_no_gain else []
    if one.infeasible is not None:
        lines += one.infeasible.reasons[:MAX_REASONS]
    if one.plan is not None:
        lines += [u.reason for u in one.plan.unplaced[:MAX_REASONS]]
    for line in lines:
        yield Text(f"  {one.change}: ", style="dim").append(line, style="default")


# --- relaxations -------------------------------------------------------------------------------


def relaxations_view(found: Relaxations, width: int) -> Iterator[RenderableType]:
    """The smallest changes with which all demands fit."""
    if found.cheapest:
        yield from what_if_view(None, found.cheapest, width, "With any one of these all is served")
    else:
        yield Text("No single rule dropped or devices added were found to serve all of it.\n")
    if found.note:
        yield Text(f"{found.note.capitalize()}.\n")


def infeasible_view(reasons: Infeasible) -> Iterator[RenderableType]:
    """Why there is no plan at all."""
    yield Text("There is no plan that serves anything of what was asked:", style="bold red")
    for reason in reasons.reasons:
        yield Text(f"  - {reason}")
    for remedy in reasons.remedies:
        yield Text(f"  what would help: {remedy}", style="yellow")
