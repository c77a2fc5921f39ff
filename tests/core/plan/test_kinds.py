"""The prices at which another plan wins cover all plans found, and are never overstated."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.plan.kinds import OnKinds, between_told, first_to_win, kinds_told

PRICES = {"a": 3.0, "h": 2.0, "l": 0.7}


def takes(**kinds: int) -> OnKinds:
    """A plan on so many devices of each kind."""
    return OnKinds(kinds, cost(kinds, PRICES))


def cost(kinds: dict[str, int], prices: dict[str, float]) -> float:
    """What they cost."""
    return math.fsum(count * prices[kind] for kind, count in kinds.items())


def test_a_plan_on_the_same_devices_and_more_wins_at_no_price() -> None:
    """Rounding made it win below 4.44e-16 per hour."""
    mine = OnKinds({"a": 2, "h": 1, "l": 1}, 0.1 + 0.2)
    more = OnKinds({"a": 3, "h": 1, "l": 1}, 0.1 + 0.2 + 3 - 4e-16)
    assert first_to_win(mine, [more], PRICES) is None
    assert first_to_win(takes(h=1), [takes(h=1), takes(h=2)], PRICES) is None


def test_the_first_to_win_is_told_and_no_cheaper_one_that_never_does() -> None:
    """One A100 alone wins before two L4s are added to it."""
    won = first_to_win(takes(h=1), [takes(a=1, l=2), takes(a=1), takes(a=2)], PRICES)
    assert won is not None
    assert (won.kinds, won.wins) == ({"a": 1}, ("a", 0, 2))


def test_where_a_third_plan_wins_further_away_both_ends_are_told() -> None:
    """Four L4s win below 0.5; with more of them and no H100 a fifth plan does below 0.25."""
    won = first_to_win(takes(h=2), [takes(h=1, l=4), takes(l=12)], PRICES)
    assert won is not None
    assert won.wins is not None
    kind, *ends = won.wins
    assert kind == "l"
    assert ends == pytest.approx([0.25, 0.5])
    dearer = first_to_win(takes(a=1), [takes(h=2), takes(h=1, l=4)], {"a": 3.0})
    assert dearer is not None
    assert dearer.wins == ("a", 4, math.inf)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 0.75, "below 0.75"),
        (0, 0.1 + 0.2, "below 0.3"),
        (0, 2 / 3, "below 0.666"),
        (0, 1.9996, "below 1.99"),
        (2 / 3, math.inf, "above 0.667"),
        (1234.5, math.inf, "above 1240"),
        (1 / 3, 2 / 3, "between 0.334 and 0.666"),
        (1.9991, 1.9996, "between 1.9991 and 1.9996"),
    ],
)
def test_prices_are_rounded_so_that_what_is_said_holds(low: float, high: float, words: str) -> None:
    assert between_told(low, high) == words


def test_devices_in_words() -> None:
    assert kinds_told(takes(h=1, a=2)) == "2x a and 1x h"


KINDS = st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1)


@given(
    KINDS,
    st.lists(KINDS, max_size=6),
    st.fixed_dictionaries(dict.fromkeys("abc", st.floats(0.01, 50))),
    st.floats(0.001, 0.999),
)
def test_at_the_prices_that_are_told_no_plan_found_is_cheaper(
    first: dict[str, int], others: list[dict[str, int]], prices: dict[str, float], share: float
) -> None:
    plans = [OnKinds(kinds, cost(kinds, prices)) for kinds in (first, *others)]
    mine = min(plans, key=lambda one: one.price_per_hour)
    won = first_to_win(mine, plans, prices)
    if won is None:
        for one in plans:  # no kind on which it saves, and none of which the plan takes more
            superset = all(one.kinds.get(k, 0) >= n for k, n in mine.kinds.items())
            assert superset or one.price_per_hour <= mine.price_per_hour * 1.001
        return
    assert won.wins is not None
    kind, low, high = won.wins
    at = {**prices, kind: low + share * (min(high, 2 * low + 100) - low)}
    least = min(cost(dict(one.kinds), at) for one in plans)
    assert cost(dict(won.kinds), at) <= least * (1 + 1e-6)
    end = {**prices, kind: high if high <= prices[kind] * (1 + 1e-9) else low}
    assert cost(dict(won.kinds), end) == pytest.approx(cost(dict(mine.kinds), end), rel=1e-6)
    said = [float(n) for n in re.findall(r"\d[0-9.e+-]*", between_told(low, high))]
    assert all(low * (1 - 1e-5) <= price <= high * (1 + 1e-5) for price in said)
