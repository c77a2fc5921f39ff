"""What moves buy: the plans between which the price of a move decides, as a table."""

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partitiond.cli.plan_words import number, unit_of
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


def choices_view(proof: Certificate) -> Iterator[RenderableType]:
    """The fewest moves first; then why this plan is the one, and how to get others."""
    if not proof.choices:
        return
    yield Text("What moves buy", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in ("moves", unit_of(proof.objective), "at least" if _cost(proof) else "at most"):
        table.add_column(name, justify="right")
    table.add_column("best of these while a move costs")
    for one in proof.choices:
        bound = number(one.bound / proof.priority_factor)
        bound += " (proven)" if one.proven else ""
        table.add_row(
            "this plan" if one.chosen else "",
            str(one.moves),
            number(one.value / proof.priority_factor),
            bound,
            _AGAINST[one.against] if one.against else prices_told(one),
            style="bold" if one.chosen else "",
        )
    yield table
    for line in choices_told(proof):
        yield Text(f"  {line}")
    yield Text()


def choices_told(proof: Certificate) -> Iterator[str]:
    """Why the plan is the one that is proposed, and how to get others."""
    cost, price = proof.objective.is_cost, proof.move_price
    mine = next(c for c in proof.choices if c.chosen)
    yield f"This plan is proposed because {_price_told(proof)} (planner.move_price)."
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


def _price_told(proof: Certificate) -> str:
    if not proof.move_price:
        return "moves cost nothing"
    if proof.objective is Objective.MIN_DEVICES:
        many = 1 / proof.move_price
        return f"a saved device has to be worth more than {number(many)} moves"
    each = number(proof.move_price) if _cost(proof) else f"{100 * proof.move_price:.3g} %"
    return f"a move costs {each}"


def _cost(proof: Certificate) -> bool:
    return proof.objective.is_cost
