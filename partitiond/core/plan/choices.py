"""Weighs the value of plans against their moves, and finds the prices of a move at which each wins.

If replicas already run, a better plan usually moves more of them. The price of a move says how much
better the plan has to be for that. This price is a matter of taste, so the report lists all plans
between which only the price decides.
"""

import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence

EQUAL = 1e-6
"""Values this close, as a share of the larger one, count as equal."""
MOST_CHOICES = 5
"""Choices that are reported; more of them would differ too little to choose between."""
EARLY_MOVES = 8
"""Number of moves as which stopping replicas early counts: at the default price as much as two
devices. Guessed: a few models serve less for a minute or two."""


class Against(enum.StrEnum):
    """What speaks against a plan beside its moves."""

    NEEDLESS_STOP = "needless-stop"
    """It ends a replica before the replacement can start, although a device is idle. That counts as
    `EARLY_MOVES` more moves."""
    MOVE_BUDGET = "move-budget"
    """It moves more than `planner.move_budget` allows, so it is made at no price of a move."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One of the plans that were found, by what it is worth and what it moves.

    Attributes:
        value: by itself, without the price of its moves, in the objective's unit.
        bound: no plan that moves no more is worth more by itself.
        moves: running replicas that move or restart and would not have to.
        chosen: whether it is the plan.
        wins_from, wins_to: of the plans found it is the best while `planner.move_price` lies
            between these. `wins_from` is None where it is the best at no price, `wins_to` where it
            is the best at all higher ones.
        against: what speaks against it beside its moves; None where nothing does.
    """

    value: float
    bound: float
    moves: int
    chosen: bool = False
    wins_from: float | None = None
    wins_to: float | None = None
    against: Against | None = None

    @property
    def proven(self) -> bool:
        """Whether it is proven that no plan that moves no more is worth more."""
        return math.isclose(self.value, self.bound, rel_tol=EQUAL, abs_tol=1e-9)

    @property
    def counted_moves(self) -> int:
        """Its moves, plus `EARLY_MOVES` if it stops replicas early."""
        return self.moves + (EARLY_MOVES if self.against is Against.NEEDLESS_STOP else 0)


def worth(choice: Choice, price: float, *, is_cost: bool) -> float:
    """Return the value of a choice at this price of a move; more is better.

    Args:
        choice: the plan.
        price: of one move, in the objective's unit if that is a cost, else a share of the value.
        is_cost: whether less of the value is better.
    """
    if is_cost:
        return -(choice.value + price * choice.counted_moves)
    return choice.value * (1 - price * choice.counted_moves)


def trade_off(found: Iterable[Choice], *, is_cost: bool, unit: float) -> tuple[Choice, ...]:
    """Return the choices that no other one beats in both value and moves, fewest moves first.

    The chosen one is always among them. If there are more than `MOST_CHOICES`, those that win at
    some price stay, and of these the ones at both ends and next to the chosen one.

    Args:
        found: all plans that were found; one of them is chosen.
        is_cost: whether less of the value is better.
        unit: cost of a move if `planner.move_price` is 1, in the unit of `price` of `worth`.
    """
    sign = -1.0 if is_cost else 1.0
    ordered = sorted(found, key=lambda c: (c.counted_moves, -sign * c.value, not c.chosen))
    front: list[Choice] = []
    best = best_allowed = -math.inf
    for one in ordered:
        value = one.value * sign
        forbidden = one.against is Against.MOVE_BUDGET
        most = best if forbidden else best_allowed
        if one.chosen or not front or value > most + EQUAL * max(1.0, abs(value)):
            front.append(one)
        best = max(best, value)
        best_allowed = best_allowed if forbidden else max(best_allowed, value)
    mine = next((c for c in front if c.chosen), None)
    if mine is not None:
        front = [c for c in front if c is mine or not _same(c, mine)]
    front.sort(key=lambda c: c.moves)
    allowed = [c for c in front if c.against is not Against.MOVE_BUDGET]
    told = [
        _with_prices(one, allowed, is_cost=is_cost, unit=unit) if one in allowed else one
        for one in front
    ]
    return tuple(_few(told))


def _same(one: Choice, other: Choice) -> bool:
    return one.moves == other.moves and math.isclose(one.value, other.value, rel_tol=EQUAL)


def _with_prices(one: Choice, front: Sequence[Choice], *, is_cost: bool, unit: float) -> Choice:
    """Return the choice with the prices between which no other is worth more; values are linear."""
    low, high = 0.0, math.inf
    lost = False
    for other in front:
        more = worth(other, 0.0, is_cost=is_cost) - worth(one, 0.0, is_cost=is_cost)
        steeper = _slope(other, is_cost=is_cost) - _slope(one, is_cost=is_cost)
        if steeper > 0:  # the other one loses more by the price
            low = max(low, more / steeper)
        elif steeper < 0:
            high = min(high, more / steeper)
        else:
            lost = lost or more > 0
    if lost or low > high or unit <= 0:
        return dataclasses.replace(one, wins_from=None, wins_to=None)
    top = None if math.isinf(high) else high / unit
    return dataclasses.replace(one, wins_from=low / unit, wins_to=top)


def _slope(one: Choice, *, is_cost: bool) -> float:
    """Return the value that a choice loses if a move costs 1."""
    return one.counted_moves * (1.0 if is_cost else one.value)


def _few(front: Sequence[Choice]) -> list[Choice]:
    if len(front) <= MOST_CHOICES:
        return list(front)
    ends = {0, len(front) - 1}
    mine = [n for n, c in enumerate(front) if c.chosen]
    # Choices that win come first, and of them those next to the chosen one.
    order = sorted(
        range(len(front)),
        key=lambda n: (
            n not in mine,
            n not in ends,
            front[n].wins_from is None,
            min((abs(n - m) for m in mine), default=0),
            n,
        ),
    )
    return [front[n] for n in sorted(order[:MOST_CHOICES])]


def runner_up(choices: Sequence[Choice], price: float, *, is_cost: bool) -> Choice | None:
    """Return the best other choice that would win at another price; None if there is none.

    Args:
        choices: as `trade_off` returns them.
        price, is_cost: as for `worth`.
    """
    mine = next((c for c in choices if c.chosen), None)
    others = [c for c in choices if c is not mine and c.wins_from is not None]
    if mine is None or not others:
        return None
    return max(others, key=lambda c: (worth(c, price, is_cost=is_cost), -c.moves))


def prices_told(choice: Choice) -> str:
    """Describe the prices of a move at which a choice is the best of those found, in words."""
    low, high = choice.wins_from, choice.wins_to
    if low is None:
        return "nothing"
    if high is None:
        return f"{low:.3g} or more"
    return f"{high:.3g} or less" if low <= 0 else f"between {low:.3g} and {high:.3g}"


def price_between(choice: Choice) -> float | None:
    """Return a price of a move at which a choice is the best of those found, and mostly the only
    best.
    """
    low, high = choice.wins_from, choice.wins_to
    if low is None:
        return None
    if low <= 0:
        return 0.0
    return float(f"{2 * low if high is None else (low + high) / 2:.3g}")


def bound_within(moves: int, own: float, priced: float, price: float, *, whole: bool) -> float:
    """Return a lower bound on the cost by itself of every plan with at most this many moves.

    A bound that includes the price of moves nearly holds without that price if moves are few.

    Args:
        moves: the most moves of a plan.
        own: no plan costs less by itself, whatever it moves.
        priced: no plan costs less including the price of its moves.
        price: of one move.
        whole: whether costs are whole numbers, as devices are.
    """
    few = priced - price * moves
    if whole:
        few = math.ceil(few - EQUAL * max(1.0, abs(few)))
    return max(own, few)
