"""Several hosts serve one key and stay within its limits."""

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.dispatch.key_fleet import UNIX, KeyFleet, Receipt
from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates
from partitiond.core.keys.allowance import ROW_NUMBERS, allowance_of_row, first_part
from partitiond.core.keys.portions import (
    MOST_ABSENT,
    MOST_ROWS,
    SILENT_SECONDS,
    KeyPeers,
    KeyWord,
    Portions,
    word_of_unknown_key,
)
from partitiond.core.keys.rates import NO_USAGE, Allowed, KeyMeter, Usage, budget_use, period_start

SIZES = (1.0, 7.5, 40.0)
"""Tokens of a request."""


@dataclasses.dataclass
class Flight:
    """A request in flight and what it was estimated at."""

    receipt: Receipt
    tokens: float


class Truth:
    """Runs random requests on a fleet, counts what is really used, and checks the bounds."""

    def __init__(self, rates: KeyRates, count: int, seed: int, *, mean_delay: float) -> None:
        self.dice = random.Random(seed)
        self.mean_delay = mean_delay
        self.lost = self.dice.choice([0.0, 0.2])
        self.group: dict[str, int] = {}
        self.fleet = KeyFleet(
            rates, count, self.path, ahead=lambda _: self.dice.choice([-0.5, 0.0, 0.5])
        )
        self.flying: list[Flight] = []
        self.most_hosts = count
        self.requests = 0
        self.used: dict[float, float] = {}
        self.broken: set[frozenset[str]] = set()
        """Pairs of hosts that do not reach each other."""
        self.strict = True
        self.lives = 0
        """Requests that may be sent beyond the limits because hosts were started or joined."""

    def path(self, sender: str, receiver: str) -> tuple[float, ...]:
        if self.group.get(sender, 0) != self.group.get(receiver, 0):
            return ()
        if frozenset([sender, receiver]) in self.broken or self.dice.random() < self.lost:
            return ()
        copies = 2 if self.dice.random() < 0.1 else 1
        return tuple(self.dice.expovariate(1 / self.mean_delay) for _ in range(copies))

    def request(self, name: str, tokens: float) -> bool:
        """Send one; whether it was admitted. The bounds are checked."""
        host = self.fleet.hosts[name]
        found = host.admit(tokens, self.fleet.now)
        if isinstance(found, Rejected):
            return False
        self.flying.append(Flight(found, tokens))
        self.requests += 1
        start = found.allowed.budget_start
        self.used[start] = self.used.get(start, 0.0) + tokens
        if not self.strict:
            return True
        rates, further = self.fleet.rates, self.most_hosts - 1 + self.lives
        if rates.token_budget:
            most = rates.token_budget + further * max(SIZES)
            assert self.used[start] <= most + 1e-6, "the budget"
        if rates.max_in_flight:
            running = sum(self.runs(flight) for flight in self.flying)
            assert running <= rates.max_in_flight + further, "in flight"
        if rates.requests_per_minute:
            rate = rates.requests_per_minute / 60
            # The equal share of a host that is cut off begins by its own clock.
            due = rates.requests_per_minute + rate * self.fleet.now
            assert self.requests <= due + further + 1e-6, "requests"
        return True

    def runs(self, flight: Flight) -> bool:
        receipt = flight.receipt
        return receipt.host.up and receipt.host.life == receipt.life

    def settle(self, flight: Flight, actual: float) -> None:
        receipt = flight.receipt
        self.flying.remove(flight)
        now_period = period_start(receipt.host.unix(self.fleet.now), self.fleet.rates.budget_period)
        if self.runs(flight):
            receipt.host.settle(receipt, actual, self.fleet.now)
            if receipt.allowed.budget_start == now_period:
                self.used[now_period] += actual - flight.tokens

    def some_time(self, seconds: float, rate: float, *, names: list[str] | None = None) -> int:
        """Let requests come and end; how many were refused."""
        refused = 0
        until = self.fleet.now + seconds
        while True:
            self.fleet.run(self.fleet.now + self.dice.expovariate(rate))
            if self.fleet.now >= until:
                return refused
            if self.flying and self.dice.random() < 0.5:
                flight = self.dice.choice(self.flying)
                self.settle(flight, self.dice.choice([0.0, 0.5, 1.0]) * flight.tokens)
            up = names or [name for name in sorted(self.fleet.table) if self.fleet.hosts[name].up]
            refused += not self.request(self.dice.choice(up), self.dice.choice(SIZES))

    def heal(self) -> None:
        """Let all messages through, and all requests end."""
        self.group, self.broken, self.lost, self.mean_delay = {}, set(), 0.0, 0.01
        while self.flying:
            self.settle(self.flying[0], self.flying[0].tokens)
        self.fleet.run(self.fleet.now + 30.0)

    def check_sums(self) -> None:
        """Every host in the table knows what all have used."""
        for name in self.fleet.table:
            host = self.fleet.hosts[name]
            total = host.meter.usage + host.portions.heard
            assert total.in_flight == 0, name
            if not self.fleet.rates.token_budget:
                continue  # what nobody limits is not remembered over a restart
            start = period_start(host.unix(self.fleet.now), self.fleet.rates.budget_period)
            known, true = total.budget_in(start), self.used.get(start, 0.0)
            assert known == pytest.approx(true, abs=1e-6), name


KINDS = (
    KeyRates(token_budget=300),
    KeyRates(token_budget=20_000, budget_period=BudgetPeriod.NEVER),
    KeyRates(max_in_flight=3),
    KeyRates(max_in_flight=40),
    KeyRates(requests_per_minute=30),
    KeyRates(requests_per_minute=1200),
    KeyRates(requests_per_minute=600, tokens_per_minute=3000, max_in_flight=9, token_budget=2500),
)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 8), st.sampled_from(KINDS), st.sampled_from([0.01, 0.3])
)
def test_hosts_keep_a_limit_and_know_the_sum(
    seed: int, count: int, rates: KeyRates, mean_delay: float
) -> None:
    truth = Truth(rates, count, seed, mean_delay=mean_delay)
    truth.some_time(8.0, 20.0)
    truth.heal()
    truth.check_sums()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 8), st.sampled_from(KINDS))
def test_hosts_that_are_cut_off_keep_the_limit_together(
    seed: int, count: int, rates: KeyRates
) -> None:
    truth = Truth(rates, count, seed, mean_delay=0.02)
    truth.some_time(2.0, 20.0)
    for _ in range(2):
        truth.group = {name: truth.dice.randrange(2) for name in truth.fleet.hosts}
        truth.some_time(truth.dice.choice([1.0, 8.0]), 20.0)
        truth.group = {}
        truth.some_time(truth.dice.choice([1.0, 5.0]), 20.0)
    truth.heal()
    truth.check_sums()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 6), st.sampled_from(KINDS))
def test_hosts_that_reach_only_some_of_the_others_know_the_sum_afterwards(
    seed: int, count: int, rates: KeyRates
) -> None:
    truth = Truth(rates, count, seed, mean_delay=0.02)
    truth.strict = False
    truth.some_time(1.0, 20.0)
    truth.broken = {
        frozenset(truth.dice.sample(sorted(truth.fleet.hosts), 2)) for _ in range(count)
    }
    truth.some_time(8.0, 20.0)
    truth.heal()
    truth.check_sums()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from(KINDS))
def test_restarts_joins_and_leaves_neither_lose_nor_double_use(
    seed: int, count: int, rates: KeyRates
) -> None:
    truth = Truth(rates, count, seed, mean_delay=0.02)
    fleet, dice = truth.fleet, truth.dice
    truth.some_time(2.0, 20.0)
    for _ in range(4):
        what = dice.choice(["restart", "restart without disk", "join", "leave", "return"])
        # What was told a moment ago is known; what was not is lost with the process.
        fleet.run(fleet.now + 2.0)
        name = dice.choice(sorted(fleet.table))
        if what.startswith("restart"):
            fleet.hosts[name].save()
            with_disk = what == "restart" or len(fleet.table) == 1
            fleet.restart(name, with_disk=with_disk)
            # A host alone begins with full buckets, as one that never had others does.
            alone = len(fleet.table) == 1
            truth.lives += 1 + (rates.requests_per_minute if alone else 0)
        elif what == "join":
            fleet.join(f"h{len(fleet.hosts)}")
        elif what == "leave" and len(fleet.table) > 1:
            fleet.leave(name)
        elif what == "return":
            fleet.join(dice.choice(sorted(fleet.hosts)))
        truth.most_hosts = max(truth.most_hosts, len(fleet.hosts))
        truth.some_time(dice.choice([0.5, 5.0]), 20.0)
    truth.heal()
    truth.check_sums()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_limits_that_change_while_hosts_run_hold_from_then_on(seed: int, count: int) -> None:
    truth = Truth(KeyRates(token_budget=1000), count, seed, mean_delay=0.02)
    truth.some_time(3.0, 20.0)
    used = next(iter(truth.used.values()))
    truth.fleet.apply(KeyRates(token_budget=truth.dice.choice([50, 400, 900, 3000])))
    most = max(used, truth.fleet.rates.token_budget + (count - 1) * max(SIZES))
    for _ in range(5):
        truth.some_time(1.0, 20.0)
        assert next(iter(truth.used.values())) <= most + 1e-6
    truth.heal()
    truth.check_sums()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_budget_begins_anew_with_its_period_though_clocks_differ(seed: int, count: int) -> None:
    rates = KeyRates(token_budget=400, budget_period=BudgetPeriod.HOUR)
    truth = Truth(rates, count, seed, mean_delay=0.02)
    truth.fleet.set_clocks(3600 - 10.0)
    truth.some_time(8.0, 10.0)
    truth.some_time(4.0, 40.0)  # over the end of the hour
    assert len(truth.used) == 2
    truth.some_time(8.0, 10.0)
    truth.heal()
    truth.check_sums()


def fleet_of(rates: KeyRates, count: int) -> KeyFleet:
    """Hosts whose messages take 5 ms, half a second after their start."""
    fleet = KeyFleet(rates, count, lambda *_: (0.005,))
    fleet.run(0.5)
    return fleet


def cut(fleet: KeyFleet, *alone: str) -> None:
    """Cut these hosts, together, off from the others."""
    fleet.path = lambda one, other: (0.005,) if (one in alone) == (other in alone) else ()


def admit(fleet: KeyFleet, name: str, tokens: float = 1.0) -> str:
    found = fleet.hosts[name].admit(tokens, fleet.now)
    return found.code if isinstance(found, Rejected) else "ok"


def spend(fleet: KeyFleet, name: str, seconds: float, tokens: float = 1.0) -> int:
    """Send as many requests as a host admits; how many."""
    sent, until = 0, fleet.now + seconds
    while fleet.now < until:
        while admit(fleet, name, tokens) == "ok":
            sent += 1
        fleet.run(fleet.now + 0.05)
    return sent


def test_one_host_alone_has_no_allowance() -> None:
    fleet = fleet_of(KeyRates(token_budget=100), 1)
    assert fleet.hosts["h0"].portions.allowance is None
    assert fleet.hosts["h0"].portions.word("h1") is None
    assert spend(fleet, "h0", 0.1) == 100


@pytest.mark.parametrize("count", [2, 8, 32])
def test_one_busy_host_can_use_the_whole_limit(count: int) -> None:
    fleet = fleet_of(KeyRates(token_budget=1000), count)
    sent = spend(fleet, "h0", 4.0)
    assert sent >= 950, "the last requests go one at a time"
    assert sent + spend(fleet, "h0", 10.0) == 1000
    assert admit(fleet, "h0") == admit(fleet, "h1") == "budget_exhausted"


@pytest.mark.parametrize("count", [2, 8])
def test_one_busy_host_can_use_all_of_a_rate(count: int) -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600), count)
    sent = spend(fleet, "h0", 30.0)
    assert sent == pytest.approx(600 + 10 * 30.5, abs=15)


@pytest.mark.parametrize("count", [2, 8])
def test_one_busy_host_can_have_all_in_flight_and_ends_give_them_back(count: int) -> None:
    fleet = fleet_of(KeyRates(max_in_flight=5), count)
    assert spend(fleet, "h0", 3.0) == 5
    host = fleet.hosts["h0"]
    assert admit(fleet, "h1") == admit(fleet, "h0") == "too_many_in_flight"
    for _ in range(5):
        host.meter.settle(Allowed(1.0, 0.0), 1.0, now=fleet.now, unix=host.unix(fleet.now))
    fleet.run(fleet.now + 1.0)
    assert spend(fleet, "h1", 3.0) == 5


def test_a_refusal_for_lack_of_a_portion_says_a_second() -> None:
    codes = {
        KeyRates(token_budget=100): "budget_exhausted",
        KeyRates(max_in_flight=100): "too_many_in_flight",
        KeyRates(requests_per_minute=100): "rate_limited",
        KeyRates(tokens_per_minute=100): "tokens_rate_limited",
    }
    for rates, code in codes.items():
        fleet = fleet_of(rates, 2)
        host = fleet.hosts["h0"]
        while not isinstance(found := host.admit(1.0, fleet.now), Rejected):
            pass
        assert (found.status, found.code, found.retry_after_seconds) == (429, code, 1)
        used = host.meter.usage.requests
        assert 10 <= used <= 50, "an idle host has less than half, and some"
        assert admit(fleet, "h0") == code
        fleet.run(fleet.now + 1.0)
        assert spend(fleet, "h0", 0.05) > 10


def test_what_a_cut_off_host_may_use_counts_until_it_is_heard_again() -> None:
    fleet = fleet_of(KeyRates(token_budget=900), 3)
    cut(fleet, "h2")
    assert spend(fleet, "h0", 8.0) == pytest.approx(900 - 112, abs=2)
    assert 0 < spend(fleet, "h2", 8.0) <= 113
    assert admit(fleet, "h0") == "budget_exhausted"
    total = sum(host.meter.usage.budget_tokens for host in fleet.hosts.values())
    cut(fleet)
    fleet.run(fleet.now + 1.0)
    assert spend(fleet, "h1", 8.0) == 900 - total, "nothing is lost and nothing counted twice"


def test_two_halves_of_a_fleet_stay_within_their_portions() -> None:
    fleet = fleet_of(KeyRates(token_budget=800), 4)
    cut(fleet, "h2", "h3")
    assert spend(fleet, "h0", 8.0) + spend(fleet, "h2", 8.0) <= 400
    cut(fleet)
    fleet.run(fleet.now + 1.0)
    spend(fleet, "h1", 12.0)
    assert sum(host.meter.usage.budget_tokens for host in fleet.hosts.values()) == 800


def test_two_hosts_that_reach_only_a_third_one_hear_of_each_other() -> None:
    rates = KeyRates(requests_per_minute=600, token_budget=10**6, max_in_flight=2000)
    fleet = fleet_of(rates, 3)
    fleet.path = lambda *ends: () if set(ends) == {"h0", "h1"} else (0.005,)
    sent = sum(spend(fleet, name, 0.1) for name in ["h0", "h1"] * 500)
    assert sent <= 600 + 1.1 * 10 * fleet.now
    usage = [fleet.hosts[name].meter.usage for name in ("h0", "h1")]
    for name, other in (("h0", usage[1]), ("h1", usage[0])):
        heard = fleet.hosts[name].portions.heard
        assert heard.budget_tokens == pytest.approx(other.budget_tokens, abs=20)
        assert heard.in_flight == pytest.approx(other.in_flight, abs=20)


def test_the_last_of_two_hosts_goes_on_with_its_half_of_a_rate() -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600), 2)
    fleet.hosts["h1"].up = False
    spend(fleet, "h0", 70.0)
    assert spend(fleet, "h0", 60.0) == pytest.approx(300, abs=5)
    fleet.leave("h1")
    spend(fleet, "h0", 70.0)
    assert spend(fleet, "h0", 60.0) == pytest.approx(600, abs=5), "it is in no table any more"


def test_most_of_a_fleet_goes_on_without_a_dead_host() -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600, max_in_flight=10**6), 4)
    fleet.hosts["h3"].up = False
    spend(fleet, "h0", 70.0)
    assert spend(fleet, "h0", 60.0) == pytest.approx(450, abs=10)


def test_what_runs_on_a_dead_host_counts_until_it_leaves_the_table() -> None:
    fleet = fleet_of(KeyRates(max_in_flight=4), 3)
    assert spend(fleet, "h2", 3.0) == 4
    fleet.hosts["h2"].up = False
    fleet.run(fleet.now + 10.0)
    assert admit(fleet, "h0") == "too_many_in_flight"
    fleet.leave("h2")
    fleet.run(fleet.now + 0.5)
    assert spend(fleet, "h0", 3.0) == 4


def test_what_runs_on_a_host_that_is_started_anew_is_over() -> None:
    fleet = fleet_of(KeyRates(max_in_flight=4), 3)
    assert spend(fleet, "h2", 3.0) == 4
    fleet.restart("h2")
    fleet.run(fleet.now + 0.5)
    assert spend(fleet, "h0", 3.0) == 4


def test_a_host_that_starts_alone_has_one_request_and_then_an_equal_part() -> None:
    fleet = fleet_of(KeyRates(token_budget=900), 3)
    fleet.hosts["h1"].up = fleet.hosts["h2"].up = False
    fleet.restart("h0", with_disk=False)
    assert spend(fleet, "h0", SILENT_SECONDS - 0.1) == 1
    assert 100 < spend(fleet, "h0", 5.0) < 300


def test_a_host_that_starts_alone_remembers_what_others_used() -> None:
    fleet = fleet_of(KeyRates(token_budget=900), 2)
    assert spend(fleet, "h1", 5.0) > 850
    fleet.hosts["h0"].save()
    fleet.hosts["h1"].up = False
    fleet.restart("h0")
    assert spend(fleet, "h0", 8.0) <= 25


def test_the_use_of_a_former_host_is_told_to_one_that_joins() -> None:
    fleet = fleet_of(KeyRates(token_budget=900), 2)
    used = spend(fleet, "h1", 1.0)
    fleet.run(fleet.now + 1.0)
    fleet.leave("h1")
    fleet.hosts["h1"].up = False
    fleet.run(fleet.now + SILENT_SECONDS + 1.0)
    fleet.join("h2")
    fleet.run(fleet.now + 1.0)
    assert fleet.hosts["h2"].portions.heard.budget_tokens == used
    assert spend(fleet, "h2", 8.0) == 900 - used


def test_a_host_that_joins_finds_the_buckets_as_they_are() -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600), 3)
    spend(fleet, "h0", 5.0)
    fleet.join("h3")
    fleet.run(fleet.now + 1.0)
    assert spend(fleet, "h3", 1.0) <= 25


def test_a_host_that_does_not_know_the_key_confirms_and_uses_nothing() -> None:
    peers = KeyPeers("h0", 1, 0.0)
    peers.apply(["h0", "h1"])
    rates = KeyRates(token_budget=1000)
    meter, portions = KeyMeter(rates, 0.0), Portions(peers, rates, 0.0)
    admitted = 0
    for now in (0.0, 0.1, 0.2, 0.3):
        portions.tick(meter.usage, meter.levels(now=now), now=now, unix=UNIX)
        word = portions.word("h1")
        if word is not None:
            portions.hear("h1", word_of_unknown_key(word, 1))
        while not isinstance(
            meter.admit(1.0, now=now, unix=UNIX, allowance=portions.allowance), Rejected
        ):
            admitted += 1
    assert admitted > 300


def test_an_idle_key_is_quiet() -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600, token_budget=10**6), 4)
    for _ in range(20):
        admit(fleet, "h1", 3.0)
    fleet.run(fleet.now + 15.0)
    words = fleet.words
    fleet.run(fleet.now + 20.0)
    assert fleet.words == words
    assert not any(host.portions.is_busy(fleet.now) for host in fleet.hosts.values())
    admit(fleet, "h1", 3.0)
    fleet.run(fleet.now + 0.3)
    assert fleet.words > words


def test_words_for_a_dead_host_take_bounded_memory() -> None:
    fleet = fleet_of(KeyRates(token_budget=10**6), 3)
    fleet.hosts["h2"].up = False
    for _ in range(150):
        admit(fleet, "h0", 3.0)
        fleet.run(fleet.now + 0.1)
    assert len(fleet.hosts["h0"].portions._rows) <= MOST_ROWS


def test_workers_of_a_host_share_its_allowance() -> None:
    fleet = fleet_of(KeyRates(token_budget=1000), 2)
    host = fleet.hosts["h0"]
    allowance = host.portions.allowance
    assert allowance is not None
    assert len(allowance.as_row()) == ROW_NUMBERS
    assert allowance_of_row(allowance.as_row()) == allowance
    workers = [KeyMeter(fleet.rates, fleet.now) for _ in range(3)]
    for worker in workers:
        while worker is workers[-1] or worker.usage.requests < 60:
            siblings = sum((w.usage for w in workers if w is not worker), NO_USAGE)
            found = worker.admit(
                1.0,
                now=fleet.now,
                unix=host.unix(fleet.now),
                others=siblings + host.portions.heard,
                allowance=allowance,
                siblings=siblings,
            )
            if isinstance(found, Rejected):
                break
    assert [worker.usage.requests for worker in workers[:2]] == [60, 60]
    assert sum(worker.usage.requests for worker in workers) == math.floor(allowance.budget.ceiling)


def test_a_stored_use_is_taken_by_nobody_else() -> None:
    """What a host stores is its own use; what it heard is stored beside it."""
    fleet = fleet_of(KeyRates(token_budget=1000), 2)
    spend(fleet, "h0", 0.5)
    fleet.run(fleet.now + 1.0)
    host = fleet.hosts["h1"]
    assert budget_use(fleet.rates, host.meter.usage) is None
    assert [(name, tokens) for name, _, _, tokens in host.portions.known()] == [
        ("h0", fleet.hosts["h0"].meter.usage.budget_tokens)
    ]


numbers = st.one_of(
    st.floats(), st.integers(-5, 5).map(float), st.sampled_from([1e300, -1e300, 2.0**53])
)
usages = st.builds(Usage, numbers, numbers, numbers, numbers, numbers)
words = st.builds(
    KeyWord,
    st.integers(-1, 3),
    st.integers(-1, 100),
    usages,
    usages,
    st.tuples(numbers, numbers),
    st.booleans(),
    st.integers(-1, 10**16),
    st.integers(-1, 10**6),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["h0", "h1", "h2", "x"]), st.integers(-1, 3), numbers, numbers),
        max_size=3,
    ).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["h1", "h2", "x", "h0"]), words), max_size=8))
def test_a_lying_peer_harms_no_more_than_the_key(told: list[tuple[str, KeyWord]]) -> None:
    rates = KeyRates(
        requests_per_minute=60, tokens_per_minute=600, max_in_flight=4, token_budget=500
    )
    peers = KeyPeers("h0", 10**15, 0.0)
    peers.apply(["h0", "h1", "h2"])
    meter, portions = KeyMeter(rates, 0.0), Portions(peers, rates, 0.0)
    now = 0.0
    for sender, word in [*told, ("h1", KeyWord(1, 1, NO_USAGE, NO_USAGE))]:
        now += 0.1
        peers.answered[sender] = now
        own = word.heard_number % 2 == 0
        portions.hear(
            sender,
            dataclasses.replace(word, heard_incarnation=portions.incarnation) if own else word,
        )
        recalled = portions.recalled(meter.usage)
        if recalled is not None:
            meter.restore(recalled)
        levels = meter.levels(now=now, others=portions.heard)
        portions.tick(meter.usage, levels, now=now, unix=UNIX)
        assert portions.allowance is not None
        assert all(math.isfinite(number) for number in portions.heard.as_row())
        assert all(math.isfinite(number) for number in portions.allowance.as_row())
        for name in ("h1", "h2"):
            answer = portions.word(name)
            assert answer is None or all(
                math.isfinite(number) and number >= 0 for number in answer.portion.as_row()
            )
        meter.admit(5.0, now=now, unix=UNIX, others=portions.heard, allowance=portions.allowance)
    assert meter.usage.in_flight <= 4
    assert meter.usage.budget_tokens <= 505


def test_a_peer_that_makes_hosts_up_takes_bounded_memory() -> None:
    peers = KeyPeers("h0", 1, 0.0)
    peers.apply(["h1"])
    portions = Portions(peers, KeyRates(token_budget=9), 0.0)
    portions.tick(NO_USAGE, (0.0, 0.0), now=0.0, unix=UNIX)
    day = period_start(UNIX, BudgetPeriod.DAY)
    for number in range(3):
        absent = tuple((f"x{number}-{n}", 1, day, 1.0) for n in range(MOST_ABSENT))
        portions.hear("h1", KeyWord(1, number, NO_USAGE, NO_USAGE, absent=absent))
    assert len(portions.known()) <= MOST_ABSENT


def test_a_first_part_leaves_the_others_theirs() -> None:
    assert first_part(90.0, 1).unheard == 0
    part = first_part(90.0, 3)
    assert (part.ceiling, part.unheard, part.largest) == (30, 60, 30)
    assert not part.refuses(0, 30, 90)
    assert part.refuses(1, 30, 89)
    assert part.refuses(0, 29, 88)


def test_a_period_that_began_elsewhere_leaves_the_former_ones_use() -> None:
    rates = KeyRates(token_budget=1000, budget_period=BudgetPeriod.HOUR)
    peers = KeyPeers("h0", 1, 0.0)
    peers.apply(["h1"])
    portions = Portions(peers, rates, 0.0)
    hour = period_start(UNIX, BudgetPeriod.HOUR)

    def tick(unix: float) -> Usage:
        portions.tick(NO_USAGE, (0.0, 0.0), now=0.1, unix=unix)
        return portions.heard

    def used(start: float, tokens: float) -> Usage:
        return Usage(budget_start=start, budget_tokens=tokens)

    tick(UNIX)
    portions.hear("h1", KeyWord(1, 1, used(hour, 300.0), used(hour, 250.0)))
    assert tick(UNIX).budget_in(hour) == 300
    assert portions.allowance is not None
    assert portions.allowance.budget.unheard == 250
    portions.hear("h1", KeyWord(1, 2, used(hour + 3600, 10.0), used(hour + 3600, 400.0)))
    assert tick(UNIX).budget_in(hour) == 300
    assert portions.allowance.budget.unheard == 0, "its clock is ahead: it uses no more"
    new = portions.allowance.budget_in(hour + 3600, 1000.0)
    assert (new.floor, new.ceiling, new.unheard) == (0, 500, 500)
    assert tick(UNIX + 3600).budget_in(hour + 3600) == 10
    assert portions.allowance.budget.unheard == 400
