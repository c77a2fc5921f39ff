"""Simulates the proxy: one model's queue in front of its replicas.

`core.dispatch.dispatcher` makes every decision, as it does for the proxy's live side
(`proxy.dispatch.live.LiveModel`); the only difference is that a deadline is a simulation event here
and a timer there. Nothing fails in a simulation, so there are no retries and no ejections.
"""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Final, Generic

from partitiond.core.dispatch.admission import Cost, Rejected, ServiceTime, Waiting
from partitiond.core.dispatch.balance import LoadT
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.estimates import FiguresOfKeys, estimate
from partitiond.core.dispatch.pace import Pace, soonest
from partitiond.core.dispatch.places import EVERYBODY, Places, Request, RequestOwner, RequestT
from partitiond.core.dispatch.routing import ModelRoute, ReplicaRoute
from partitiond.simulated.replay import batch
from partitiond.simulated.replay.engine import SteppedEngine
from partitiond.simulated.replay.events import EventTarget, SimulatedClock

BYTES_PER_TOKEN: Final = 4
"""Bytes per prompt token, as in English text; the proxy learns it from the usage engines report."""


class SimulatedRequest(Request):
    """A request from its arrival to its end. Times are seconds of the simulation.

    Attributes:
        arrived: when the request's last byte came.
        max_tokens: limit on its output that it names; its output, unless it is set.
        placed: when the request got its replica.
        first: when its first token came.
        ended: when its last token came.
        rejected: why the request was refused, or None.
    """

    __slots__ = (
        "arrived", "ended", "first", "max_tokens", "output_tokens",
        "placed", "prompt_tokens", "rejected", "replica",
    )  # fmt: skip

    def __init__(
        self,
        arrived: float,
        prompt_tokens: int,
        output_tokens: int,
        share: RequestOwner = EVERYBODY,
    ) -> None:
        super().__init__(Cost(1, 0), share)
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.output_tokens = self.max_tokens = output_tokens
        self.placed: float | None = None
        self.first: float | None = None
        self.ended: float | None = None
        self.rejected: Rejected | None = None
        self.replica: SimulatedReplica | None = None

    @property
    def ttft_seconds(self) -> float | None:
        """Seconds from the request's last byte, waiting included; None before the first token."""
        return None if self.first is None else self.first - self.arrived

    @property
    def tpot_seconds(self) -> float | None:
        """(E2EL - TTFT) / (output tokens - 1); None before the end, and for a single token."""
        if self.ended is None or self.first is None or self.output_tokens < 2:
            return None
        return (self.ended - self.first) / (self.output_tokens - 1)


class RoutedLoad:
    """A replica as the dispatcher sees it (with the fields of `balance.Load`, but its limit)."""

    def __init__(self, route: ReplicaRoute) -> None:
        self.route = route
        self.replica_id = route.replica_id
        self.batch = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining
        self.ejected = False
        self.doubt = 0
        self.sequences = 0
        self.kv_tokens = 0


class SimulatedReplica(RoutedLoad):
    """A replica as the dispatcher sees it, and its engine.

    Attributes:
        pace: what was learned of the engine.
    """

    def __init__(self, route: ReplicaRoute, engine: SteppedEngine) -> None:
        super().__init__(route)
        self.engine = engine
        self.pace = Pace()
        self.pace.apply(route.max_sequences, 0.0, 0.0)
        self._flights: dict[batch.Sequence, SimulatedRequest] = {}

    @property
    def max_sequences(self) -> int:
        """Sequences that it takes now."""
        return self.pace.most_sequences(self.sequences)

    def start(self, flight: SimulatedRequest, now: float) -> None:
        """Assign a place to the request, and send the request to the engine."""
        self.take(flight)
        self.run(flight, now)

    def take(self, flight: SimulatedRequest) -> None:
        """Assign a place to the request."""
        self.sequences += flight.takes.sequences
        self.kv_tokens += flight.takes.kv_tokens

    def run(self, flight: SimulatedRequest, now: float) -> None:
        """Send a request that has its place to the engine."""
        flight.placed, flight.replica = now, self
        self.pace.sent(flight, flight.prompt_tokens, now)
        sequence = batch.Sequence(max(1, flight.prompt_tokens), flight.output_tokens)
        self._flights[sequence] = flight
        self.engine.add(sequence)

    def flight_of(self, sequence: batch.Sequence) -> SimulatedRequest:
        """Return the request of a sequence."""
        return self._flights[sequence]

    def finish(self, sequence: batch.Sequence) -> SimulatedRequest:
        """Free the place of a request."""
        flight = self._flights.pop(sequence)
        self.sequences -= flight.takes.sequences
        self.kv_tokens -= flight.takes.kv_tokens
        return flight


class Learned:
    """Learns from a model's requests, as the proxy does, to estimate the cost of later ones.

    Attributes:
        max_model_len: longest context of any replica; 0 if unknown.
    """

    def __init__(self) -> None:
        self.max_model_len = 0
        self._figures = FiguresOfKeys()

    def cost(self, key: str, prompt_tokens: int, max_tokens: int) -> Cost:
        """Estimate a request's cost; as from the load generator, max_tokens is the output
        length, unless a bench says otherwise."""
        return estimate(
            self._figures.of(key),
            sequences=1,
            prompt_bytes=prompt_tokens * BYTES_PER_TOKEN,
            max_tokens=max_tokens,
            max_model_len=self.max_model_len,
        )

    def observe(self, key: str, prompt_tokens: int, output_tokens: int) -> None:
        """Learn from the usage that the engine reported for an ended request."""
        prompt = prompt_tokens * BYTES_PER_TOKEN, prompt_tokens
        self._figures.learn(key, prompt=prompt, output_tokens=output_tokens)


class QueuedModel(Generic[RequestT, LoadT]):
    """One model's queue: carries out the dispatcher's decisions on the simulation's clock.

    Attributes:
        dispatcher: makes the decisions.
        learned: estimates the cost of requests.
    """

    def __init__(self, clock: SimulatedClock, dispatcher: Dispatcher[RequestT, LoadT]) -> None:
        self.clock = clock
        self.dispatcher = dispatcher
        self.learned = Learned()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self.dispatcher.queue)

    def place(self, request: RequestT) -> None:
        """Start, queue or refuse a request."""
        outcome = self.dispatcher.arrives(request, self.clock.now)
        self._carry_out(request, outcome)
        if isinstance(outcome, Waiting):
            self._go_on()

    def leave(self, request: RequestT) -> None:
        """Remove a waiting request whose client is gone."""
        if self.dispatcher.leaves(request):
            self._go_on()

    def expire(self, entry: Waiting[RequestT]) -> None:
        """Handle the deadline of a waiting request."""
        if self.dispatcher.expires(entry, self.clock.now):
            self._go_on()

    def _go_on(self) -> None:
        """Carry out all decisions that are possible now."""
        now = self.clock.now
        while (decided := self.dispatcher.next_decision(now)) is not None:
            self._carry_out(*decided)

    def _carry_out(self, request: RequestT, outcome: LoadT | Rejected | Waiting[RequestT]) -> None:
        if isinstance(outcome, Waiting):
            self.clock.plan(outcome.deadline, _Expiry(self, outcome))
        elif isinstance(outcome, Rejected):
            self._refuse(request, outcome)
        else:
            self._start(request, outcome)

    def _start(self, request: RequestT, load: LoadT) -> None:
        """Send a request to the replica on which it has its place."""
        raise NotImplementedError

    def _refuse(self, request: RequestT, rejected: Rejected) -> None:
        """Record that a request was refused."""
        raise NotImplementedError


class _Expiry(EventTarget):
    """The deadline of a waiting request, which is refused if it still waits then."""

    def __init__(self, model: QueuedModel[RequestT, LoadT], entry: Waiting[RequestT]) -> None:
        self._expire = functools.partial(model.expire, entry)

    def due(self, number: int) -> None:
        """Refuse the request if it still waits."""
        del number
        self._expire()


class SimulatedPlaces(Places[SimulatedRequest, SimulatedReplica]):
    """Assigns places on the replicas."""

    def first_token_seconds(self, request: SimulatedRequest) -> float | None:
        """Return the seconds within which the request's first token is expected."""
        return soonest((load.pace for load in self.loads()), request.prompt_tokens)

    def add(self, load: SimulatedReplica, request: SimulatedRequest) -> None:
        """Assign a place on the replica to the request."""
        load.take(request)


class SimulatedModel(QueuedModel[SimulatedRequest, SimulatedReplica]):
    """One model: its replicas, its queue and the estimates learned from its requests.

    Attributes:
        on_done: called with every request that ended or was refused.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        route: ModelRoute,
        replicas: Sequence[SimulatedReplica],
        seed: int = 0,
    ) -> None:
        self.on_done: Callable[[SimulatedRequest], None] = ignore
        self._replicas: list[SimulatedReplica] = []
        draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        places = SimulatedPlaces(self._replicas, draws.random)
        super().__init__(clock, Dispatcher(route, places))
        self.apply(route, replicas)

    @property
    def route(self) -> ModelRoute:
        """The model's route, as in the proxy."""
        return self.dispatcher.route

    @property
    def replicas(self) -> tuple[SimulatedReplica, ...]:
        """Replicas of the last routing table."""
        return tuple(self._replicas)

    def apply(self, route: ModelRoute, replicas: Sequence[SimulatedReplica]) -> None:
        """Take over a newer routing table; requests on replicas that left it end there."""
        known = set(self._replicas)
        new = [one for one in replicas if one not in known]
        listen(self.clock, new, self._ended, self._began)
        for replica in new:
            replica.engine.on_decoded = functools.partial(self._decoded, replica)
        for replica in replicas:
            replica.pace.apply(replica.route.max_sequences, route.ttft_seconds, route.tpot_seconds)
        for gone in known.difference(replicas):
            self.dispatcher.slowness.forget(gone.replica_id)
        if not self._replicas:
            self.dispatcher.service = first_guess(replicas)
        self._replicas[:] = replicas
        self.learned.max_model_len = longest_context(replicas)
        self.dispatcher.changed(self.clock.now, route=route)
        self._go_on()

    def arrive(self, flight: SimulatedRequest) -> None:
        """Estimate the cost of an arrived request, and place the request."""
        flight.cost = self.learned.cost(flight.share.key, flight.prompt_tokens, flight.max_tokens)
        self.place(flight)

    def _refuse(self, request: SimulatedRequest, rejected: Rejected) -> None:
        request.rejected = rejected
        self.on_done(request)

    def _start(self, request: SimulatedRequest, load: SimulatedReplica) -> None:
        load.run(request, self.clock.now)

    def _began(self, flight: SimulatedRequest, replica: SimulatedReplica) -> None:
        """Learn from a first token, which may make room for another prompt."""
        replica.pace.first_token(flight, self.clock.now)
        self._go_on()

    def _decoded(self, replica: SimulatedReplica, seconds: float, tokens: int) -> None:
        replica.pace.decoded(seconds, tokens, replica.sequences, self.clock.now)

    def _ended(self, flight: SimulatedRequest, replica: SimulatedReplica) -> None:
        """Use the freed place; then correct the estimates by what the engine reported."""
        self._go_on()
        self.dispatcher.settle(flight, flight.prompt_tokens + flight.output_tokens)
        self.learned.observe(flight.share.key, flight.prompt_tokens, flight.output_tokens)
        if flight.placed is not None and flight.ended is not None:
            self.dispatcher.learn(
                replica.replica_id,
                flight.ended - flight.placed,
                flight.output_tokens,
                replica.route.service_seconds,
                flight.ended,
            )
        self.on_done(flight)


def longest_context(replicas: Sequence[SimulatedReplica]) -> int:
    """Return the longest context of the replicas in tokens; 0 without a replica."""
    return max((replica.route.max_model_len for replica in replicas), default=0)


def first_guess(replicas: Sequence[SimulatedReplica]) -> ServiceTime:
    """Return the planned time of a sequence in an engine."""
    return ServiceTime(replicas[0].route.service_seconds) if replicas else ServiceTime()


def listen(
    clock: SimulatedClock,
    replicas: Sequence[SimulatedReplica],
    ended: Callable[[SimulatedRequest, SimulatedReplica], None],
    began: Callable[[SimulatedRequest, SimulatedReplica], None] | None = None,
) -> None:
    """Let engines record first and last tokens; `ended` is called when a place is free again, and
    `began` with each first token.
    """

    def connect(replica: SimulatedReplica) -> None:
        def note_first(sequence: batch.Sequence) -> None:
            flight = replica.flight_of(sequence)
            flight.first = clock.now
            if began is not None:
                began(flight, replica)

        def note_end(sequence: batch.Sequence) -> None:
            flight = replica.finish(sequence)
            flight.ended = clock.now
            ended(flight, replica)

        replica.engine.on_first = note_first
        replica.engine.on_ended = note_end

    for replica in replicas:
        connect(replica)


def ignore(_flight: SimulatedRequest) -> None:
    """Ignore a request, until `on_done` is set."""
