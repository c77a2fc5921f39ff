"""The live side of a routing table: who is in flight where, and who waits.

What counts as load is a set of live `Flight` objects per replica. Its sums change only together
with the set, in two places, and leaving twice is harmless; so counts cannot drift whatever fails.
All decisions are `core.balance`'s and `core.admission`'s.
"""

import asyncio
import math
import random
import time
from collections.abc import Iterable
from typing import Final, Protocol

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
    refuse_after_waiting,
    refuse_to_wait,
    refuse_without_replica,
)
from partitiond.core.balance import HEALTHY, after_failure, choose_replica, is_eligible
from partitiond.core.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.upstream import ConnectionPool


class FlightOwner(Protocol):
    """Whose flight it is; told what became of its waiting."""

    def placed(self, replica: "LiveReplica") -> None:
        """It has got a place there, and holds it from now on."""
        ...

    def refused(self, rejected: Rejected) -> None:
        """It waited in vain."""
        ...


class Nobody:
    """Owner of a flight that has ended."""

    def placed(self, replica: "LiveReplica") -> None:
        """Never called."""

    def refused(self, rejected: Rejected) -> None:
        """Never called."""


NOBODY: Final = Nobody()


class Flight:
    """One request of a client, from admission to its end.

    Attributes:
        cost: what it takes from a replica; never changes.
        started_at: when its last byte had come, by `time.monotonic` (the same clock as the event
            loop's, of which uvloop shows whole milliseconds only).
        max_wait_seconds: longest wait the client allows; infinite where it says nothing.
        placed_at: when it got its replica, by the same clock.
        replica: where it is in flight, or None.
        entry: its place in the queue, or None.
        attempts: made so far, the first included.
        tried: replicas that failed it.
        held: it came while its model slept, and waits whatever becomes of that.
    """

    __slots__ = (
        "attempts", "cost", "entry", "held", "max_wait_seconds", "owner", "placed_at", "replica",
        "request_id", "started_at", "timer", "tried",
    )  # fmt: skip

    def __init__(
        self,
        owner: FlightOwner,
        request_id: str,
        cost: Cost,
        started_at: float,
        max_wait_seconds: float = math.inf,
    ) -> None:
        self.owner = owner
        self.request_id = request_id
        self.cost = cost
        self.started_at = started_at
        self.max_wait_seconds = max_wait_seconds
        self.placed_at = started_at
        self.replica: LiveReplica | None = None
        self.entry: Waiting[Flight] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.attempts = 0
        self.tried: frozenset[str] = frozenset()
        self.held = False

    def leave(self) -> None:
        """Give the place back; harmless when there is none."""
        if self.replica is not None:
            self.replica.remove(self)


class LiveReplica:
    """One engine process and what is in flight on it. Has the fields of `balance.Load`.

    Attributes:
        fingerprint: the engine's `system_fingerprint`, once a stream has told it (see `events`).
    """

    def __init__(self, model: "LiveModel", route: ReplicaRoute, options: ProxyOptions) -> None:
        self.model = model
        self.route = route
        self.pool = ConnectionPool(
            route.socket_path,
            connect_timeout_seconds=options.connect_timeout_seconds,
            idle_seconds=options.idle_connection_seconds,
        )
        self.replica_id = route.replica_id
        self.flights: set[Flight] = set()
        self.sequences = 0
        self.kv_tokens = 0
        self.fingerprint: bytes | None = None
        self.health = HEALTHY
        self.ejected = False
        self._return_timer: asyncio.TimerHandle | None = None
        self.apply(route)

    def apply(self, route: ReplicaRoute) -> None:
        """Take over limits and draining from a newer table."""
        self.route = route
        self.max_sequences = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining

    def is_same_process(self, route: ReplicaRoute) -> bool:
        """Whether the route still means the engine we have connections to."""
        mine = self.route
        return mine.generation == route.generation and mine.socket_path == route.socket_path

    def add(self, flight: Flight) -> None:
        """A request starts here."""
        if flight not in self.flights:
            self.flights.add(flight)
            self.sequences += flight.cost.sequences
            self.kv_tokens += flight.cost.kv_tokens
            flight.replica = self
            flight.placed_at = time.monotonic()

    def remove(self, flight: Flight) -> None:
        """A request has left; whoever waits is looked at."""
        if flight in self.flights:
            self.flights.discard(flight)
            self.sequences -= flight.cost.sequences
            self.kv_tokens -= flight.cost.kv_tokens
            flight.replica = None
            self.model.busy_at = time.monotonic()
            self.model.dispatch()

    def failed(self) -> None:
        """An attempt here failed; it may be ejected for a while."""
        loop = asyncio.get_running_loop()
        others = [r for r in self.model.replicas.values() if r is not self]
        now = loop.time()
        self.health = after_failure(
            self.health,
            now,
            ejected_others=sum(r.ejected for r in others),
            replicas=len(others) + 1,
        )
        if self.health.is_ejected(now) and not self.ejected:
            self.ejected = True
            self.model.replicas_changed()
            if self._return_timer is None:
                self._return_timer = loop.call_at(self.health.ejected_until, self._return)

    def succeeded(self) -> None:
        """A request ended well here."""
        if self.health is not HEALTHY:
            self.health = HEALTHY
            self.ejected = False

    def _return(self) -> None:
        """An ejection may have ended by success and another begun since the timer was set."""
        self._return_timer = None
        loop = asyncio.get_running_loop()
        if self.health.is_ejected(loop.time()):
            self._return_timer = loop.call_at(self.health.ejected_until, self._return)
            return
        self.ejected = False
        self.model.dispatch()


class LiveModel:
    """One model: its replicas, its queue and what was learned of its requests.

    Attributes:
        max_model_len: longest context any replica has; 0 where unknown.
        busy_at: when a request last came or left, by `time.monotonic`.
    """

    def __init__(self, route: ModelRoute) -> None:
        self.route = route
        self.replicas: dict[str, LiveReplica] = {}
        self.retired: list[LiveReplica] = []
        self.queue: WaitingQueue[Flight] = WaitingQueue()
        self.tokens_per_byte = TokensPerByte()
        self.output_p90 = OutputP90()
        self.service = ServiceTime()
        self.removed = False
        self.max_model_len = 0
        self._serves = False
        self.busy_at = time.monotonic()

    def idle_seconds(self, now: float) -> float:
        """How long it has had no request; 0 while one waits or runs."""
        if self.queue or any(replica.flights for replica in self.everyone()):
            return 0.0
        return max(0.0, now - self.busy_at)

    @property
    def sequences_in_flight(self) -> int:
        """In all replicas."""
        return sum(replica.sequences for replica in self.replicas.values())

    def place(self, flight: Flight, *, again: bool = False) -> LiveReplica | Rejected | None:
        """A replica at once; or why not; or None, and the flight's owner is told later.

        Args:
            again: it was admitted before (a retry): it goes to the front, and is not refused for
                the queue's length.
        """
        self.busy_at = time.monotonic()
        flight.held = flight.held or self._asleep
        if not self._anyone_for(flight):
            return self._no_replica()
        if again or not self.queue or not flight.cost.sequences:
            chosen = self._choose(flight)
            if chosen is not None:
                chosen.add(flight)
                return chosen
        if not again:
            limits = self._limits(flight)
            refused = refuse_to_wait(len(self.queue), self.queue.sequences, limits)
            if refused is not None:
                return refused
        self._wait(flight, again=again)
        return None

    def _wait(self, flight: Flight, *, again: bool) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        longest = min(self.route.max_wait_seconds, flight.max_wait_seconds)
        entry = Waiting(flight, flight.cost, now, now + longest, flight.tried)
        flight.entry = entry
        flight.timer = loop.call_at(entry.deadline, self._expire, entry)
        self.queue.push(entry, front=again)

    def stop_waiting(self, flight: Flight) -> None:
        """Its client has left; harmless when it does not wait."""
        entry = flight.entry
        if entry is not None and self._taken_out(entry) and self.queue.discard(entry):
            self.dispatch()

    def _taken_out(self, entry: Waiting[Flight]) -> bool:
        """Its waiting is over, for whatever reason; False when it was before."""
        flight = entry.item
        if flight.entry is None:
            return False
        flight.entry = None
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None
        return True

    def dispatch(self) -> None:
        """Start whoever may start now, in order."""
        while self.queue:
            taken = self.queue.take(self.replicas.values(), random.random)
            if taken is None:
                break
            entry, replica = taken
            if self._taken_out(entry):
                replica.add(entry.item)
                entry.item.owner.placed(replica)

    def replicas_changed(self) -> None:
        """A replica was left out or came back: look at who waits for it."""
        self.dispatch()
        self._refuse_hopeless()

    def _refuse_hopeless(self) -> None:
        """Answer those who wait for replicas that are all gone."""
        hopeless = [entry for entry in self.queue if not self._anyone_for(entry.item)]
        for entry in hopeless:
            self._refuse(entry, self._no_replica())

    def _expire(self, entry: Waiting[Flight]) -> None:
        if not self._has_replica():
            self._refuse(entry, self._no_replica())
            return
        now = asyncio.get_running_loop().time()
        limits = self._limits(entry.item)
        self._refuse(entry, refuse_after_waiting(now - entry.since, self.queue.sequences, limits))

    def _refuse(self, entry: Waiting[Flight], rejected: Rejected) -> None:
        self.queue.discard(entry)
        if self._taken_out(entry):
            entry.item.owner.refused(rejected)

    def _choose(self, flight: Flight) -> LiveReplica | None:
        if len(self.replicas) == 1:
            (only,) = self.replicas.values()
            fits = admits(only, flight.cost) and is_eligible(only, flight.tried)
            return only if fits else None
        room = [r for r in self.replicas.values() if admits(r, flight.cost)]
        return choose_replica(room, flight.tried, (random.random(), random.random()))  # noqa: S311 -- balance, no secret

    def _anyone_for(self, flight: Flight) -> bool:
        """Whether waiting makes sense: an ejected replica comes back, but a retry is not kept.

        A request that came while the model slept waits although no replica is there; also when
        waking has become a start, which may take longer than the request has.
        """
        if flight.tried:
            return any(is_eligible(replica, flight.tried) for replica in self.replicas.values())
        return self._has_replica() or (flight.held and self._comes_back)

    def _has_replica(self) -> bool:
        return self._serves

    @property
    def _asleep(self) -> bool:
        """Whether requests wait for it to wake."""
        sleeping = self.route.availability is ModelAvailability.SLEEPING
        return sleeping and self.route.holds and not self.removed

    @property
    def _comes_back(self) -> bool:
        starting = self.route.availability is ModelAvailability.STARTING
        # A table may still say "serving" with all its replicas draining: the next one is coming.
        serving = self.route.availability is ModelAvailability.SERVING
        return self._asleep or ((starting or serving) and not self.removed)

    def _no_replica(self) -> Rejected:
        # A table may say "serving" while its last replica drains for the next one to come.
        availability = self.route.availability
        if self.removed:
            availability = ModelAvailability.UNAVAILABLE
        return refuse_without_replica(self.route.name, availability, self.route.retry_after_seconds)

    def _limits(self, flight: Flight) -> QueueLimits:
        # While nobody serves, how fast the queue will move is not known: only its length counts.
        moves = not self._asleep or self._has_replica()
        return QueueLimits(
            max_queue=self.route.max_queue,
            max_wait_seconds=min(self.route.max_wait_seconds, flight.max_wait_seconds),
            sequences_in_flight=self.sequences_in_flight,
            service_seconds=self.service.seconds if moves else 0.0,
        )

    def apply(
        self, route: ModelRoute, routes: Iterable[ReplicaRoute], options: ProxyOptions
    ) -> None:
        """Take over a newer table without touching what is in flight."""
        self.route = route
        wanted = {replica.replica_id: replica for replica in routes}
        for replica_id, replica in list(self.replicas.items()):
            new = wanted.get(replica_id)
            if new is None or not replica.is_same_process(new):
                del self.replicas[replica_id]
                replica.draining = True
                replica.pool.close()
                self.retired.append(replica)
        for replica_id, new in wanted.items():
            known = self.replicas.get(replica_id)
            if known is None:
                if not self.replicas:
                    self.service = ServiceTime(new.service_seconds)
                self.replicas[replica_id] = LiveReplica(self, new, options)
            else:
                known.apply(new)
        self.retired = [replica for replica in self.retired if replica.flights]
        current = self.replicas.values()
        self._serves = any(not replica.draining for replica in current)
        self.max_model_len = max((r.route.max_model_len for r in current), default=0)
        self.dispatch()
        self._refuse_hopeless()

    def remove(self) -> None:
        """The model is in no table any more; what runs finishes, who waits is refused."""
        self.removed = True
        self.apply(self.route, (), ProxyOptions())

    def everyone(self) -> Iterable[LiveReplica]:
        """Replicas, and processes that were replaced but still have requests in flight."""
        yield from self.replicas.values()
        yield from self.retired
