"""The limits of a key hold over hosts, whose shares the head divides."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.demand.traffic import KeyCount
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates, KeyRoute
from partitiond.core.keys.rates_and_budgets import SHARE_SECONDS
from partitiond.core.keys.shares import (
    ALL_KEYS,
    LATELY_SECONDS,
    Division,
    Held,
    KeyDemand,
    KeyShares,
    divide,
    fill,
    share_out,
)
from partitiond.core.keys.wall_clock import STEADY_SECONDS
from tests.core.keys.share_fleet import UNIX, ShareFleet, admitted

TOKENS = 10.0
ALL = KeyRates(
    requests_per_minute=60,
    tokens_per_minute=900,
    max_in_flight=7,
    token_budget=2000,
    budget_period=BudgetPeriod.HOUR,
)


def check(fleet: ShareFleet, *, are_lost: bool = False) -> None:
    """No limit is exceeded by more than one request of each further host, budgets by nothing.

    A host that was lost, and lives, goes on with the places that others have as well meanwhile.
    """
    running = sum(len(host.flights) for host in fleet.hosts.values())
    for limit in ("requests", "tokens"):
        in_force = sum(getattr(one.meter.share, limit) for one in fleet.hosts.values() if one.meter)
        assert are_lost or in_force <= 1.0 + 1e-9
    assert are_lost or running <= max(ALL.max_in_flight, len(fleet.hosts))
    periods = {start for host in fleet.hosts.values() for start in host.used}
    for start in periods:
        used = sum(host.used.get(start, 0.0) for host in fleet.hosts.values())
        assert used <= ALL.token_budget + 1e-6


def check_rates(fleet: ShareFleet, hosts: int) -> None:
    """In no stretch are more admitted than a minute's amount, the rate, and one for each host."""
    arrivals = admitted(fleet)
    for first, (begin, _) in enumerate(arrivals):
        tokens = 0.0
        for count, (when, each) in enumerate(arrivals[first:], start=1):
            tokens += each
            minutes = (when - begin) / 60
            assert count <= ALL.requests_per_minute * (1 + minutes) + hosts
            assert tokens <= ALL.tokens_per_minute * (1 + minutes) + hosts * 4 * TOKENS


@pytest.mark.parametrize("moves", [False, True])
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_limits_hold_over_hosts_whatever_is_late_or_lost(
    moves: bool, seed: int, count: int
) -> None:
    """Tables are late and lost, hosts are cut off for minutes, the head is started again, the
    period of the budget ends, and clocks differ. Budgets hold also while hosts join and are lost.
    """
    fleet = ShareFleet(ALL, "abcde"[:count], seed, skew=0.0 if moves else 3.0)
    dice = fleet.dice
    fleet.now -= 120.0 if not moves and dice.random() < 0.5 else 0.0
    demand = dict.fromkeys(fleet.hosts, 1.0)
    for step in range(320):
        fleet.pass_seconds(0.5)
        for name, host in fleet.hosts.items():
            while dice.random() < demand.get(name, 1.0) * 0.5:
                host.ask(dice.choice([1, 2, 4]) * TOKENS, fleet.now)
            while dice.random() < 0.4:
                host.end(fleet.now)
        check(fleet, are_lost=moves)
        if dice.random() < 0.02:
            demand = {name: dice.choice([0.0, 0.2, 1.8]) for name in fleet.hosts}
        if dice.random() < 0.02:
            fleet.cut = {name for name in fleet.hosts if dice.random() < 0.3}
            if moves:
                fleet.lost = {name for name in fleet.cut if dice.random() < 0.5}
                fleet.apply()
        if moves and dice.random() < 0.01 and len(fleet.hosts) < 6:
            fleet.join("abcdefg"[len(fleet.hosts)])
        if dice.random() < 0.01:
            fleet.restart()
        if step % 4 == 0:
            fleet.look(delay=4.0, loss=0.2)
    if not moves:
        check_rates(fleet, count)
    fleet.cut = fleet.lost = set()
    fleet.apply()
    fleet.pass_seconds(3600.0)
    fleet.drive(60.0, {"a": 0.9})
    assert fleet.drive(60.0, {"a": 0.9})["a"] >= 0.8 * 60, "nearly all of it is at one host"


@pytest.mark.parametrize("used_before", [10.0, 0.0])
def test_who_joins_while_no_other_host_is_there_gets_what_they_cannot_use(
    used_before: float,
) -> None:
    """Not the whole limit, as one that was alone from the beginning."""
    fleet = ShareFleet(ALL, "abc")
    fleet.drive(used_before, dict.fromkeys("abc", 1.0))
    fleet.cut = fleet.lost = {*"abc"}
    fleet.apply()
    fleet.look()
    fleet.join("d")
    assert not fleet.hosts["d"].ask(2 * TOKENS, fleet.now)
    for host in fleet.hosts.values():
        while host.ask(TOKENS, fleet.now):
            fleet.pass_seconds(2.0)
            fleet.look()
            host.end(fleet.now)
    assert sum(fleet.hosts["a"].used.values()) > 400, "what it held stays its own"
    check(fleet, are_lost=True)


@pytest.mark.parametrize(
    ("each", "least"),
    [
        ({"a": 1.5}, {"a": 0.9}),
        ({"a": 3.0, "b": 3.0}, {"a": 0.45, "b": 0.45}),
        ({"a": 3.0, "b": 0.2}, {"a": 0.58, "b": 0.18}),
    ],
)
def test_rates_follow_the_demand(each: dict[str, float], least: dict[str, float]) -> None:
    """What nobody wants goes to who is short, but a tenth of an equal share of an idle one."""
    fleet = ShareFleet(KeyRates(requests_per_minute=60), "abc")
    fleet.drive(60.0, each)
    numbers = [fleet.head.of(name).number for name in "abc"]
    found = fleet.drive(60.0, each)
    for name, part in least.items():
        assert found[name] >= part * 60
    told = [fleet.head.of(name).number for name in "abc"]
    assert sum(one != other for one, other in zip(numbers, told, strict=True)) <= 2
    assert max(told) - max(numbers) <= 6, "in most looks of a minute, nothing changes"
    assert fleet.hosts["c"].ask(1.0, fleet.now), "an idle host begins at once"


def test_places_in_flight_go_to_the_host_that_needs_them() -> None:
    fleet = ShareFleet(KeyRates(max_in_flight=8), "abc")
    a = fleet.hosts["a"]
    for _ in range(6):
        for _ in range(8):
            a.ask(TOKENS, fleet.now)
        fleet.look()
        fleet.pass_seconds(2.0)
    assert len(a.flights) == 6, "all but one of each other host"
    assert fleet.hosts["b"].ask(TOKENS, fleet.now)
    assert not fleet.hosts["b"].ask(TOKENS, fleet.now)


def test_a_budget_is_used_up_by_whoever_needs_it() -> None:
    """But for less than two requests, which lie with idle hosts; then it is told when it renews."""
    fleet = ShareFleet(KeyRates(token_budget=3000, budget_period=BudgetPeriod.HOUR), "abcd")
    found = fleet.drive(300.0, {"b": 4.0}, tokens=100.0)
    assert found["b"] >= 28
    last = fleet.hosts["b"].last
    assert last is not None
    assert last.retry_after_seconds is not None
    assert last.retry_after_seconds > 3000


def test_a_head_whose_clock_was_a_year_ahead_closes_no_budget_for_longer() -> None:
    fleet, asks = ShareFleet(KeyRates(token_budget=1000), "ab"), {"a": 8.0, "b": 0.0}
    fleet.ahead = 365 * 86_400.0
    fleet.drive(60, asks)
    assert fleet.hosts["a"].shares.rows[0].budget_start > UNIX + 86_400, "its word counts"
    fleet.ahead, used = 0.0, fleet.hosts["a"].used
    before = used[UNIX]
    assert fleet.drive(30, asks)["a"] == 0
    fleet.drive(STEADY_SECONDS, asks)
    assert used[UNIX] - before == pytest.approx(1000, abs=20)
    assert fleet.drive(30, asks)["a"] == 0


def test_what_is_held_in_a_period_that_is_over_or_was_wrong_is_held_no_more() -> None:
    keys = [KeyRoute("k", "0" * 64, rates=KeyRates(token_budget=1000))]
    part, held = Held((0.5, 0, 0, 0), (0.5, 0, 0, 0)), Held((0.5, 0.5, 1, 90), (0.5, 0.5, 1, 90))
    for start in (-86_400.0, 365 * 86_400.0):
        kept = {
            ALL_KEYS: Division(0.0, {"a": part, "b": part}),
            "k": Division(start, {"a": held, "gone": held}),
        }
        head = KeyShares(kept, 1)
        head.apply(keys, ["a", "b"])
        for now in (0.0, STEADY_SECONDS):
            head.look({}, now, now)
        found = head.unsaved["k"]
        assert found is not None
        assert (found.start, set(found.held), found.held["a"].told[3]) == (0.0, {"a", "b"}, 500.0)


def test_who_is_in_a_later_period_already_has_used_all_that_it_may_in_this_one() -> None:
    half = Held((0.5, 0.5, 1.0, 500.0), (0.5, 0.5, 1.0, 500.0))
    both, later = {"a": half, "b": half}, KeyCount(budget_start=86_400.0, budget_tokens=1.0)
    found = divide(
        KeyRates(token_budget=1000), Division(0.0, both), both, start=0.0,
        counts={"a": KeyCount(budget_tokens=480.0), "b": later},
        wants={"a": (0.0, 0.0, 0.0, 400.0), "b": (0.0, 0.0, 0.0, 0.0)},
    )  # fmt: skip
    assert found.held["b"] == half
    assert found.held["a"].most[3] == 500.0


def test_what_a_host_has_beyond_its_share_counts() -> None:
    """Answers were longer than was reserved, or it has a lower share now."""
    share = (0.5, 0.5, 2.0, 300.0)
    found = divide(
        KeyRates(), Division(), {"a": Held(share, share)}, start=0.0,
        counts={"a": KeyCount(in_flight=4.0, budget_tokens=400.0)}, wants={"a": share},
    )  # fmt: skip
    assert found.held == {"a": Held(share, (0.5, 0.5, 4.0, 400.0))}


def test_a_host_wants_what_came_lately_and_half_as_much_again() -> None:
    demand = KeyDemand(0.0)
    for second in range(2, 400, 2):
        refused = second // 2
        demand = demand.after(KeyCount(second, 90.0 * second, refused, 10.0 * second), second)
    wants = demand.wants(KeyRates(60, 6000), 3.0)
    assert wants == pytest.approx((1.5 * 1.5, 1.5, 3.0 + 0.5 * 20, 100.0 * 30), rel=0.01)
    anew = demand.after(KeyCount(), 398.0 + LATELY_SECONDS).lately
    assert anew == pytest.approx([one / math.e for one in demand.lately]), "of a new proxy"


def test_lower_limits_hold_after_one_look_though_nothing_came() -> None:
    fleet = ShareFleet(ALL, "ab")
    fleet.drive(20.0, {"a": 1.0})
    fleet.drive(20.0, {"a": 0.0})
    fleet.rates = KeyRates(max_in_flight=3, token_budget=500, budget_period=BudgetPeriod.HOUR)
    fleet.apply()
    fleet.look()
    rows = [fleet.head.of(name).rows[0] for name in "ab"]
    assert sum(row.budget for row in rows) <= 500
    assert sum(row.in_flight for row in rows) <= 3


def test_what_a_lost_host_holds_of_a_budget_that_nobody_used_stays_its_own() -> None:
    fleet = ShareFleet(ALL, "ab")
    fleet.cut = fleet.lost = {"b"}
    fleet.apply()
    fleet.drive(120.0, {"a": 3.0, "b": 3.0}, tokens=15.0)
    assert fleet.head.of("a").part > 0.9, "of rates it has none"
    check(fleet, are_lost=True)


def test_a_new_period_is_divided_though_nothing_came() -> None:
    fleet = ShareFleet(KeyRates(token_budget=1000), "ab")
    fleet.drive(20, {"a": 8.0})
    fleet.drive(10, {"a": 0.0})
    fleet.pass_seconds(86_400.0)
    fleet.look()
    assert fleet.kept["k"].start == UNIX + 86_400
    fleet.head.apply([], "ab")
    assert fleet.head.unsaved == {"k": None}, "the key is gone"


def test_who_lacks_a_share_is_told_to_come_again_when_shares_are_divided() -> None:
    fleet = ShareFleet(KeyRates(token_budget=3000, budget_period=BudgetPeriod.HOUR), "abcd")
    b = fleet.hosts["b"]
    fleet.look()
    fleet.pass_seconds(2.0)
    assert [b.ask(100.0, fleet.now) for _ in range(8)] == [True] * 7 + [False]
    assert b.last is not None
    assert b.last.retry_after_seconds == SHARE_SECONDS
    for _ in range(3):
        fleet.look()
        fleet.pass_seconds(2.0)
    assert fleet.now - 2.0 <= SHARE_SECONDS + 1
    assert b.ask(100.0, fleet.now)
    rate = ShareFleet(KeyRates(requests_per_minute=2), "abcd").hosts["a"]
    assert rate.ask(1.0, 0.0)
    assert not rate.ask(1.0, 0.0)
    assert rate.last is not None
    assert rate.last.retry_after_seconds == 30, "as long as with the whole limit"


def test_a_first_burst_counts_at_the_next_look() -> None:
    fleet = ShareFleet(KeyRates(requests_per_minute=40), "abcd")
    fleet.look()
    fleet.pass_seconds(2.0)
    assert sum(fleet.hosts["a"].ask(1.0, fleet.now) for _ in range(30)) == 10
    for _ in range(2):
        fleet.look()
    assert fleet.head.of("a").rows[0].requests > 0.5


def test_what_a_cut_off_host_holds_stays_its_own() -> None:
    """A lost one loses its part of the rates, and keeps that of the budget in this period."""
    fleet = ShareFleet(ALL, "ab")
    fleet.drive(20.0, {"a": 1.0, "b": 1.0})
    fleet.cut = {"b"}
    fleet.drive(60.0, {"a": 3.0}, tokens=1.0)
    assert fleet.drive(60.0, {"a": 3.0}, tokens=1.0)["a"] <= 60 * 0.55
    fleet.lost = {"b"}
    fleet.apply()
    fleet.drive(10.0, {"a": 3.0})
    assert fleet.drive(30.0, {"a": 3.0}, tokens=1.0)["a"] >= 28
    fleet.drive(120.0, {"a": 3.0}, tokens=15.0)
    held = fleet.kept["k"].held["b"].most[3]
    used = sum(fleet.hosts["a"].used.values())
    assert ALL.token_budget - 60 <= used + held <= ALL.token_budget


def test_a_lower_share_is_believed_once_a_report_by_it_has_come() -> None:
    """And of a budget, what was used before the lower share came goes on counting."""
    fleet = ShareFleet(KeyRates(token_budget=2000, budget_period=BudgetPeriod.NEVER), "ab")
    a, b = fleet.hosts["a"], fleet.hosts["b"]
    for _ in range(2):
        for _ in range(20):
            b.ask(400.0, fleet.now)
        fleet.pass_seconds(2.0)
        fleet.look(delay=60.0)
    assert b.shares.number < fleet.head.of("b").number == max(n.number for _, n in b.coming)
    assert not a.ask(1001.0, fleet.now), "its table is on its way, and b's old one in force"
    lower = fleet.kept["k"].held["a"]
    assert lower.told[3] < lower.most[3] == 1000
    assert a.ask(900.0, fleet.now), "it did not know"
    for _ in range(5):
        fleet.pass_seconds(60.0)
        fleet.look()
        fleet.cut = {"a"}
        for _ in range(20):
            b.ask(100.0, fleet.now)
    assert fleet.kept["k"].held["a"].most[3] >= 900
    assert 1700 <= sum(a.used.values()) + sum(b.used.values()) <= 2000


def test_one_host_alone_is_told_nothing() -> None:
    fleet = ShareFleet(ALL, "a")
    fleet.drive(10.0, {"a": 1.0})
    assert fleet.head.of("a").number == 0
    assert not fleet.kept
    fleet.join("b")
    assert [fleet.head.of(name).part for name in "ab"] == [1.0, 0.0], "it had the whole"
    for _ in range(3):
        fleet.look()
    assert [fleet.head.of(name).part for name in "ab"] == [0.5, 0.5]


def test_fill_gives_what_is_wanted_up_to_one_level() -> None:
    assert fill(12.0, {"a": 2.0, "b": 9.0, "c": 9.0}) == {"a": 2.0, "b": 5.0, "c": 5.0}
    assert fill(12.0, {"a": 1.0, "b": 2.0}) == {"a": 5.5, "b": 6.5}
    assert fill(0.0, {}) == {}


def test_a_share_grows_only_by_what_is_free() -> None:
    """Free is what no host may be using, be it by a table that it has not confirmed."""
    half, kept, wants = (0.5, 0.5), {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.0}
    lowered = share_out(1.0, 0.1, {"a": half, "b": half}, kept, wants)
    assert lowered == {"a": 0.5, "b": 0.05}
    assert share_out(1.0, 0.1, {"a": half, "b": (0.05, 0.5)}, kept, wants) == lowered
    grown = {"a": 0.95, "b": 0.05}
    assert share_out(1.0, 0.1, {"a": half, "b": (0.05, 0.05)}, kept, wants) == grown
    away = {"a": half, "away": (0.1, 0.3)}
    found = share_out(1.0, 0.1, away, {"a": 0.0}, {"a": 1.0})
    assert found == {"a": pytest.approx(0.7), "away": 0.1}
    assert share_out(0.0, 0.1, away, {"a": 0.0}, {"a": 1.0}) == {"a": 0.5, "away": 0.1}


def test_a_host_whose_table_names_no_others_has_the_whole_of_each_limit() -> None:
    shares = KeyShares({}, 1000)
    key = KeyRoute("k", "0" * 64, rates=KeyRates(requests_per_minute=600))
    shares.apply([key], ["a", "b"])
    assert shares.of("a").part == 0.5
    shares.apply([key], [])
    assert shares.of("a").part == 1.0
