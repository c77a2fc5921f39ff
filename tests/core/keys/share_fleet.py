"""Simulates hosts that use one key by the shares that a head divides; tables come late or never."""

import math
import random

from partitiond.core.demand.traffic import KeyCount, TrafficSample
from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import HostShares, KeyRates, KeyRoute
from partitiond.core.keys.rates_and_budgets import NO_USAGE, NOT_RESERVED, Allowed, KeyMeter, Usage
from partitiond.core.keys.shares import Division, KeyShares
from partitiond.core.keys.wall_clock import WallClock

UNIX = 3600.0 * 480_000
LOOK_SECONDS = 2.0


def ask(
    meter: KeyMeter,
    tokens: float,
    *,
    now: float,
    unix: float,
    others: Usage = NO_USAGE,
    latest: float = math.inf,
) -> Allowed | Rejected:
    """Begin a request, and reserve its tokens; one that gets none ends at once."""
    found = meter.begin(now=now, others=others)
    if found is not None:
        return found
    reserved = meter.reserve(tokens, now=now, unix=unix, others=others, latest=latest)
    if isinstance(reserved, Rejected):
        meter.settle(NOT_RESERVED, 0.0, now=now, unix=unix, latest=latest)
    return reserved


class ShareHost:
    """One host: its meter, and the tables that are on their way to it."""

    def __init__(self, rates: KeyRates, ahead: float) -> None:
        self.rates, self.ahead = rates, ahead
        self.shares = HostShares()
        self.clock = WallClock()
        self.meter: KeyMeter | None = None
        self.coming: list[tuple[float, HostShares]] = []
        self.flights: list[Allowed] = []
        self.used: dict[float, float] = {}
        self.admitted: list[tuple[float, float]] = []
        self.refused = 0
        self.refused_tokens = 0.0
        self.last: Rejected | None = None

    def take(self, now: float) -> None:
        """Take the tables that have come by now; an older one is ignored."""
        for at, shares in self.coming:
            if at <= now and shares.number > self.shares.number:
                self.apply(shares, now)
        self.coming = [(at, shares) for at, shares in self.coming if at > now]

    def apply(self, shares: HostShares, now: float) -> None:
        self.shares = shares
        row = next(iter(shares.rows), None)
        if self.meter is None:
            self.meter = KeyMeter(self.rates, now, row, shares.part)
        else:
            self.meter.apply(self.rates, now, row, shares.part)

    def ask(self, tokens: float, now: float) -> bool:
        assert self.meter is not None
        unix = UNIX + now + self.ahead
        latest = self.clock.latest(now, unix)
        found = ask(self.meter, tokens, now=now, unix=unix, latest=latest)
        if isinstance(found, Rejected):
            self.last = found
            self.refused, self.refused_tokens = self.refused + 1, self.refused_tokens + tokens
            return False
        self.flights.append(found)
        self.admitted.append((now, tokens))
        self.used[found.budget_start] = self.used.get(found.budget_start, 0.0) + tokens
        return True

    def end(self, now: float) -> None:
        """End the oldest request, which used what was estimated."""
        assert self.meter is not None
        if self.flights:
            done = self.flights.pop(0)
            unix = UNIX + now + self.ahead
            latest = self.clock.latest(now, unix)
            self.meter.settle(done, done.tokens, now=now, unix=unix, latest=latest)

    def sample(self, now: float) -> TrafficSample:
        assert self.meter is not None
        use = self.meter.usage
        count = KeyCount(
            len(self.admitted), use.tokens, self.refused, self.refused_tokens, use.in_flight,
            use.budget_start, use.budget_tokens,
        )  # fmt: skip
        keys = {"k": count} if count != KeyCount() else {}
        return TrafficSample(now, keys=keys, shares_number=self.shares.number)


class ShareFleet:
    """The hosts and their head.

    Attributes:
        cut: hosts that neither answer nor take tables.
        lost: hosts that the head leaves out of the table.
        ahead: seconds by which the head's clock is wrong.
    """

    def __init__(self, rates: KeyRates, names: str, seed: int = 0, skew: float = 0.0) -> None:
        self.dice = random.Random(seed)
        self.rates, self.now = rates, 0.0
        self.hosts = {name: ShareHost(rates, self.dice.uniform(-skew, skew)) for name in names}
        self.cut: set[str] = set()
        self.lost: set[str] = set()
        self.kept: dict[str, Division] = {}
        self.heads = 0
        self.ahead = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin another head, which knows what the one before stored."""
        self.heads += 1
        self.head = KeyShares(self.kept, self.heads * 1_000_000)
        self.apply()

    def apply(self) -> None:
        """Tell the table after hosts came or went."""
        there = sorted(self.hosts.keys() - self.lost)
        self.head.apply([KeyRoute("k", "0" * 64, rates=self.rates)], there)
        self.tell()

    def join(self, name: str) -> None:
        self.hosts[name] = ShareHost(self.rates, 0.0)
        self.apply()

    def tell(self, delay: float = 0.0) -> None:
        """Store, then tell each host; of tables on their way a part is lost."""
        for key_id, division in self.head.unsaved.items():
            if division is not None:
                self.kept[key_id] = division
        self.head.unsaved.clear()
        for name, host in self.hosts.items():
            if name not in self.cut:
                host.coming.append((self.now + self.dice.uniform(0.0, delay), self.head.of(name)))
            host.take(self.now)
            if host.meter is None:
                host.apply(self.head.of(name), self.now)

    def look(self, delay: float = 0.0, loss: float = 0.0) -> None:
        """Look at the hosts that answer, and tell them."""
        samples = {
            name: host.sample(self.now)
            for name, host in self.hosts.items()
            if name not in self.cut and self.dice.random() >= loss
        }
        self.head.look(samples, self.now, UNIX + self.now + self.ahead)
        self.tell(delay)

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts.values():
            host.take(self.now)

    def drive(self, seconds: float, each: dict[str, float], tokens: float = 10.0) -> dict[str, int]:
        """Ask hosts so often a second, as evenly as may be; return what they admitted."""
        found, owed = dict.fromkeys(each, 0), dict.fromkeys(each, 0.0)
        look_at = self.now
        end = self.now + seconds
        while self.now < end:
            if self.now >= look_at:
                self.look()
                look_at += LOOK_SECONDS
            for name, rate in each.items():
                owed[name] += rate * 0.25
                while owed[name] >= 1.0:
                    owed[name] -= 1.0
                    found[name] += self.hosts[name].ask(tokens, self.now)
            self.pass_seconds(0.25)
            for host in self.hosts.values():
                while host.flights:
                    host.end(self.now)
        return found


def admitted(fleet: ShareFleet) -> list[tuple[float, float]]:
    """When requests were admitted, with their tokens, over all hosts."""
    return sorted(one for host in fleet.hosts.values() for one in host.admitted)
