"""Measures how well several hosts keep one key's limits, in simulated time.

    python -m bench.dispatch.key_limits [--quick] [--seeds 3] [--jobs 1]

Each host admits requests by `core.keys.portions`, and tells its peers every 100 ms over a network
of 1 to 10 ms. Beside it, one proxy that knows all admits the same requests. Columns: the most that
was used beyond the limit, in requests; what one proxy would have admitted and the hosts did not, as
a share of what it admitted; words that a host tells a peer per second. Figures are the worst of all
seeds for the first, medians for the others. A cut parts half of the hosts, less one, from the
others for 20 of the 60 seconds.

Goals: no more than one request for each further host is beyond a limit; without a cut and with up
to 8 hosts, no more than a quarter is refused that one proxy would have admitted. Misses are printed
as such, and the exit code is 1.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.command import options
from bench.dispatch.key_fleet import UNIX, KeyFleet
from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.keys.rates import Allowed, KeyMeter

TOKENS: Final = 10.0
SECONDS: Final = 60.0
SERVICE_SECONDS: Final = 1.0
BEGIN: Final = 1.0
"""Hosts know each other by then."""
CUT: Final = (20.0, 40.0)
EARLY: Final = 0.25


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit and the requests per second that meet it: about 1.3 times what it admits."""

    name: str
    rates: KeyRates
    rate: float


LIMITS: Final = (
    Limit("budget of 40 requests", KeyRates(token_budget=400), 2.0),
    Limit("budget of 1000 requests", KeyRates(token_budget=10_000), 20.0),
    Limit("60 requests/min", KeyRates(requests_per_minute=60), 2.6),
    Limit("600 requests/min", KeyRates(requests_per_minute=600), 26.0),
    Limit("6000 tokens/min", KeyRates(tokens_per_minute=6000), 26.0),
    Limit("4 in flight", KeyRates(max_in_flight=4), 5.0),
    Limit("64 in flight", KeyRates(max_in_flight=64), 80.0),
)
HOSTS: Final = (2, 8, 32)


@dataclasses.dataclass(frozen=True)
class Case:
    """One run."""

    limit: Limit
    hosts: int
    even: bool
    cut: bool
    seed: int


@dataclasses.dataclass
class Found:
    """What came of it: requests beyond the limit, refused too early, words per peer and second."""

    beyond: float
    early: float
    words: float


class Count:
    """Counts what is used of a limit, and by how many requests it was exceeded at most."""

    def __init__(self, rates: KeyRates) -> None:
        self.rates = rates
        self.admitted = 0
        self.running = 0
        self.beyond = 0.0
        # Buckets that go into debt: the level is what is left.
        self._levels = [float(rates.requests_per_minute), rates.tokens_per_minute / TOKENS]
        self._sizes = tuple(self._levels)
        self._at = 0.0

    def add(self, now: float) -> None:
        """Count an admitted request."""
        self.admitted += 1
        self.running += 1
        rates = self.rates
        if rates.token_budget:
            self._exceeds(self.admitted - rates.token_budget / TOKENS)
        if rates.max_in_flight:
            self._exceeds(self.running - rates.max_in_flight)
        for at, size in enumerate(self._sizes):
            if size:
                filled = self._levels[at] + (now - self._at) * size / 60
                self._levels[at] = min(size, filled) - 1
                self._exceeds(-self._levels[at])
        self._at = now

    def _exceeds(self, requests: float) -> None:
        self.beyond = max(self.beyond, requests)


def run(case: Case) -> tuple[Case, Found]:
    """Run one case."""
    dice = random.Random(case.seed)
    away = {f"h{n}" for n in range(1, 1 + max(1, (case.hosts - 1) // 2))}
    fleet = KeyFleet(case.limit.rates, case.hosts, lambda *_: (dice.uniform(0.001, 0.01),))
    whole = fleet.path

    def cut(one: str, other: str) -> tuple[float, ...]:
        return whole(one, other) if (one in away) == (other in away) else ()

    if case.cut:
        fleet.at(CUT[0], lambda: setattr(fleet, "path", cut))
        fleet.at(CUT[1], lambda: setattr(fleet, "path", whole))
    one = KeyMeter(case.limit.rates, 0.0)
    count, count_of_one = Count(case.limit.rates), Count(case.limit.rates)
    names = sorted(fleet.hosts)

    def ended(number: Count, settle: Callable[[], None]) -> None:
        number.running -= 1
        settle()

    now = BEGIN
    while now < BEGIN + SECONDS:
        fleet.run(now)
        service = dice.expovariate(1 / SERVICE_SECONDS)
        host = fleet.hosts[dice.choice(names) if case.even else names[0]]
        found = host.admit(TOKENS, now)
        if not isinstance(found, Rejected):
            count.add(now)
            settle = functools.partial(_settle, fleet, found.host.meter, found.allowed)
            fleet.at(now + service, functools.partial(ended, count, settle))
        verdict = one.admit(TOKENS, now=now, unix=UNIX + now)
        if not isinstance(verdict, Rejected):
            count_of_one.add(now)
            settle = functools.partial(_settle, fleet, one, verdict)
            fleet.at(now + service, functools.partial(ended, count_of_one, settle))
        now += dice.expovariate(case.limit.rate)
    early = max(0.0, 1 - count.admitted / count_of_one.admitted)
    pairs = case.hosts * (case.hosts - 1)
    return case, Found(count.beyond, early, fleet.words / pairs / SECONDS)


def _settle(fleet: KeyFleet, meter: KeyMeter, allowed: Allowed) -> None:
    meter.settle(allowed, TOKENS, now=fleet.now, unix=UNIX + fleet.now)


def cases(hosts: Sequence[int], seeds: int) -> Iterator[Case]:
    """All of them."""
    for limit, count, even, cut in itertools.product(LIMITS, hosts, (True, False), (False, True)):
        if not (cut and not even):
            for seed in range(seeds):
                yield Case(limit, count, even, cut, seed)


def main() -> int:
    """Print the table; the exit status."""
    chosen = options(__doc__, seeds=3, jobs=1, quick=False).parse_args()
    hosts = HOSTS[:2] if chosen.quick else HOSTS
    seeds = 1 if chosen.quick else chosen.seeds
    found: dict[Case, list[Found]] = {}
    with concurrent.futures.ProcessPoolExecutor(chosen.jobs) as pool:
        for case, figures in pool.map(run, cases(hosts, seeds)):
            found.setdefault(dataclasses.replace(case, seed=0), []).append(figures)
    misses: list[str] = []
    print(f"{'limit':24} {'hosts':>5}  {'traffic':12} {'beyond':>6} {'early':>6} {'words':>6}")
    for case, all_found in found.items():
        beyond = max(one.beyond for one in all_found)
        early = statistics.median(one.early for one in all_found)
        words = statistics.median(one.words for one in all_found)
        traffic = "even, cut" if case.cut else "even" if case.even else "at one host"
        line = f"{case.limit.name:24} {case.hosts:5}  {traffic:12}"
        print(f"{line} {beyond:6.1f} {early:6.1%} {words:6.2f}")
        if beyond > case.hosts - 1 + 1e-6:
            misses.append(f"beyond the bound: {line} {beyond:.1f}")
        if early > EARLY and not case.cut and case.hosts <= 8:
            misses.append(f"refused too early: {line} {early:.1%}")
    for miss in misses:
        print(f"MISSED {miss}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
