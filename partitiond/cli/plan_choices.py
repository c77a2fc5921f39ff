"""What moves buy: the plans between which the price of a move decides, as a table."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.plan_words import amount_text, number, unit_of
from partitiond.core.costs import device_cost
from partitiond.core.hardware import Device
from partitiond.core.plan import Certificate, Objective
from partitiond.core.plan_choices import Against, price_between, prices_told, runner_up, worth

_AGAINST: Final = {
    Against.NEEDLESS_STOP: "- (stops replicas early)",
    Against.MOVE_BUDGET: "- (over planner.move_budget)",
}


_WHY_NOT: Final = {
    Against.NEEDLESS_STOP: "A better one would stop replicas before others take their place, "
    "though a device is idle.",
    Against.MOVE_BUDGET: "A better one would move more than planner.move_budget allows.",
}


def choices_view(proof: Certificate, devices: Sequence[Device]) -> Iterator[RenderableType]:
    """The fewest moves first; then why this plan is the one, and how to get others."""
    if not proof.choices:
        return
    yield Text("What moves buy", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("moves", unit_of(proof.objective), "at least" if _cost(proof) else "at most"):
        table.add_column(name, justify="right")
    table.add_column("best of these while move_price is")
    for one in proof.choices:
        bound = f"{number(one.bound)} (proven)" if one.proven else number(one.bound)
        table.add_row(
            "this plan" if one.chosen else "",
            str(one.moves),
            number(one.value),
            bound,
            _AGAINST[one.against] if one.against else prices_told(one),
            style="bold" if one.chosen else "",
        )
    yield table
    for line in choices_told(proof, devices):
        yield Text(f"  {line}")
    yield Text()


def choices_told(proof: Certificate, devices: Sequence[Device]) -> Iterator[str]:
    """Why the plan is the one that is proposed, and how to get others."""
    cost, price = proof.objective.is_cost, proof.move_price
    mine = next(c for c in proof.choices if c.chosen)
    yield f"This plan is proposed because {_price_told(proof, devices)}."
    better = [c for c in proof.choices if c.against]
    better = [c for c in better if worth(c, price, is_cost=cost) > worth(mine, price, is_cost=cost)]
    for against in dict.fromkeys(c.against for c in better if c.against):
        yield _WHY_NOT[against]
    best = max(proof.choices, key=lambda c: worth(c, 0.0, is_cost=cost))
    other = runner_up(proof.choices, price, is_cost=cost)
    at = None if other is None else price_between(other)
    if at is not None:
        yield f"The next best: partitiond plan --move-price {at:g}"
    if best.value != mine.value and at != 0 and best.against is not Against.MOVE_BUDGET:
        yield "The best whatever it moves: partitiond plan --move-price 0"


def _price_told(proof: Certificate, devices: Sequence[Device]) -> str:
    """What a move costs in the objective's unit, and the setting that says so, in its own."""
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
