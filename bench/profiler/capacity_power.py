"""Measures how often a capacity trial's verdict errs, on simulated servers with known answers.

    python -m bench.profiler.capacity_power [--runs 200] [--seed 1]

Requests arrive by Poisson and take one of b places; further requests wait. A trial must hold a
rate below the server's sustained rate and fail a rate above it. The servers are places that serve
for a fixed or a varying time, and engines whose step time is a + c n with n requests running (so
that a full engine is hardly faster than a half-full one if a is small).
"""

import dataclasses
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence

from bench.command import options
from partitiond.profiler.sweep.poisson_rate import OpenTrial, open_trial
from partitiond.profiler.sweep.stability import ServedRequest, below_one, grows, utilisation

LOADS = (0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
"""Rates, as a share of the rate that the server sustains."""
CASES = ((4, 0.3), (8, 1.2), (16, 20.0), (16, 68.0), (32, 100.0))
"""Number of places and mean latency at full load, in seconds."""
VARIATION = 0.7
"""Standard deviation over mean of output lengths, if they vary."""


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """Attributes:
    fixed_share: a over the step time of a full engine; None for places that serve independently.
    variation: standard deviation over mean of the lengths.
    explained: share of the scatter of service times (their logarithm) that lengths explain.
    """

    name: str
    fixed_share: float | None
    variation: float = 0.0
    explained: float = 1.0


SERVERS = (
    Server("places, fixed times", None),
    Server("places, times vary with length", None, VARIATION, 0.9),
    Server("places, times vary unexplained", None, VARIATION, 0.0),
    Server("engine, a is half of a step", 0.5),
    Server("engine, the same, lengths vary", 0.5, VARIATION),
    Server("engine, throughput nearly flat", 0.05),
    Server("engine, nearly flat, lengths vary", 0.05, VARIATION),
)


def serve(
    server: Server, batch: int, e2el_seconds: float, trial: OpenTrial, rng: random.Random
) -> list[ServedRequest]:
    """Every request due before the window's end; others follow them until all have ended."""
    closed = trial.warm_up_seconds + trial.seconds
    arrivals = _arrivals(server, trial.req_per_s, rng)
    if server.fixed_share is None:
        return _places(batch, e2el_seconds, closed, arrivals)
    pace = _Pace(e2el_seconds * server.fixed_share, e2el_seconds * (1 - server.fixed_share) / batch)
    return _engine(pace, batch, closed, arrivals)


@dataclasses.dataclass(frozen=True, slots=True)
class _Arrival:
    at: float
    length: float
    work: float


def _arrivals(server: Server, rate: float, rng: random.Random) -> Iterator[_Arrival]:
    """Arrivals with lengths and work of mean 1, lognormal."""
    sigma = math.sqrt(math.log1p(server.variation**2))
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        of_length = rng.gauss(0, 1)
        other = rng.gauss(0, 1)
        of_work = server.explained * of_length + math.sqrt(1 - server.explained**2) * other
        yield _Arrival(
            at,
            math.exp(sigma * of_length - sigma**2 / 2),
            math.exp(sigma * of_work - sigma**2 / 2),
        )


def _places(
    batch: int, e2el: float, closed: float, arrivals: Iterator[_Arrival]
) -> list[ServedRequest]:
    """Serve each request alone: later requests change nothing for earlier ones."""
    free = [0.0] * batch
    served = []
    for one in itertools.takewhile(lambda a: a.at < closed, arrivals):
        begun = max(one.at, heapq.heappop(free))
        heapq.heappush(free, begun + e2el * one.work)
        served.append(ServedRequest(one.at, begun, begun + e2el * one.work, one.length))
    return served


@dataclasses.dataclass(frozen=True, slots=True)
class _Pace:
    """Seconds of a mean request with n running: fixed + each n."""

    fixed: float
    each: float

    def of(self, running: int) -> float:
        return 1 / (self.fixed + self.each * max(1, running))


def _engine(
    paces: _Pace, batch: int, closed: float, arrivals: Iterator[_Arrival]
) -> list[ServedRequest]:
    """Serve all running requests at one common pace."""
    now = progress = 0.0
    running: list[tuple[float, int, float, _Arrival]] = []  # progress at its end, tie, begun
    waiting: deque[_Arrival] = deque()
    number, counted = itertools.count(), 0
    served: list[ServedRequest] = []
    coming = next(arrivals)
    while counted or coming.at < closed:
        pace = paces.of(len(running))
        ends = now + (running[0][0] - progress) / pace if running else math.inf
        if coming.at <= ends:
            progress, now = progress + pace * (coming.at - now), coming.at
            counted += now < closed
            waiting.append(coming)
            coming = next(arrivals)
        else:
            progress, now = progress + pace * (ends - now), ends
            _, _, begun, one = heapq.heappop(running)
            if one.at < closed:
                counted -= 1
                served.append(ServedRequest(one.at, begun, now, one.length))
        if waiting and len(running) < batch:
            one = waiting.popleft()
            heapq.heappush(running, (progress + one.work, next(number), now, one))
    return sorted(served, key=lambda s: s.arrived)


def held(requests: Sequence[ServedRequest], batch: int, trial: OpenTrial) -> bool:
    """Our verdict, for requests with a mean length of 1."""
    opened = trial.warm_up_seconds
    closed = opened + trial.seconds
    counted = [one for one in requests if opened <= one.arrived < closed]
    needed = utilisation(counted, trial.req_per_s, batch, 1.0)
    return below_one(needed) and not grows(requests, opened, closed)


def our_trial(batch: int, req_per_s: float, e2el_seconds: float) -> OpenTrial:
    """A trial without an SLO, with the default windows."""
    return open_trial(
        batch, req_per_s, e2el_seconds, min_window_seconds=10.0, slo=None, seed=0
    )  # fmt: skip


def share_held(
    server: Server, batch: int, e2el_seconds: float, load: float, *, runs: int, seed: int
) -> float:
    """Share of trials at this load with the verdict "held"."""
    trial = our_trial(batch, load * batch / e2el_seconds, e2el_seconds)
    draws = (random.Random(f"{seed} {load} {run}") for run in range(runs))
    return (
        sum(held(serve(server, batch, e2el_seconds, trial, d), batch, trial) for d in draws) / runs
    )


def main() -> None:
    given = options(__doc__, runs=200, seed=1).parse_args()
    print(f"false verdicts in % of {given.runs} trials: failed below what the server sustains,")
    print("held above it; at 1.0 either is right, and the share that was held is given.\n")
    head = "".join(f"{load:>7}" for load in LOADS)
    for batch, e2el in CASES:
        trial = our_trial(batch, 0.8 * batch / e2el, e2el)
        print(f"{batch} places, latency {e2el:g} s; window at 0.8: {trial.seconds:.0f} s "
              f"({trial.expected_seconds:.0f} s in all)")  # fmt: skip
        print(f"  {'':<34}{head}")
        for server in SERVERS:
            shares = [
                share_held(server, batch, e2el, load, runs=given.runs, seed=given.seed)
                for load in LOADS
            ]
            wrong = [1 - s if load < 1 else s for load, s in zip(LOADS, shares, strict=True)]
            row = "".join(f"{100 * share:>7.1f}" for share in wrong)
            print(f"  {server.name:<34}{row}", flush=True)
        print()


if __name__ == "__main__":
    main()
