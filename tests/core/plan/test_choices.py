"""Among the plans that were found, only the price of a move decides."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.plan import choices as pricing
from partitiond.core.plan.choices import MOST_CHOICES, Choice, runner_up, trade_off, worth


def found(*pairs: tuple[float, int], chosen: int = 0) -> list[Choice]:
    """Choices of these values and moves."""
    return [Choice(value, 0.0, moves, chosen=n == chosen) for n, (value, moves) in enumerate(pairs)]


FAR = Choice(9, 8, 1, against=pricing.Against.MOVE_BUDGET)
EARLY = Choice(9, 8, 1, against=pricing.Against.NEEDLESS_STOP)
LAST = pytest.approx(1 / (1 + pricing.EARLY_MOVES - 2))
ALONE = pytest.approx(2 / (1 + pricing.EARLY_MOVES))
NEARLY = pytest.approx(0.2)
SHARE = pytest.approx(100 * 10 / (110 * 20))
THREE = found((31, 0), (30, 4), (28, 14))
Told = tuple[float, int, Any, Any]


@pytest.mark.parametrize(
    ("plans", "is_cost", "unit", "shown"),
    [
        (THREE, True, 1.0, [(31, 0, 0.25, None), (30, 4, 0.2, 0.25), (28, 14, 0.0, 0.2)]),
        # What is worse and moves more is not told; what lies between two better ones never wins.
        (found((31, 0), (31, 3), (30, 4), (30, 4), (32, 9)), True, 1.0,
         [(31, 0, 0.25, None), (30, 4, 0.0, 0.25)]),
        (found((10, 0), (9, 8), (5, 10)), True, 1.0,
         [(10, 0, 0.5, None), (9, 8, None, None), (5, 10, 0.0, 0.5)]),
        # The plan itself is told even where another one is better.
        (found((12, 5), (11, 0), (10, 5)), True, 1.0,
         [(11, 0, 0.2, None), (10, 5, 0.0, 0.2), (12, 5, None, None)]),
        # And where another one is no better by more than rounding: that one is not told beside it.
        (found((10 + 1e-9, 5), (10, 5), (11, 0)), True, 1.0,
         [(11, 0, NEARLY, None), (10 + 1e-9, 5, 0.0, NEARLY)]),
        # A move costs a quarter of a device of 8 per hour where `planner.move_price` is 0.25; of
        # goodput it takes a share.
        (found((80, 0), (72, 2)), True, 8.0, [(80, 0, 0.5, None), (72, 2, 0.0, 0.5)]),
        (found((100, 0), (110, 20)), False, 0.01, [(100, 0, SHARE, None), (110, 20, 0.0, SHARE)]),
        # What is not made at any price hides nothing and wins nowhere.
        ([*found((11, 0), (10, 2)), FAR], True, 1.0,
         [(11, 0, 0.5, None), (9, 1, None, None), (10, 2, 0.0, 0.5)]),
        # What stops replicas early wins where a plan of so many moves more would, and hides what
        # does not beat that.
        ([*found((11, 0), (10, 2), (9.5, 12)), EARLY], True, 1.0,
         [(11, 0, 0.5, None), (9, 1, 0.0, LAST), (10, 2, LAST, 0.5)]),
        ([*found((11, 0)), EARLY], True, 1.0, [(11, 0, ALONE, None), (9, 1, 0.0, ALONE)]),
    ],
)  # fmt: skip
def test_each_price_has_its_plan(
    plans: list[Choice], is_cost: bool, unit: float, shown: list[Told]
) -> None:
    told = trade_off(plans, is_cost=is_cost, unit=unit)
    assert [(c.value, c.moves, c.wins_from, c.wins_to) for c in told] == shown
    assert [c.value for c in told if c.chosen] == [plans[0].value]


def test_the_next_best_is_the_one_that_would_win_at_another_price() -> None:
    shown = trade_off(THREE, is_cost=True, unit=1.0)
    second = runner_up(shown, 0.3, is_cost=True)
    assert second is not None
    assert (second.value, second.moves) == (30, 4)
    assert runner_up(shown[:1], 0.3, is_cost=True) is None
    assert runner_up((), 0.3, is_cost=True) is None
    second = runner_up(
        trade_off([*found((11, 0), (10, 2)), FAR], is_cost=True, unit=1.0), 1.0, is_cost=True
    )
    assert second is not None
    assert second.value == 10


@pytest.mark.parametrize(
    ("choice", "words", "price"),
    [
        (Choice(1, 1, 0), "nothing", None),
        (Choice(1, 1, 0, wins_from=0.25), "0.25 or more", 0.5),
        (Choice(1, 1, 4, wins_from=0.2, wins_to=0.25), "between 0.2 and 0.25", 0.225),
        (Choice(1, 1, 9, wins_from=0.0, wins_to=0.2), "0.2 or less", 0.0),
    ],
)
def test_prices_in_words(choice: Choice, words: str, price: float | None) -> None:
    assert (pricing.prices_told(choice), pricing.price_between(choice)) == (words, price)


@pytest.mark.parametrize(
    ("moves", "whole", "bound"), [(0, True, 31), (1, True, 31), (3, True, 30), (0, False, 30.5)]
)
def test_a_bound_with_the_price_is_tighter_for_few_moves(
    moves: int, whole: bool, bound: float
) -> None:
    assert pricing.bound_within(moves, 29.5 if whole else 29, 30.5, 0.25, whole=whole) == bound


def test_of_many_plans_the_ends_and_the_plan_itself_stay() -> None:
    many = found(*((300 - n - n**0.5, n) for n in range(300)), chosen=150)
    shown = trade_off(many, is_cost=True, unit=1.0)
    assert len(shown) == MOST_CHOICES
    assert (shown[0].moves, shown[-1].moves) == (0, 299)
    assert any(c.chosen for c in shown)


PLANS = st.lists(
    st.tuples(st.floats(0.1, 500).map(lambda v: round(v, 3)), st.integers(0, 40)),
    min_size=1,
    max_size=12,
)


@given(pairs=PLANS, chosen=st.integers(0, 11), cost=st.booleans(), price=st.floats(0, 2))
def test_who_wins_is_the_best_at_that_price(
    pairs: list[tuple[float, int]], chosen: int, cost: bool, price: float
) -> None:
    if not cost:
        price /= 100  # 2 % of the value a move, of 40 at most: what is left stays positive
    plans = found(*pairs, chosen=chosen % len(pairs))
    shown = trade_off(plans, is_cost=cost, unit=1.0)
    assert sum(c.chosen for c in shown) == 1
    assert [c.moves for c in shown] == sorted(c.moves for c in shown)
    assert len(shown) <= MOST_CHOICES
    for one in shown:
        if one.wins_from is None:
            continue
        inside = min(max(price, one.wins_from), math.inf if one.wins_to is None else one.wins_to)
        most = max(worth(c, inside, is_cost=cost) for c in shown)
        assert worth(one, inside, is_cost=cost) >= most - 1e-6 * max(1.0, abs(most), 1e3 * inside)
    if len(plans) <= MOST_CHOICES:
        best = max(worth(c, price, is_cost=cost) for c in plans)
        wins = [
            c
            for c in shown
            if c.wins_from is not None
            and c.wins_from <= price + 1e-9
            and (c.wins_to is None or price <= c.wins_to + 1e-9)
        ]
        scale = 1e-3 * max(1.0, abs(best))
        assert any(worth(c, price, is_cost=cost) >= best - scale for c in wins)
