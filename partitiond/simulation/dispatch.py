"""The proxy's part of a simulation: one model's queue in front of its replicas.

Every decision is `core.dispatch`'s, which the proxy's live side (`proxy.live.LiveModel`) drives,
too; only a deadline is an event of the simulation here and a timer there. Nothing fails in a
simulation, so there are no retries and no ejections.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from partitiond.core.admission import (
    Cost,
    OutputP90,
    PromptRatios,
    Rejected,
    ServiceTime,
    Waiting,
    estimate_cost,
)
from partitiond.core.affinity import Prefixes, Sessions, prefix_blocks
from partitiond.core.dispatch import Dispatcher
from partitiond.core.places import Places, Request, Share
from partitiond.core.routing import ModelRoute, ReplicaRoute
from partitiond.simulation import batch
from partitiond.simulation.engine import SimulatedEngine
from partitiond.simulation.events import Clock

BYTES_PER_TOKEN: Final = 4
"""Of a prompt, as in English text; the proxy has to learn it from the usage engines report."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller(Share):
    """Whose a request is, and what it continues.

    Attributes:
        session: conversation it belongs to, or "".
        prompt: what stands for the text of its prompt, for prefixes; or nothing.
    """

    session: str = ""
    prompt: bytes = b""


ANYBODY: Final = Caller()


class Flight(Request):
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
        "arrived", "cached_tokens", "caller", "ended", "first", "output_tokens", "placed",
        "prompt_tokens", "rejected", "replica",
    )  # fmt: skip

    def __init__(
        self, arrived: float, prompt_tokens: int, output_tokens: int, caller: Caller = ANYBODY
    ) -> None:
        super().__init__(Cost(1, 0), caller)
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.caller = caller
        self.cached_tokens = 0
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
        self.take(flight)
        self.run(flight, now)

    def take(self, flight: Flight) -> None:
        """The request gets its place."""
        self.sequences += flight.cost.sequences
        self.kv_tokens += flight.cost.kv_tokens

    def run(self, flight: Flight, now: float) -> None:
        """A request that has its place goes to the engine."""
        flight.placed, flight.replica = now, self
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
    """What the proxy learns of a model's requests, to estimate their costs with.

    Attributes:
        max_model_len: longest context any replica has; 0 where unknown.
    """

    def __init__(self) -> None:
        self.max_model_len = 0
        self._ratios = PromptRatios()
        self._output_p90 = OutputP90()

    def cost(self, flight: Flight) -> Cost:
        """Clients are taken to ask for what they get, as the load generator does."""
        text = flight.prompt_tokens * BYTES_PER_TOKEN
        return estimate_cost(
            sequences=1,
            prompt_tokens=text * self._ratios.value(flight.caller.key),
            max_tokens=flight.output_tokens,
            output_p90=self._output_p90.value,
            max_model_len=self.max_model_len,
        )

    def observe(self, flight: Flight) -> None:
        """It ended, and its engine said what it used."""
        prompt_bytes = flight.prompt_tokens * BYTES_PER_TOKEN
        self._ratios.observe(flight.caller.key, prompt_bytes, flight.prompt_tokens)
        self._output_p90 = self._output_p90.observe(flight.output_tokens)


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


class SimulatedPlaces(Places[Flight, SimulatedReplica]):
    """The replicas' slots."""

    def add(self, load: SimulatedReplica, request: Flight) -> None:
        """The request takes its place there."""
        load.take(request)


class SimulatedModel:
    """One model: its replicas, its queue and what was learned of its requests.

    Attributes:
        on_done: called with every request that ended or was refused.
        dispatcher: decides.
    """

    def __init__(
        self,
        clock: Clock,
        route: ModelRoute,
        replicas: Sequence[SimulatedReplica],
        seed: int = 0,
        options: DispatchOptions = DEFAULT_DISPATCH,
    ) -> None:
        self.on_done: Callable[[Flight], None] = ignore
        self._clock = clock
        self._options = options
        self._sessions = Sessions(options.affinity_seconds)
        self._prefixes = Prefixes()
        self._replicas: list[SimulatedReplica] = []
        draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._learned = Learned()
        self.dispatcher = Dispatcher(route, SimulatedPlaces(self._replicas, draws.random))
        self.apply(route, replicas)

    @property
    def route(self) -> ModelRoute:
        """As the proxy has it."""
        return self.dispatcher.route

    @property
    def replicas(self) -> tuple[SimulatedReplica, ...]:
        """Those of the last table."""
        return tuple(self._replicas)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self.dispatcher.queue)

    def apply(self, route: ModelRoute, replicas: Sequence[SimulatedReplica]) -> None:
        """Take over a newer table; what runs on replicas that left it ends there."""
        known = set(self._replicas)
        listen(self._clock, [one for one in replicas if one not in known], self._ended)
        for gone in known.difference(replicas):
            self.dispatcher.slowness.forget(gone.replica_id)
        if not self._replicas:
            self.dispatcher.service = first_guess(replicas)
        self._replicas[:] = replicas
        self._learned.max_model_len = longest_context(replicas)
        self.dispatcher.changed(self._clock.now, route=route)
        self._go_on()

    def arrive(self, flight: Flight) -> None:
        """A request is there, with a cost by what was learned."""
        flight.cost = self._learned.cost(flight)
        self.place(flight)

    def place(self, flight: Flight) -> None:
        """It starts, waits, or is refused."""
        flight.prefer = self._preference(flight)
        outcome = self.dispatcher.arrives(flight, self._clock.now)
        self._carry_out(flight, outcome)
        if isinstance(outcome, Waiting):
            self._go_on()

    def leave(self, flight: Flight) -> None:
        """The client of one that waits is gone."""
        if self.dispatcher.leaves(flight):
            self._go_on()

    def _go_on(self) -> None:
        """Carry out what is decided now."""
        now = self._clock.now
        while (decided := self.dispatcher.next_decision(now)) is not None:
            self._carry_out(*decided)

    def _carry_out(
        self, flight: Flight, outcome: SimulatedReplica | Rejected | Waiting[Flight]
    ) -> None:
        if isinstance(outcome, SimulatedReplica):
            self._start(flight, outcome)
        elif isinstance(outcome, Waiting):
            self._clock.at(outcome.deadline, lambda: self._expire(outcome))
        else:
            flight.rejected = outcome
            self.on_done(flight)

    def _start(self, flight: Flight, replica: SimulatedReplica) -> None:
        name, caller, options = replica.replica_id, flight.caller, self._options
        if caller.session and options.affinity_seconds:
            self._sessions.remember(caller.session, name, self._clock.now)
        if caller.prompt and options.prefixes:
            self._prefixes.remember(prefix_blocks(caller.prompt), name)
        if options.cache is not None:
            flight.cached_tokens = options.cache(flight, name)
        replica.run(flight, self._clock.now)

    def _preference(self, flight: Flight) -> tuple[str, ...]:
        caller = flight.caller
        if caller.session and self._options.affinity_seconds:
            found = self._sessions.prefer(caller.session, self._clock.now)
            if found:
                return found
        if caller.prompt and self._options.prefixes:
            return self._prefixes.prefer(prefix_blocks(caller.prompt))
        return ()

    def _expire(self, entry: Waiting[Flight]) -> None:
        if self.dispatcher.expires(entry, self._clock.now):
            self._go_on()

    def _ended(self, flight: Flight, replica: SimulatedReplica) -> None:
        """Its place is free; then the estimates are corrected by what its engine reported."""
        self._go_on()
        self.dispatcher.settle(flight, flight.prompt_tokens + flight.output_tokens)
        self._learned.observe(flight)
        if flight.placed is not None and flight.ended is not None:
            on = self._options.learns_slowness
            self.dispatcher.learn(
                replica.replica_id,
                flight.ended - flight.placed,
                flight.output_tokens,
                replica.route.service_seconds if on else 0.0,
                flight.ended,
            )
        self.on_done(flight)


def longest_context(replicas: Sequence[SimulatedReplica]) -> int:
    """In tokens; 0 without a replica."""
    return max((replica.route.max_model_len for replica in replicas), default=0)


def first_guess(replicas: Sequence[SimulatedReplica]) -> ServiceTime:
    """How long a sequence stays in an engine, as planned."""
    return ServiceTime(replicas[0].route.service_seconds) if replicas else ServiceTime()


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
