"""Among the plans that were found, only the price of a move decides."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.plan import choices as choicess
from partitiond.core.plan.choices import MOST_CHOICES, Choice, runner_up, trade_off, worth


def found(*pairs: tuple[float, int], chosen: int = 0) -> list[Choice]:
    """Choices of these values and moves."""
    return [Choice(value, 0.0, moves, chosen=n == chosen) for n, (value, moves) in enumerate(pairs)]


def told(choices: tuple[Choice, ...]) -> list[tuple[float, int, float | None, float | None]]:
    """Their values, moves and prices."""
    return [(c.value, c.moves, c.wins_from, c.wins_to) for c in choices]


def test_each_price_has_its_plan() -> None:
    shown = trade_off(found((31, 0), (30, 4), (28, 14)), is_cost=True, unit=1.0)
    assert told(shown) == [(31, 0, 0.25, None), (30, 4, 0.2, 0.25), (28, 14, 0.0, 0.2)]


def test_a_plan_that_is_worse_and_moves_more_is_not_told() -> None:
    shown = trade_off(found((31, 0), (31, 3), (30, 4), (30, 4), (32, 9)), is_cost=True, unit=1.0)
    assert [(c.value, c.moves) for c in shown] == [(31, 0), (30, 4)]


def test_a_plan_between_two_better_ones_wins_at_no_price() -> None:
    shown = trade_off(found((10, 0), (9, 8), (5, 10)), is_cost=True, unit=1.0)
    assert told(shown)[1] == (9, 8, None, None)
    assert choicess.prices_told(shown[1]) == "nothing"
    assert choicess.price_between(shown[1]) is None


def test_prices_are_told_in_the_unit_of_the_setting() -> None:
    """A move costs a quarter of a device of 8 per hour where `planner.move_price` is 0.25."""
    shown = trade_off(found((80, 0), (72, 2)), is_cost=True, unit=8.0)
    assert [c.wins_from for c in shown] == [0.5, 0.0]


def test_of_goodput_a_move_takes_a_share() -> None:
    shown = trade_off(found((100, 0), (110, 20)), is_cost=False, unit=0.01)
    (stays, moves) = shown
    assert moves.wins_to == pytest.approx(100 * 10 / (110 * 20))
    assert stays.wins_from == moves.wins_to


def test_the_plan_itself_is_told_even_where_another_one_is_better() -> None:
    shown = trade_off(found((12, 5), (11, 0), (10, 5)), is_cost=True, unit=1.0)
    assert [(c.value, c.chosen) for c in shown] == [(11, False), (10, False), (12, True)]
    assert next(c for c in shown if c.chosen).wins_from is None


def test_what_is_not_made_at_any_price_hides_nothing_and_wins_nowhere() -> None:
    far = Choice(9, 8, 1, against=choicess.Against.MOVE_BUDGET)
    shown = trade_off((*found((11, 0), (10, 2)), far), is_cost=True, unit=1.0)
    assert told(shown) == [(11, 0, 0.5, None), (9, 1, None, None), (10, 2, 0.0, 0.5)]
    second = runner_up(shown, 1.0, is_cost=True)
    assert second is not None
    assert second.value == 10


def test_what_stops_replicas_early_counts_as_more_moves() -> None:
    """It wins where a plan of so many moves more would, and hides what does not beat that."""
    early = Choice(9, 8, 1, against=choicess.Against.NEEDLESS_STOP)
    shown = trade_off((*found((11, 0), (10, 2), (9.5, 12)), early), is_cost=True, unit=1.0)
    last = 1 / (1 + choicess.EARLY_MOVES - 2)
    assert told(shown) == [
        (11, 0, 0.5, None),
        (9, 1, 0.0, pytest.approx(last)),
        (10, 2, pytest.approx(last), 0.5),
    ]
    for price, wins in ((last * 1.01, 10), (last * 0.99, 9)):
        assert max(shown, key=lambda c: worth(c, price, is_cost=True)).value == wins
    alone = trade_off((*found((11, 0)), early), is_cost=True, unit=1.0)
    assert alone[1].wins_to == pytest.approx(2 / (1 + choicess.EARLY_MOVES))


def test_the_next_best_is_the_one_that_would_win_at_another_price() -> None:
    shown = trade_off(found((31, 0), (30, 4), (28, 14)), is_cost=True, unit=1.0)
    second = runner_up(shown, 0.3, is_cost=True)
    assert second is not None
    assert (second.value, second.moves, choicess.prices_told(second)) == (
        30,
        4,
        "between 0.2 and 0.25",
    )
    assert choicess.price_between(second) == 0.225
    assert runner_up(shown[:1], 0.3, is_cost=True) is None
    assert runner_up((), 0.3, is_cost=True) is None


@pytest.mark.parametrize(
    ("choice", "words", "price"),
    [
        (Choice(1, 1, 0, wins_from=0.25), "0.25 or more", 0.5),
        (Choice(1, 1, 9, wins_from=0.0, wins_to=0.2), "0.2 or less", 0.0),
    ],
)
def test_prices_in_words(choice: Choice, words: str, price: float) -> None:
    assert (choicess.prices_told(choice), choicess.price_between(choice)) == (words, price)


@pytest.mark.parametrize(
    ("moves", "whole", "bound"), [(0, True, 31), (1, True, 31), (3, True, 30), (0, False, 30.5)]
)
def test_a_bound_with_the_price_is_tighter_for_few_moves(
    moves: int, whole: bool, bound: float
) -> None:
    assert choicess.bound_within(moves, 29.5 if whole else 29, 30.5, 0.25, whole=whole) == bound


def test_a_bound_for_many_moves_is_the_one_without_a_price() -> None:
    assert choicess.bound_within(1000, 29, 30.5, 0.25, whole=True) == 29


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
