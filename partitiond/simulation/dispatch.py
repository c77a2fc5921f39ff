"""The proxy's part of a simulation: one model's queue in front of its replicas.

Every decision is `core.admission`'s or `core.balance`'s, asked in the order in which the proxy's
live side (`proxy.live.LiveModel`) asks them; only the waiting itself is an event here instead of
a future there. Nothing fails in a simulation, so there are no retries and no ejections.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.admission import (
    Cost,
    OutputP90,
    QueueLimits,
    Rejected,
    ServiceTime,
    TokensPerByte,
    Waiting,
    WaitingQueue,
    admits,
    estimate_cost,
    refuse_after_waiting,
    refuse_to_wait,
)
from partitiond.core.balance import choose_replica
from partitiond.core.routing import ModelRoute, ReplicaRoute
from partitiond.simulation import batch
from partitiond.simulation.engine import SimulatedEngine
from partitiond.simulation.events import Clock

BYTES_PER_TOKEN: Final = 4
"""Of a prompt, as in English text; the proxy has to learn it from the usage engines report."""


class Flight:
    """One request, from its arrival to its end. Times are seconds of the simulation.

    Attributes:
        arrived: when its last byte came.
        placed: when it got its replica.
        first: when its first token came.
        ended: when its last one came.
        rejected: why it was refused, or None.
    """

    __slots__ = (
        "arrived", "cost", "ended", "first", "output_tokens", "placed", "prompt_tokens",
        "rejected", "replica",
    )  # fmt: skip

    def __init__(self, arrived: float, prompt_tokens: int, output_tokens: int) -> None:
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
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
        sequence = batch.Sequence(flight.prompt_tokens, flight.output_tokens)
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
    ) -> None:
        self.route = route
        self.replicas = tuple(replicas)
        self.on_done: Callable[[Flight], None] = _ignore
        self._clock = clock
        self._queue: WaitingQueue[Flight] = WaitingQueue()
        self._draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._tokens_per_byte = TokensPerByte()
        self._output_p90 = OutputP90()
        first = self.replicas[0].route if self.replicas else None
        self._service = ServiceTime(first.service_seconds) if first else ServiceTime()
        self._max_model_len = max((r.route.max_model_len for r in self.replicas), default=0)
        for replica in self.replicas:
            replica.engine.on_first = self._note_first(replica)
            replica.engine.on_ended = self._note_end(replica)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def arrive(self, flight: Flight) -> None:
        """A request is there: it starts, waits, or is refused."""
        flight.cost = self._cost(flight)
        if not self._queue:
            room = [replica for replica in self.replicas if admits(replica, flight.cost)]
            draws = (self._draws.random(), self._draws.random())
            chosen = choose_replica(room, (), draws)
            if chosen is not None:
                chosen.start(flight, self._clock.now)
                return
        refused = refuse_to_wait(len(self._queue), self._queue.sequences, self._limits())
        if refused is not None:
            self._refuse(flight, refused)
            return
        now = self._clock.now
        entry = Waiting(flight, flight.cost, now, now + self.route.max_wait_seconds)
        self._queue.push(entry)
        self._clock.at(entry.deadline, lambda: self._expire(entry))

    def _dispatch(self) -> None:
        """Start whoever may start now, in order."""
        while self._queue:
            taken = self._queue.take(self.replicas, self._draws.random)
            if taken is None:
                return
            entry, replica = taken
            replica.start(entry.item, self._clock.now)

    def _expire(self, entry: Waiting[Flight]) -> None:
        if entry.item.placed is None and self._queue.discard(entry):
            waited = self._clock.now - entry.since
            self._refuse(
                entry.item, refuse_after_waiting(waited, self._queue.sequences, self._limits())
            )
            self._dispatch()

    def _refuse(self, flight: Flight, rejected: Rejected) -> None:
        flight.rejected = rejected
        self.on_done(flight)

    def _note_first(self, replica: SimulatedReplica) -> Callable[[batch.Sequence], None]:
        def note(sequence: batch.Sequence) -> None:
            replica.flight_of(sequence).first = self._clock.now

        return note

    def _note_end(self, replica: SimulatedReplica) -> Callable[[batch.Sequence], None]:
        def note(sequence: batch.Sequence) -> None:
            flight = replica.finish(sequence)
            flight.ended = self._clock.now
            self._learn(flight)
            self._dispatch()
            self.on_done(flight)

        return note

    def _learn(self, flight: Flight) -> None:
        """Correct the estimates by what the engine reported, as the proxy does."""
        prompt_bytes = flight.prompt_tokens * BYTES_PER_TOKEN
        self._tokens_per_byte = self._tokens_per_byte.observe(prompt_bytes, flight.prompt_tokens)
        self._output_p90 = self._output_p90.observe(flight.output_tokens)
        if flight.placed is not None:
            self._service = self._service.observe(self._clock.now - flight.placed)

    def _cost(self, flight: Flight) -> Cost:
        """Clients are taken to ask for what they get, as the load generator does."""
        text = flight.prompt_tokens * BYTES_PER_TOKEN
        return estimate_cost(
            sequences=1,
            prompt_tokens=text * self._tokens_per_byte.value,
            max_tokens=flight.output_tokens,
            output_p90=self._output_p90.value,
            max_model_len=self._max_model_len,
        )

    def _limits(self) -> QueueLimits:
        return QueueLimits(
            max_queue=self.route.max_queue,
            max_wait_seconds=self.route.max_wait_seconds,
            sequences_in_flight=sum(replica.sequences for replica in self.replicas),
            service_seconds=self._service.seconds,
        )


def _ignore(_flight: Flight) -> None:
    """Before anyone listens."""
