"""The proxy's part of a simulation: one model's queue in front of its replicas.

Every decision is `core.admission`'s or `core.balance`'s, asked in the order in which the proxy's
live side (`proxy.live.LiveModel`) asks them; only the waiting itself is an event here instead of
a future there. Nothing fails in a simulation, so there are no retries and no ejections.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from partitiond.core.admission import (
    Cost,
    OutputP90,
    PromptRatios,
    QueueLimits,
    Rejected,
    ServiceTime,
    Waiting,
    admits,
    estimate_cost,
    refuse_full,
    refuse_too_late,
)
from partitiond.core.affinity import Prefixes, Sessions, prefix_blocks
from partitiond.core.balance import NO_SLOWNESS, Slowness, choose_replica
from partitiond.core.fair_queue import FairQueue, expire
from partitiond.core.routing import ModelRoute, ReplicaRoute
from partitiond.simulation import batch
from partitiond.simulation.engine import SimulatedEngine
from partitiond.simulation.events import Clock

BYTES_PER_TOKEN: Final = 4
"""Of a prompt, as in English text; the proxy has to learn it from the usage engines report."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Whose a request is, and what it continues.

    Attributes:
        key: API key.
        weight, priority: the key's.
        session: conversation it belongs to, or "".
        prompt: what stands for the text of its prompt, for prefixes; or nothing.
    """

    key: str = ""
    weight: float = 1.0
    priority: int = 0
    session: str = ""
    prompt: bytes = b""


ANYBODY: Final = Caller()


class Flight:
    """One request, from its arrival to its end. Times are seconds of the simulation.

    Attributes:
        arrived: when its last byte came.
        placed: when it got its replica.
        first: when its first token came.
        ended: when its last one came.
        rejected: why it was refused, or None.
        cached_tokens: of its prompt, what the replica need not read.
    """

    __slots__ = (
        "arrived", "cached_tokens", "caller", "cost", "ended", "first", "output_tokens", "placed",
        "prompt_tokens", "rejected", "replica",
    )  # fmt: skip

    def __init__(
        self, arrived: float, prompt_tokens: int, output_tokens: int, caller: Caller = ANYBODY
    ) -> None:
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.caller = caller
        self.cached_tokens = 0
        self.cost = Cost(1, 0)
        self.placed: float | None = None
        self.first: float | None = None
        self.ended: float | None = None
        self.rejected: Rejected | None = None
        self.replica: SimulatedReplica | None = None

    @property
    def ttft_seconds(self) -> float | None:
        """From the last byte of the request, waiting included; None before the first token."""
        return None if self.first is None else self.first - self.arrived

    @property
    def tpot_seconds(self) -> float | None:
        """(E2EL - TTFT) / (output tokens - 1); None before the end, and for a single token."""
        if self.ended is None or self.first is None or self.output_tokens < 2:
            return None
        return (self.ended - self.first) / (self.output_tokens - 1)


class SimulatedReplica:
    """A replica as the dispatch sees it (it has the fields of `balance.Load`), and its engine."""

    def __init__(self, route: ReplicaRoute, engine: SimulatedEngine) -> None:
        self.route = route
        self.engine = engine
        self.replica_id = route.replica_id
        self.max_sequences = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining
        self.ejected = False
        self.sequences = 0
        self.kv_tokens = 0
        self._flights: dict[batch.Sequence, Flight] = {}

    def start(self, flight: Flight, now: float) -> None:
        """The request gets its place and goes to the engine."""
        flight.placed, flight.replica = now, self
        self.sequences += flight.cost.sequences
        self.kv_tokens += flight.cost.kv_tokens
        to_read = max(1, flight.prompt_tokens - flight.cached_tokens)
        sequence = batch.Sequence(to_read, flight.output_tokens)
        self._flights[sequence] = flight
        self.engine.add(sequence)

    def flight_of(self, sequence: batch.Sequence) -> Flight:
        """The request behind a sequence."""
        return self._flights[sequence]

    def finish(self, sequence: batch.Sequence) -> Flight:
        """The request gives its place back."""
        flight = self._flights.pop(sequence)
        self.sequences -= flight.cost.sequences
        self.kv_tokens -= flight.cost.kv_tokens
        return flight


class Learned:
    """What the proxy learns of a model's requests, to estimate costs and waits with.

    Attributes:
        service: how long a sequence stays in an engine.
    """

    def __init__(self, routes: Sequence[ReplicaRoute]) -> None:
        self.service = ServiceTime(routes[0].service_seconds) if routes else ServiceTime()
        self._ratios = PromptRatios()
        self._output_p90 = OutputP90()
        self._max_model_len = max((route.max_model_len for route in routes), default=0)

    def cost(self, flight: Flight) -> Cost:
        """Clients are taken to ask for what they get, as the load generator does."""
        text = flight.prompt_tokens * BYTES_PER_TOKEN
        return estimate_cost(
            sequences=1,
            prompt_tokens=text * self._ratios.value(flight.caller.key),
            max_tokens=flight.output_tokens,
            output_p90=self._output_p90.value,
            max_model_len=self._max_model_len,
        )

    def observe(self, flight: Flight) -> None:
        """It ended, and its engine said what it used."""
        prompt_bytes = flight.prompt_tokens * BYTES_PER_TOKEN
        self._ratios.observe(flight.caller.key, prompt_bytes, flight.prompt_tokens)
        self._output_p90 = self._output_p90.observe(flight.output_tokens)
        if flight.placed is not None and flight.ended is not None:
            self.service = self.service.observe(flight.ended - flight.placed)


class Cache(Protocol):
    """What a replica's prefix cache saves; told of every request that starts there."""

    def __call__(self, flight: Flight, replica_id: str) -> int:
        """Tokens of its prompt that need not be read."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class DispatchOptions:
    """What of the proxy's dispatch is on.

    Attributes:
        learns_slowness: whether replicas that are slower than planned get less.
        affinity_seconds: how long a session is remembered; 0 for never.
        prefixes: whether beginnings of prompts are.
        cache: of the engines' prefixes; None where they have none.
    """

    learns_slowness: bool = True
    affinity_seconds: float = 0.0
    prefixes: bool = False
    cache: Cache | None = None


DEFAULT_DISPATCH: Final = DispatchOptions()


class SimulatedModel:
    """One model: its replicas, its queue and what was learned of its requests.

    Attributes:
        on_done: called with every request that ended or was refused.
    """

    def __init__(
        self,
        clock: Clock,
        route: ModelRoute,
        replicas: Sequence[SimulatedReplica],
        seed: int = 0,
        options: DispatchOptions = DEFAULT_DISPATCH,
    ) -> None:
        self.route = route
        self.replicas = tuple(replicas)
        self.on_done: Callable[[Flight], None] = ignore
        self._clock = clock
        self._options = options
        self._queue: FairQueue[Flight] = FairQueue(route.max_queue)
        self._slowness = Slowness()
        self._sessions = Sessions(options.affinity_seconds)
        self._prefixes = Prefixes()
        self._draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._learned = Learned([replica.route for replica in self.replicas])
        listen(clock, self.replicas, self._ended)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def arrive(self, flight: Flight) -> None:
        """A request is there: it starts, waits, or is refused."""
        flight.cost = self._learned.cost(flight)
        if not self._queue and self._start_at_once(flight):
            return
        now, caller = self._clock.now, flight.caller
        entry = Waiting(
            flight,
            flight.cost,
            now,
            now + self.route.max_wait_seconds,
            key=caller.key,
            weight=caller.weight,
            priority=caller.priority,
            prefer=self._preference(flight),
        )
        ahead = self._queue.ahead(
            key=entry.key, weight=entry.weight, priority=entry.priority, deadline=entry.deadline
        )
        limits = self._limits()
        late = refuse_too_late(ahead, limits.max_wait_seconds, limits)
        if late is not None:
            self._refuse(flight, late)
            return
        gone = self._queue.push(entry)
        if gone is not None:
            self._refuse(gone.item, refuse_full(len(self._queue), ahead, limits))
        if gone is not entry:
            self._clock.at(entry.deadline, lambda: self._expire(entry))
            self._dispatch()

    def _start_at_once(self, flight: Flight) -> bool:
        slowness = self._slow_replicas()
        room = [
            replica
            for replica in self.replicas
            if admits(replica, flight.cost, slowness.get(replica.replica_id, 1.0))
        ]
        draws = (self._draws.random(), self._draws.random())
        prefer = self._preference(flight)
        chosen = choose_replica(room, (), draws, prefer=prefer, slowness=slowness)
        if chosen is None:
            return False
        caller = flight.caller
        self._queue.charge(
            caller.key, flight.cost.kv_tokens, weight=caller.weight, priority=caller.priority
        )
        self._start(flight, chosen)
        return True

    def _dispatch(self) -> None:
        """Start whoever may start now, in order."""
        while self._queue:
            taken = self._queue.take(self.replicas, self._draws.random, self._slow_replicas())
            if taken is None:
                return
            self._start(taken[0].item, taken[1])

    def _start(self, flight: Flight, replica: SimulatedReplica) -> None:
        name, caller, options = replica.replica_id, flight.caller, self._options
        if caller.session and options.affinity_seconds:
            self._sessions.remember(caller.session, name, self._clock.now)
        if caller.prompt and options.prefixes:
            self._prefixes.remember(prefix_blocks(caller.prompt), name)
        if options.cache is not None:
            flight.cached_tokens = options.cache(flight, name)
        replica.start(flight, self._clock.now)

    def _preference(self, flight: Flight) -> tuple[str, ...]:
        caller = flight.caller
        if caller.session and self._options.affinity_seconds:
            found = self._sessions.prefer(caller.session, self._clock.now)
            if found:
                return found
        if caller.prompt and self._options.prefixes:
            return self._prefixes.prefer(prefix_blocks(caller.prompt))
        return ()

    def _slow_replicas(self) -> Mapping[str, float]:
        on = self._options.learns_slowness
        return self._slowness.factors(self._clock.now) if on else NO_SLOWNESS

    def _expire(self, entry: Waiting[Flight]) -> None:
        if entry in self._queue:
            rejected = expire(self._queue, entry, self._clock.now, self._limits())
            self._refuse(entry.item, rejected)
            self._dispatch()

    def _refuse(self, flight: Flight, rejected: Rejected) -> None:
        flight.rejected = rejected
        self.on_done(flight)

    def _ended(self, flight: Flight, replica: SimulatedReplica) -> None:
        actual = flight.prompt_tokens + flight.output_tokens
        self._queue.settle(flight.caller.key, flight.cost.kv_tokens, actual)
        self._learn(flight, replica)
        self._dispatch()
        self.on_done(flight)

    def _learn(self, flight: Flight, replica: SimulatedReplica) -> None:
        """Correct the estimates by what the engine reported, as the proxy does."""
        self._learned.observe(flight)
        if flight.placed is not None and flight.ended is not None:
            self._slowness.observe(
                replica.replica_id,
                flight.ended - flight.placed,
                flight.output_tokens,
                replica.route.service_seconds,
                flight.ended,
            )

    def _limits(self) -> QueueLimits:
        return QueueLimits(
            max_queue=self.route.max_queue,
            max_wait_seconds=self.route.max_wait_seconds,
            sequences_in_flight=sum(replica.sequences for replica in self.replicas),
            service_seconds=self._learned.service.seconds,
        )


def listen(
    clock: Clock,
    replicas: Sequence[SimulatedReplica],
    ended: Callable[[Flight, SimulatedReplica], None],
) -> None:
    """Have the engines note first and last tokens; `ended` is told when a place is free again."""

    def connect(replica: SimulatedReplica) -> None:
        def note_first(sequence: batch.Sequence) -> None:
            replica.flight_of(sequence).first = clock.now

        def note_end(sequence: batch.Sequence) -> None:
            flight = replica.finish(sequence)
            flight.ended = clock.now
            ended(flight, replica)

        replica.engine.on_first = note_first
        replica.engine.on_ended = note_end

    for replica in replicas:
        connect(replica)


def ignore(_flight: Flight) -> None:
    """Before anyone listens."""
