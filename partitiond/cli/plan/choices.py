"""Draws the plans between which the price of a move decides, as a table."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from partitiond.cli.columns import close_table
from partitiond.cli.plan.words import amount_text, number, unit_of
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.choices import (
    EARLY_MOVES,
    Against,
    Choice,
    price_between,
    prices_told,
    runner_up,
    worth,
)
from partitiond.core.plan.costs import device_cost
from partitiond.core.plan.record import Certificate, Objective

_EARLY: Final = (
    "stops replicas before others take their place, though a device is idle, which "
    f"counts as {EARLY_MOVES} more moves"
)


def choices_view(proof: Certificate, devices: Sequence[Device]) -> Iterator[RenderableType]:
    """The plans by moves, fewest first; then why this plan was chosen and how to get others."""
    if not proof.choices:
        return
    yield Text("What moves buy", style="bold")
    table = close_table()
    table.add_column("", no_wrap=True)
    for name in ("moves", unit_of(proof.objective), "at least" if _cost(proof) else "at most"):
        table.add_column(name, justify="right")
    table.add_column("best of these while move_price is")
    for one in proof.choices:
        bound = number(one.bound / proof.priority_factor)
        bound += " (proven)" if one.proven else ""
        table.add_row(
            "this plan" if one.chosen else "",
            str(one.moves),
            number(one.value / proof.priority_factor),
            bound,
            _when(one),
            style="bold" if one.chosen else "",
        )
    yield table
    for line in choices_told(proof, devices):
        yield Text(f"  {line}")
    yield Text()


def choices_told(proof: Certificate, devices: Sequence[Device]) -> Iterator[str]:
    """Say why this plan is proposed, and how to get others."""
    cost, price = proof.objective.is_cost, proof.move_price
    mine = next(c for c in proof.choices if c.chosen)
    least = worth(mine, price, is_cost=cost)
    if any(
        c.against is Against.MOVE_BUDGET and worth(c, price, is_cost=cost) > least
        for c in proof.choices
    ):
        yield "This plan is proposed because better ones move more than planner.move_budget allows."
    else:
        yield f"This plan is proposed because {_price_told(proof, devices)}."
    early = [c for c in proof.choices if c.against is Against.NEEDLESS_STOP]
    early = [dataclasses.replace(c, against=None) for c in early]
    if mine.against is Against.NEEDLESS_STOP:
        yield f"It {_EARLY}: none better was found that does not."
    elif any(worth(c, price, is_cost=cost) > least for c in early):
        yield f"A better one {_EARLY}."
    best = max(proof.choices, key=lambda c: worth(c, 0.0, is_cost=cost))
    other = runner_up(proof.choices, price, is_cost=cost)
    at = None if other is None else price_between(other)
    if at is not None:
        yield f"The next best: partitiond plan --move-price {at:g}"
    if best.value != mine.value and at != 0 and best.against is not Against.MOVE_BUDGET:
        yield "The best whatever it moves: partitiond plan --move-price 0"


def _when(one: Choice) -> str:
    """The move prices for which the plan is the best one, and what speaks against it."""
    if one.against is Against.MOVE_BUDGET:
        return "- (over planner.move_budget)"
    early = " (stops replicas early)" if one.against is Against.NEEDLESS_STOP else ""
    return f"{prices_told(one)}{early}"


def _price_told(proof: Certificate, devices: Sequence[Device]) -> str:
    """The cost of a move in the objective's unit, and the setting for it in its own unit."""
    price, objective = proof.move_price, proof.objective
    if not price:
        return "moves cost nothing (planner.move_price 0)"
    costs = [device_cost(device, objective) or 0.0 for device in devices]
    setting = price * len(costs) / math.fsum(costs) if _cost(proof) else 100 * price
    told = f"a move costs {amount_text(objective, price)}"
    if not _cost(proof):
        told = f"a move costs {setting:.3g} % of the value"
    elif objective is Objective.MIN_DEVICES and price < 1:
        told = f"a saved device may cost fewer than {number(1 / price)} moves"
    return f"{told} (planner.move_price {setting:.3g})"


def _cost(proof: Certificate) -> bool:
    return proof.objective.is_cost
