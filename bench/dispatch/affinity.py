"""Simulates conversations for `bench.dispatch.policies`: the savings of affinity, and its cost."""

import collections
import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import Final

from bench.dispatch.cases import (
    TTFT_SECONDS,
    WARM_UP_SECONDS,
    Engine,
    Planned,
    Result,
    ours,
    replicas_of,
)
from partitiond.core.dispatch import balance
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from partitiond.simulated.replay.dispatch import DispatchOptions, SimulatedCaller, SimulatedRequest
from partitiond.simulated.replay.events import SimulatedClock

TURNS: Final = 6
THINK_SECONDS: Final = 6.0
APPS: Final = 8
SYSTEM_TOKENS: Final = 512
"""Length of an application's instructions, which begin each of its conversations."""
TURN_TOKENS: Final = 150
"""Tokens that a turn adds, besides the answer before it."""
ANSWER_TOKENS: Final = 100
CACHE_TOKENS: Final = 40_000
"""Size of a replica's prefix cache: about 20 conversations."""
BYTES_PER_TOKEN: Final = 4


class PrefixCaches:
    """The prefix cache of each replica: conversations and instructions, evicted by LRU."""

    def __init__(self) -> None:
        self._known: dict[str, collections.OrderedDict[str, int]] = collections.defaultdict(
            collections.OrderedDict
        )

    def __call__(self, flight: SimulatedRequest, replica_id: str) -> int:
        """Tokens of the longest prefix in the replica's cache; then the prompt is cached."""
        known, caller = self._known[replica_id], flight.caller
        app = caller.prompt[:8].hex()
        saved = max(known.get(caller.session, 0), known.get(app, 0))
        for name, tokens in ((caller.session, flight.prompt_tokens), (app, SYSTEM_TOKENS)):
            known[name] = tokens
            known.move_to_end(name)
        while sum(known.values()) > CACHE_TOKENS:
            known.popitem(last=False)
        return min(saved, flight.prompt_tokens - 1)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of one kind of affinity."""

    same_replica: float
    cached: float
    ttft_p50: float
    ttft_p95: float
    goodput: float
    spread: float


def converse(
    fleet: Sequence[Engine],
    planned: Planned,
    req_per_s: float,
    options: DispatchOptions,
    *,
    slack: float = balance.PREFERENCE_SLACK,
    seed: int = 0,
    seconds: float = 60.0,
) -> Outcome:
    """Simulate conversations of `TURNS` turns with Poisson starts; a turn repeats all before it."""
    clock, dice = SimulatedClock(), random.Random(seed)
    replicas = replicas_of(clock, fleet, planned)
    route = ModelRoute(
        "m", ModelAvailability.SERVING, "m", max_wait_seconds=TTFT_SECONDS - planned.ttft_p95
    )
    model = ours(dataclasses.replace(options, cache=PrefixCaches()))(clock, route, replicas, seed)
    flights: list[SimulatedRequest] = []
    spreads: list[float] = []
    closed = WARM_UP_SECONDS + seconds

    def turn(session: str, prompt: bytes, number: int) -> None:
        answer = max(1, round(dice.expovariate(1 / ANSWER_TOKENS)))
        tokens = len(prompt) // BYTES_PER_TOKEN
        flight = SimulatedRequest(
            clock.now, tokens, answer, SimulatedCaller(session=session, prompt=prompt)
        )
        flights.append(flight)
        model.arrive(flight)
        shares = [balance.occupancy(replica) for replica in replicas]
        spreads.append(max(shares) - min(shares))
        if number + 1 < TURNS:
            said = dice.randbytes((TURN_TOKENS + answer) * BYTES_PER_TOKEN)
            when = clock.now + answer * 0.02 + dice.expovariate(1 / THINK_SECONDS)
            clock.at(when, lambda: turn(session, prompt + said, number + 1))

    def begin(number: int) -> None:
        app = random.Random(dice.randrange(APPS)).randbytes(SYSTEM_TOKENS * BYTES_PER_TOKEN)
        turn(f"s{number}", app + dice.randbytes(TURN_TOKENS * BYTES_PER_TOKEN), 0)
        if clock.now < closed:
            when = clock.now + dice.expovariate(req_per_s / TURNS)
            clock.at(when, lambda: begin(number + 1))

    clock.at(0.0, lambda: begin(0))
    before, balance.PREFERENCE_SLACK = balance.PREFERENCE_SLACK, slack  # type: ignore[misc]
    try:
        clock.run(closed + 30.0)
    finally:
        balance.PREFERENCE_SLACK = before  # type: ignore[misc]
    return _outcome(flights, planned, seconds, statistics.mean(spreads))


def _outcome(
    flights: Sequence[SimulatedRequest], planned: Planned, seconds: float, spread: float
) -> Outcome:
    last: dict[str, str] = {}
    same = again = 0
    for flight in flights:
        if flight.replica is not None:
            name = flight.replica.replica_id
            if flight.caller.session in last:
                again += 1
                same += last[flight.caller.session] == name
            last[flight.caller.session] = name
    window = [f for f in flights if WARM_UP_SECONDS <= f.arrived < WARM_UP_SECONDS + seconds]
    result = Result(tuple(window), seconds, planned.slo)
    begun = sorted(f.ttft_seconds for f in window if f.ttft_seconds is not None)
    placed = [f for f in window if f.placed is not None]
    return Outcome(
        same_replica=same / max(1, again),
        cached=sum(f.cached_tokens for f in placed) / sum(f.prompt_tokens for f in placed),
        ttft_p50=begun[len(begun) // 2],
        ttft_p95=result.ttft_p95(),
        goodput=sum(map(result.good, window)) / len(window),
        spread=spread,
    )
