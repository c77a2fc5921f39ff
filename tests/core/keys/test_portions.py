"""Several hosts serve one key and stay within its limits."""

import dataclasses
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.dispatch.key_fleet import UNIX, KeyFleet, Receipt
from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import BudgetPeriod, KeyRates
from partitiond.core.keys import portions as sharing
from partitiond.core.keys.allowance import ROW_NUMBERS, allowance_of_row, first_part
from partitiond.core.keys.portions import MOST_ABSENT, MOST_ROWS, KeyPeers, KeyWord, Portions
from partitiond.core.keys.rates import NO_USAGE, Allowed, KeyMeter, Usage, period_start

SIZES = (1.0, 7.5, 40.0)
"""Tokens of a request."""


Flight = tuple[Receipt, float]
"""A request in flight and what it was estimated at."""


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

    def request(self, name: str, tokens: float) -> None:
        """Send one. The bounds are checked if it was admitted."""
        host = self.fleet.hosts[name]
        found = host.admit(tokens, self.fleet.now)
        if isinstance(found, Rejected):
            return
        self.flying.append((found, tokens))
        self.requests += 1
        start = found.allowed.budget_start
        self.used[start] = self.used.get(start, 0.0) + tokens
        if not self.strict:
            return
        rates, further = self.fleet.rates, self.most_hosts - 1 + self.lives
        if rates.token_budget:
            most = rates.token_budget + further * max(SIZES)
            assert self.used[start] <= most + 1e-6, "the budget"
        if rates.max_in_flight:
            running = sum(self.runs(receipt) for receipt, _ in self.flying)
            assert running <= rates.max_in_flight + further, "in flight"
        if rates.requests_per_minute:
            rate = rates.requests_per_minute / 60
            # The equal share of a host that is cut off begins by its own clock.
            due = rates.requests_per_minute + rate * self.fleet.now
            assert self.requests <= due + further + 1e-6, "requests"

    def runs(self, receipt: Receipt) -> bool:
        return receipt.host.up and receipt.host.life == receipt.life

    def settle(self, flight: Flight, actual: float) -> None:
        receipt, tokens = flight
        self.flying.remove(flight)
        now_period = period_start(receipt.host.unix(self.fleet.now), self.fleet.rates.budget_period)
        if self.runs(receipt):
            receipt.host.settle(receipt, actual, self.fleet.now)
            if receipt.allowed.budget_start == now_period:
                self.used[now_period] += actual - tokens

    def some_time(self, seconds: float, rate: float) -> None:
        """Let requests come and end."""
        until = self.fleet.now + seconds
        while True:
            self.fleet.run(self.fleet.now + self.dice.expovariate(rate))
            if self.fleet.now >= until:
                return
            if self.flying and self.dice.random() < 0.5:
                flight = self.dice.choice(self.flying)
                self.settle(flight, self.dice.choice([0.0, 0.5, 1.0]) * flight[1])
            up = [name for name in sorted(self.fleet.table) if self.fleet.hosts[name].up]
            self.request(self.dice.choice(up), self.dice.choice(SIZES))

    def heal(self) -> None:
        """Let all messages through, and all requests end."""
        self.group, self.broken, self.lost, self.mean_delay = {}, set(), 0.0, 0.01
        while self.flying:
            self.settle(self.flying[0], self.flying[0][1])
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


def cut_off(truth: Truth) -> None:
    for _ in range(2):
        truth.group = {name: truth.dice.randrange(2) for name in truth.fleet.hosts}
        truth.some_time(truth.dice.choice([1.0, 8.0]), 20.0)
        truth.group = {}
        truth.some_time(truth.dice.choice([1.0, 5.0]), 20.0)


def partly_reached(truth: Truth) -> None:
    """Some hosts do not reach some others: only the sums are known, and afterwards."""
    truth.strict = False
    names = sorted(truth.fleet.hosts)
    truth.broken = {frozenset(truth.dice.sample(names, 2)) for _ in names[1:]}
    truth.some_time(8.0, 20.0)


def changing(truth: Truth) -> None:
    """Restarts, joins and leaves."""
    fleet, dice = truth.fleet, truth.dice
    for _ in range(4):
        what = dice.choice(["restart", "restart without disk", "join", "leave", "return"])
        # What was told a moment ago is known; what was not is lost with the process.
        fleet.run(fleet.now + 2.0)
        name, alone = dice.choice(sorted(fleet.table)), len(fleet.table) == 1
        if what.startswith("restart"):
            fleet.hosts[name].save()
            fleet.restart(name, with_disk=what == "restart" or alone)
            # A host alone begins with full buckets, as one that never had others does.
            truth.lives += 1 + (fleet.rates.requests_per_minute if alone else 0)
        elif what == "join":
            fleet.join(f"h{len(fleet.hosts)}")
        elif what == "leave" and not alone:
            fleet.leave(name)
        elif what == "return":
            fleet.join(dice.choice(sorted(fleet.hosts)))
        truth.most_hosts = max(truth.most_hosts, len(fleet.hosts))
        truth.some_time(dice.choice([0.5, 5.0]), 20.0)


def reached(truth: Truth) -> None:
    truth.some_time(6.0, 20.0)


@pytest.mark.parametrize("life", [reached, cut_off, partly_reached, changing])
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 8), st.sampled_from(KINDS), st.sampled_from([0.01, 0.3])
)
def test_hosts_keep_a_limit_together_and_neither_lose_nor_double_use(
    life: Callable[[Truth], None], seed: int, count: int, rates: KeyRates, delay: float
) -> None:
    truth = Truth(rates, count, seed, mean_delay=delay if life is reached else 0.02)
    truth.some_time(2.0, 20.0)
    life(truth)
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


def step_of(fleet: KeyFleet, step: str) -> None:
    """Let one thing happen, such as "h0 sends 0 to 25 in 8 s": as many as are admitted."""
    who, what, *more = step.split()
    host = fleet.hosts.get(who)
    match what:
        case "sends":
            sent = spend(fleet, who, float(more[4]))
            assert float(more[0]) <= sent <= float(more[2]), f"{step}: {sent}"
        case "used":
            used = sum(host.meter.usage.budget_tokens for host in fleet.hosts.values())
            assert float(more[0]) <= used <= float(more[2]), f"{step}: {used}"
        case "refuses":
            assert admit(fleet, who) == more[0], step
        case "ends":
            assert host is not None
            for _ in range(int(more[0])):
                unix = host.unix(fleet.now)
                host.meter.settle(Allowed(1.0, 0.0), 1.0, now=fleet.now, unix=unix)
        case "dies" if host is not None:
            host.up = False
        case "saves" if host is not None:
            host.save()
        case "restarts":
            fleet.restart(who, with_disk=not more)
        case "joins":
            fleet.join(who)
        case "leaves":
            fleet.leave(who)
        case "alone":
            apart = {who, *more}
            fleet.path = lambda one, other: (0.005,) if (one in apart) == (other in apart) else ()
        case _:
            assert what == "s", step
            fleet.run(fleet.now + float(who))


BUDGET, RATE, FLYING = (
    KeyRates(token_budget=900), KeyRates(requests_per_minute=600), KeyRates(max_in_flight=4)
)  # fmt: skip
WHOLE_BUDGET = (
    "h0 sends 850 to 900 in 4 s; h0 sends 0 to 50 in 10 s; all used 900 to 900;"
    " h0 refuses budget_exhausted; h1 refuses budget_exhausted"
)
ALL_FLY = "h2 sends 4 to 4 in 3 s; "


@pytest.mark.parametrize(
    ("rates", "count", "story"),
    [
        pytest.param(*row, id=name)
        for name, *row in [
            ("one alone uses all at once", BUDGET, 1, "h0 sends 900 to 900 in 0.1 s"),
            # The last requests go one at a time.
            ("a busy one of two uses a whole budget", BUDGET, 2, WHOLE_BUDGET),
            ("and one of 32", BUDGET, 32, WHOLE_BUDGET),
            ("a busy one uses all of a rate", RATE, 8, "h0 sends 890 to 920 in 30 s"),
            ("and has all in flight", FLYING, 8, "h2 sends 4 to 4 in 3 s;"
             " h1 refuses too_many_in_flight; h2 refuses too_many_in_flight; h2 ends 4; 1 s;"
             " h1 sends 4 to 4 in 3 s"),
            # What a host that is cut off may use counts until it is heard again.
            ("one is cut off", BUDGET, 3, "h2 alone; h0 sends 786 to 790 in 8 s;"
             " h2 sends 1 to 113 in 8 s; h0 refuses budget_exhausted; nobody alone; 1 s;"
             " h1 sends 0 to 900 in 8 s; all used 900 to 900"),
            ("two halves", BUDGET, 4, "h2 alone h3; h0 sends 0 to 450 in 8 s;"
             " h2 sends 0 to 450 in 8 s; all used 0 to 450; nobody alone; 1 s;"
             " h1 sends 0 to 900 in 12 s; all used 900 to 900"),
            ("the last of two", RATE, 2, "h1 dies; h0 sends 0 to 9999 in 70 s;"
             " h0 sends 295 to 305 in 60 s; h1 leaves; h0 sends 0 to 9999 in 70 s;"
             " h0 sends 595 to 605 in 60 s"),
            ("most of a fleet", RATE, 4, "h3 dies; h0 sends 0 to 9999 in 70 s;"
             " h0 sends 440 to 460 in 60 s"),
            ("what runs on a dead one counts", FLYING, 3, ALL_FLY + "h2 dies; 10 s;"
             " h0 refuses too_many_in_flight; h2 leaves; 0.5 s; h0 sends 4 to 4 in 3 s"),
            ("what ran on one that is started anew is over", FLYING, 3, ALL_FLY +
             "h2 restarts; 0.5 s; h0 sends 4 to 4 in 3 s"),
            ("one that starts alone", BUDGET, 3, "h1 dies; h2 dies; h0 restarts empty;"
             " h0 sends 1 to 1 in 2.9 s; h0 sends 101 to 299 in 5 s"),
            ("and remembers what others used", BUDGET, 2, "h1 sends 851 to 900 in 5 s; h0 saves;"
             " h1 dies; h0 restarts; h0 sends 0 to 25 in 8 s"),
            ("one joins after another left", BUDGET, 2, "h1 sends 1 to 900 in 1 s; 1 s; h1 leaves;"
             " h1 dies; 4 s; h2 joins; 1 s; h2 sends 0 to 900 in 8 s; all used 900 to 900"),
            ("one joins and finds the buckets as they are", RATE, 3, "h0 sends 0 to 9999 in 5 s;"
             " h3 joins; 1 s; h3 sends 0 to 25 in 1 s"),
        ]
    ],
)  # fmt: skip
def test_hosts_use_all_of_a_limit_but_what_those_may_use_that_are_not_heard(
    rates: KeyRates, count: int, story: str
) -> None:
    fleet = fleet_of(rates, count)
    assert (fleet.hosts["h0"].portions.allowance is None) == (count == 1)
    for step in story.split("; "):
        step_of(fleet, step)


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
        assert 10 <= host.meter.usage.requests <= 50, "an idle host has less than half, and some"
        fleet.run(fleet.now + 1.0)
        assert spend(fleet, "h0", 0.05) > 10


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
            portions.hear("h1", sharing.word_of_unknown_key(word, 1))
        while not isinstance(
            meter.admit(1.0, now=now, unix=UNIX, allowance=portions.allowance), Rejected
        ):
            admitted += 1
    assert admitted > 300


def test_an_idle_key_is_quiet_and_words_for_a_dead_host_take_bounded_memory() -> None:
    fleet = fleet_of(KeyRates(requests_per_minute=600, token_budget=10**6), 4)
    for _ in range(20):
        admit(fleet, "h1", 3.0)
    fleet.run(fleet.now + 15.0)
    words = fleet.words
    fleet.run(fleet.now + 20.0)
    assert fleet.words == words
    assert not any(host.portions.is_busy(fleet.now) for host in fleet.hosts.values())
    fleet.hosts["h2"].up = False
    for _ in range(150):
        admit(fleet, "h0", 3.0)
        fleet.run(fleet.now + 0.1)
    assert fleet.words > words
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
                1.0, now=fleet.now, unix=host.unix(fleet.now), allowance=allowance,
                others=siblings + host.portions.heard, siblings=siblings,
            )  # fmt: skip
            if isinstance(found, Rejected):
                break
    assert [worker.usage.requests for worker in workers[:2]] == [60, 60]
    assert sum(worker.usage.requests for worker in workers) == math.floor(allowance.budget.ceiling)


numbers = st.one_of(
    st.floats(), st.integers(-5, 5).map(float), st.sampled_from([1e300, -1e300, 2.0**53])
)
usages = st.builds(Usage, numbers, numbers, numbers, numbers, numbers)
absent = st.tuples(st.sampled_from(["h0", "h1", "h2", "x"]), st.integers(-1, 3), numbers, numbers)
words = st.builds(
    KeyWord, st.integers(-1, 3), st.integers(-1, 100), usages, usages,
    st.tuples(numbers, numbers), st.booleans(), st.integers(-1, 10**16), st.integers(-1, 10**6),
    st.booleans(), st.lists(absent, max_size=3).map(tuple),
)  # fmt: skip


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
