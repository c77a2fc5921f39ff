"""Defines fleets, loads and policies for `bench.dispatch.policies`, and drives one run of them."""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from loadgen.load.arrivals import gamma, poisson
from loadgen.load.lengths import Lengths, independent, lognormal_list
from loadgen.results.statistics import percentile
from partitiond.core.dispatch.places import RequestOwner
from partitiond.core.dispatch.routing import (
    ModelAvailability,
    ModelRoute,
    ReplicaRoute,
    longest_wait_seconds,
    service_seconds,
)
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Slo
from partitiond.core.plan.record import Candidate
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.dispatch import (
    SimulatedModel,
    SimulatedReplica,
    SimulatedRequest,
)
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.policies import BaselineModel, PolicyChoice
from partitiond.simulated.replay.steps import StepModel

GROWTH: Final = 0.03
"""Time that each further sequence adds to a step, by a lone step: at 32 it takes about twice."""
PREFILL: Final = 0.005
"""Time that a prompt token adds beside decodes, by a lone step: 256 tokens take 1.3 steps."""
TTFT_SECONDS: Final = 2.0
TPOT_SLACK: Final = 1.15
"""The SLO's TPOT over its 95th percentile at the operating point: a planner keeps some slack."""
KV_TOKENS_EACH: Final = 800
"""KV tokens of an engine per sequence of its limit: twice the mean that requests hold."""
LONGEST_WAIT_SECONDS: Final = 30.0
WARM_UP_SECONDS: Final = 15.0
LAST_SECONDS: Final = 30.0
MAX_QUEUE: Final = 256


@dataclasses.dataclass(frozen=True)
class Engine:
    """One replica: its limit, the planned time of a lone step, and its slowdown."""

    limit: int
    token_seconds: float
    slow: float = 1.0


FLEETS: Final[dict[str, tuple[Engine, ...]]] = {
    "4 equal": (Engine(32, 0.010),) * 4,
    "one 1.5x slower": (*(Engine(32, 0.010),) * 3, Engine(32, 0.010, 1.5)),
    "one 3x slower": (*(Engine(32, 0.010),) * 3, Engine(32, 0.010, 3.0)),
    "unequal 48 to 8": (
        Engine(48, 0.008), Engine(32, 0.010), Engine(16, 0.014), Engine(8, 0.020)
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Load:
    """Arrivals (for a rate and a seed), lengths, and the limits that clients name, over lengths."""

    arrivals: Callable[[float, int], Iterator[float]]
    lengths: Lengths
    named: float = 1.0


def modulated(req_per_s: float, seed: int) -> Iterator[float]:
    """Arrivals as BurstGPT found traffic: gamma gaps (CV 1.4) whose rate changes every 10 s.

    A lognormal factor (sigma 0.4) sets the rate: demand is above and below its mean for a while.
    """
    dice = random.Random(seed)
    now, until, rate = 0.0, 0.0, req_per_s
    while True:
        if now >= until:
            until += 10.0
            rate = req_per_s * dice.lognormvariate(-0.08, 0.4)
        now += dice.gammavariate(0.5, 2.0) / rate
        yield now


def _lengths(prompt_variation: float, output_variation: float) -> Lengths:
    return independent(lognormal_list(256, prompt_variation), lognormal_list(128, output_variation))


LOADS: Final[dict[str, Load]] = {
    "steady": Load(poisson, _lengths(1.0, 1.0)),
    "bursty CV 2": Load(lambda rate, seed: gamma(rate, 1 / 4, seed), _lengths(1.0, 1.0)),
    "bursty CV 4": Load(lambda rate, seed: gamma(rate, 1 / 16, seed), _lengths(1.0, 1.0)),
    "BurstGPT-like": Load(modulated, _lengths(1.5, 1.0)),
    "long tails": Load(poisson, _lengths(2.0, 3.0)),
    "4 x named": Load(poisson, _lengths(1.0, 1.0), 4.0),
    "16 x named": Load(poisson, _lengths(1.0, 1.0), 16.0),
}


class Model(Protocol):
    """The dispatch under test."""

    def arrive(self, flight: SimulatedRequest) -> None:
        """Take a request that arrives."""
        ...


Make = Callable[[SimulatedClock, ModelRoute, Sequence[SimulatedReplica], int], Model]


def _baseline(choice: PolicyChoice, *, limited: bool) -> Make:
    return lambda clock, route, replicas, _seed: BaselineModel(
        clock, route, replicas, choice, limited=limited
    )


POLICIES: Final[dict[str, Make]] = {
    "ours": SimulatedModel,
    "rr": _baseline(PolicyChoice.ROUND_ROBIN, limited=False),
    "lc": _baseline(PolicyChoice.LEAST_CONNECTIONS, limited=False),
    "rr + limit": _baseline(PolicyChoice.ROUND_ROBIN, limited=True),
    "lc + limit": _baseline(PolicyChoice.LEAST_CONNECTIONS, limited=True),
}


def percentile_of(values: Iterable[float], share: float) -> float:
    """Percentile of values in any order."""
    return percentile(sorted(values), share)


@dataclasses.dataclass(frozen=True)
class Planned:
    """The knowledge that a planner would have of a fleet and a load.

    Attributes:
        capacity: requests/s with every slot taken; replicas that are slower than planned count
            with their real rate.
        slo: the SLO that the operating points hold.
        ttft_p95: that of the engines at the operating points.
    """

    capacity: float
    slo: Slo
    ttft_p95: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One run: the requests that arrived in its window."""

    flights: tuple[SimulatedRequest, ...]
    seconds: float
    slo: Slo

    def good(self, flight: SimulatedRequest) -> bool:
        """Whether the request ended within the SLO."""
        ttft, tpot = flight.ttft_seconds, flight.tpot_seconds
        return (
            flight.ended is not None
            and ttft is not None
            and ttft <= (self.slo.ttft_seconds or math.inf)
            and (tpot is None or tpot <= (self.slo.tpot_seconds or math.inf))
        )

    @property
    def goodput(self) -> float:
        """Good requests per second."""
        return sum(map(self.good, self.flights)) / self.seconds

    def ttft_p95(self, key: str) -> float:
        """p95 of the requests of one key that got a first token."""
        found = [
            f.ttft_seconds
            for f in self.flights
            if f.ttft_seconds is not None and f.share.key == key
        ]
        return percentile_of(found, 0.95) if found else math.inf


def replicas_of(
    clock: SimulatedClock, fleet: Sequence[Engine], planned: Planned | None
) -> list[SimulatedReplica]:
    """The fleet's replicas with engines on the clock, each on a device of its own."""
    made = []
    for number, engine in enumerate(fleet):
        seconds = engine.token_seconds * engine.slow
        steps = StepModel(((1, seconds), (64, seconds * (1 + 63 * GROWTH))), seconds * PREFILL)
        candidate = candidate_of(engine.limit)
        kv_tokens = engine.limit * KV_TOKENS_EACH
        batch = Batch(engine.limit, 2048, kv_tokens)
        full = engine.token_seconds * (1 + (engine.limit - 1) * GROWTH)
        route = ReplicaRoute(
            f"r{number}", "m", "", "", engine.limit, kv_tokens, 32_768,
            service_seconds=service_seconds(planned.ttft_p95 if planned else 0.1, full, 128),
        )  # fmt: skip
        device = SharedDevice(SharingMode.WHOLE)
        made.append(SimulatedReplica(route, SteppedEngine(clock, device, candidate, batch, steps)))
    return made


def candidate_of(limit: int) -> Candidate:
    """A candidate with the limit; its figures mean nothing."""
    return Candidate(
        model="m", profile_id="p", profile_kind=ProfileKind.MEASURED, hardware="h",
        size=PartitionSize(SharingMode.WHOLE, 1, 100), batch=limit, memory_bytes=Bytes(GIB),
        kv_cache_bytes=Bytes(GIB), capacity_req_per_s=1.0, output_tokens_per_s=1.0,
        ttft_p95_seconds=0.1, tpot_p95_seconds=0.02, busy=1.0,
    )  # fmt: skip


def keep_full(
    clock: SimulatedClock, replicas: Sequence[SimulatedReplica], lengths: Lengths
) -> list[SimulatedRequest]:
    """Keep every slot of every replica taken; return the list to which requests come that end."""
    ended: list[SimulatedRequest] = []
    numbers = itertools.count()

    def send(replica: SimulatedReplica, share: float) -> None:
        prompt, output = lengths.pair(next(numbers), 0)
        replica.start(
            SimulatedRequest(clock.now, prompt, max(1, math.ceil(output * share))), clock.now
        )

    for replica in replicas:

        def again(sequence: object, replica: SimulatedReplica = replica) -> None:
            flight = replica.finish(sequence)  # type: ignore[arg-type]
            flight.ended = clock.now
            ended.append(flight)
            send(replica, 1.0)

        def first(sequence: object, replica: SimulatedReplica = replica) -> None:
            replica.flight_of(sequence).first = clock.now  # type: ignore[arg-type]

        replica.engine.on_ended, replica.engine.on_first = again, first
        for slot in range(replica.max_sequences):
            send(replica, (slot + 1) / replica.max_sequences)
    return ended


def plan_for(fleet: Sequence[Engine], lengths: Lengths, seconds: float = 60.0) -> Planned:
    """Measure the operating points with every slot of every replica taken."""
    clock = SimulatedClock()
    replicas = replicas_of(clock, fleet, None)
    ended = keep_full(clock, replicas, lengths)
    healthy = {f"r{n}" for n, engine in enumerate(fleet) if engine.slow == 1}
    clock.run(WARM_UP_SECONDS + seconds)
    late = [f for f in ended if f.ended is not None and f.ended >= WARM_UP_SECONDS]
    as_planned = [f for f in late if f.replica is not None and f.replica.replica_id in healthy]
    ttft = percentile_of([f.ttft_seconds or 0.0 for f in as_planned], 0.95)
    tpot = percentile_of([f.tpot_seconds for f in as_planned if f.tpot_seconds is not None], 0.95)
    return Planned(len(late) / seconds, Slo(TTFT_SECONDS, TPOT_SLACK * tpot), ttft)


Source = tuple[Load, float, RequestOwner, float]
"""Load, requests/s, caller, and seconds of the window."""


def drive(
    make: Make,
    fleet: Sequence[Engine],
    planned: Planned,
    sources: Sequence[tuple[Load, float, RequestOwner]],
    *,
    seed: int,
    seconds: float = 60.0,
) -> Result:
    """Simulate one run.

    Args:
        make: the policy.
        fleet: the replicas' engines.
        planned: the operating points of the fleet.
        sources: load, requests/s, and caller of each stream.
        seed: of arrivals, lengths and draws.
        seconds: length of the window.
    """
    clock = SimulatedClock()
    route = ModelRoute(
        "m", ModelAvailability.SERVING, "m", max_queue=MAX_QUEUE,
        max_wait_seconds=longest_wait_seconds(
            LONGEST_WAIT_SECONDS, TTFT_SECONDS, planned.ttft_p95
        ),
    )  # fmt: skip
    model = make(clock, route, replicas_of(clock, fleet, planned), seed)
    flights: list[SimulatedRequest] = []
    for number, (load, rate, caller) in enumerate(sources):
        source = load, rate, caller, seconds
        _send(clock, model, source, flights, seed * 100 + number)
    clock.run(WARM_UP_SECONDS + seconds + LAST_SECONDS)
    window = tuple(f for f in flights if WARM_UP_SECONDS <= f.arrived < WARM_UP_SECONDS + seconds)
    return Result(window, seconds, planned.slo)


def _send(
    clock: SimulatedClock, model: Model, source: Source, flights: list[SimulatedRequest], seed: int
) -> None:
    load, rate, caller, seconds = source
    due = enumerate(load.arrivals(rate, seed))

    def arrive(index: int) -> None:
        flight = SimulatedRequest(clock.now, *load.lengths.pair(index, seed), caller)
        flight.max_tokens = math.ceil(load.named * flight.output_tokens)
        flights.append(flight)
        following, when = next(due)
        if when < WARM_UP_SECONDS + seconds + TTFT_SECONDS:
            clock.at(when, lambda: arrive(following))
        model.arrive(flight)

    first, when = next(due)
    clock.at(when, lambda: arrive(first))
