"""Draws plans side by side: what-ifs, the cost of each constraint, changes that make all fit."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.columns import Column, table_of
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
    as_it_is = [] if base is None else [("as it is", figures_of(base), None)]
    rows: list[_Row] = [*as_it_is, *((one.change, one.figures, one) for one in alternatives)]
    yield _table("what if" if title == "What if" else "", rows, wide=width >= 100)
    for one in alternatives:
        yield from _remarks(one)
    gains = any(one.gain and one.gain > 0 and not one.forbids for one in alternatives)
    if base is not None and gains and max(two_gaps(base.certificate)) > SAME:
        yield Text(f"  {UNPROVEN}", style="yellow")
    yield Text()


_Row = tuple[str, PlanFigures | None, Alternative | None]
"""The name of a plan, its figures if there is one, and the alternative that it is of."""


def _table(first: str, rows: Sequence[_Row], *, wide: bool) -> Table:
    def of(cell: Callable[[PlanFigures], str]) -> Callable[[_Row], str]:
        return lambda row: "-" if row[1] is None else cell(row[1])

    return table_of(
        rows,
        Column(first, lambda row: row[0]),
        Column(">devices", of(lambda f: str(f.devices_used)), whole=True),
        Column(">requests/s", of(_served), whole=True),
        Column(">price/h", of(lambda f: number(f.price_per_hour)), whole=True, shown=wide),
        Column(
            ">power",
            of(lambda f: watts(f.max_watts if f.draw_watts is None else f.draw_watts)),
            whole=True,
            shown=wide,
        ),
        Column(">spare", of(_spare), whole=True, shown=wide),
        Column("changes", _changes, whole=True),
        Column("against what is", _against),
    )


def _served(figures: PlanFigures) -> str:
    served = number(figures.served_req_per_s or figures.unrated_req_per_s)
    lacks = figures.served_share < 1 - MAY_LACK
    return f"{served} of {number(figures.wanted_req_per_s)}" if lacks else served


def _spare(figures: PlanFigures) -> str:
    return "-" if figures.least_headroom is None else f"{figures.least_headroom:+.0%}"


def _changes(row: _Row) -> str:
    _, figures, one = row
    if figures is None or one is None:
        return "-" if figures is None else ""
    return f"+{one.starts} ~{one.moves} -{one.stops}"


def _against(row: _Row) -> Text:
    _, figures, one = row
    if figures is None:
        return Text("no plan", style="red")
    text, style = ("", "") if one is None else against(one)
    return Text(text, style=style)


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
