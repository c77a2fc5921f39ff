"""The proxy's part for one model of a fleet: as `simulation.dispatch`, for thousands of replicas.

Decisions are `core.admission`'s, `core.balance`'s and `core.fair_queue`'s. They look at every
replica for every request; here replicas are kept by occupancy, and the functions are asked about
those that can be chosen at all: the least occupied that have room, which is what `choose_replica`
would find among all of them. While some replica is slow, all are looked at, as the rule is another
one then. A test holds this and `simulation.dispatch` side by side.
"""

import bisect
import random
from collections.abc import Callable, Iterable, Sequence

from partitiond.core.admission import (
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
    refuse_without_replica,
)
from partitiond.core.balance import Slowness, choose_replica, occupancy
from partitiond.core.fair_queue import FairQueue, expire
from partitiond.core.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.simulation.dispatch import BYTES_PER_TOKEN
from partitiond.simulation.fleet.clock import Due, FleetClock
from partitiond.simulation.fleet.engine import FleetEngine, Request, Served


class FleetReplica(Served):
    """A replica as the dispatch sees it (it has the fields of `balance.Load`), and its engine.

    Attributes:
        place: among the model's replicas.
    """

    def __init__(self, model: "FleetModel", route: ReplicaRoute) -> None:
        self.model = model
        self.route = route
        self.replica_id = route.replica_id
        self.max_sequences = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining
        self.ejected = False
        self.sequences = 0
        self.kv_tokens = 0
        self.place = 0
        self.engine: FleetEngine | None = None

    def first_token(self, request: Request) -> None:
        """The engine answered."""
        request.first = self.model.clock.now

    def last_token(self, request: Request) -> None:
        """The request gives its place back."""
        self.model.ended(request, self)


class Full:
    """All replicas without a free slot, as one: they tell the queue how many slots there are."""

    replica_id = ""
    kv_tokens = 0
    kv_cache_tokens = 0
    draining = False
    ejected = False

    def __init__(self, slots: int) -> None:
        self.sequences = slots
        self.max_sequences = slots


class Finished:
    """Who is told of each request that ended or was refused."""

    def answered(self, request: Request) -> None:
        """It got its last token."""
        raise NotImplementedError

    def refused(self, request: Request, rejected: Rejected) -> None:
        """It was sent away."""
        raise NotImplementedError


class _Expiry(Due):
    """The deadline of a request that waits."""

    def __init__(self, model: "FleetModel", entry: Waiting[Request]) -> None:
        self._model = model
        self._entry = entry

    def due(self, number: int) -> None:
        """It is refused if it still waits."""
        del number
        self._model.expire(self._entry)


class FleetModel:
    """One model: its replicas, its queue and what was learned of its requests.

    Attributes:
        route: as the proxy has it; may be replaced.
        replicas: those that may get requests, in order; changed by `add` and `remove`.
        in_flight: sequences in all of them, draining ones included.
        on_woken: called when a request comes while the model sleeps.
    """

    def __init__(
        self, clock: FleetClock, route: ModelRoute, finished: Finished, seed: int = 0
    ) -> None:
        self.clock = clock
        self.route = route
        self.replicas: list[FleetReplica] = []
        self.in_flight = 0
        self.arrived = 0
        self.on_woken: Callable[[], None] = _nothing
        self._finished = finished
        self._queue: FairQueue[Request] = FairQueue(route.max_queue)
        self._slowness = Slowness()
        self._draws = random.Random(seed)  # noqa: S311 -- balance, no secret
        self._service = ServiceTime()
        self._ratios = PromptRatios()
        self._output_p90 = OutputP90()
        self._max_model_len = 0
        # Places by occupancy, of those that do not drain; the occupancies in order.
        self._levels: dict[float, list[int]] = {}
        self._order: list[float] = []
        self._slots = 0
        self._free_slots: list[int] = []

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def service_seconds(self) -> float:
        """Mean stay of a sequence in an engine, as learned."""
        return self._service.seconds

    # -- replicas ----------------------------------------------------------------------------

    def add(self, replica: FleetReplica) -> None:
        """A replica serves from now on."""
        if not self.replicas:
            self._service = ServiceTime(replica.route.service_seconds)
        self.replicas.append(replica)
        self._sort()
        self._dispatch()

    def drain(self, replica: FleetReplica) -> None:
        """It gets nothing new."""
        replica.draining = True
        if replica in self.replicas:
            self.replicas.remove(replica)
            self._slowness.forget(replica.replica_id)
            self._sort()

    def lose(self, replica: FleetReplica) -> tuple[Request, ...]:
        """Its engine is gone; the requests that were in it."""
        self.drain(replica)
        engine = replica.engine
        lost = () if engine is None else engine.requests
        if engine is not None:
            engine.halt()
        self.in_flight -= replica.sequences
        replica.sequences = replica.kv_tokens = 0
        return lost

    def _sort(self) -> None:
        """All orders anew: who serves has changed."""
        self._levels.clear()
        self._free_slots.clear()
        self._slots = 0
        self._max_model_len = 0
        for place, replica in enumerate(self.replicas):
            replica.place = place
            self._levels.setdefault(occupancy(replica), []).append(place)
            self._slots += replica.max_sequences
            self._max_model_len = max(self._max_model_len, replica.route.max_model_len)
            if replica.sequences < replica.max_sequences or replica.sequences == 0:
                self._free_slots.append(place)
        self._order = sorted(self._levels)

    def _count(self, replica: FleetReplica, sequences: int, kv_tokens: int) -> None:
        """A replica has more or less than before."""
        before = replica.sequences
        after = before + sequences
        replica.sequences = after
        replica.kv_tokens += kv_tokens
        self.in_flight += sequences
        if replica.draining:
            return
        place, limit = replica.place, replica.max_sequences
        self._leave(before / max(1, limit), place)
        share = after / max(1, limit)
        level = self._levels.get(share)
        if level is None:
            self._levels[share] = [place]
            bisect.insort(self._order, share)
        else:
            bisect.insort(level, place)
        was_free, is_free = before < limit or before == 0, after < limit or after == 0
        if was_free and not is_free:
            del self._free_slots[bisect.bisect_left(self._free_slots, place)]
        elif is_free and not was_free:
            bisect.insort(self._free_slots, place)

    def _leave(self, share: float, place: int) -> None:
        level = self._levels[share]
        if len(level) == 1:
            del self._levels[share]
            del self._order[bisect.bisect_left(self._order, share)]
        else:
            del level[bisect.bisect_left(level, place)]

    # -- requests ----------------------------------------------------------------------------

    def arrive(self, prompt_tokens: int, output_tokens: int) -> None:
        """A request is there: it starts, waits, or is refused.

        Clients are taken to ask for as many tokens as they get, as the load generator does.
        """
        self.arrived += 1
        clock = self.clock
        cost = estimate_cost(
            sequences=1,
            prompt_tokens=prompt_tokens * BYTES_PER_TOKEN * self._ratios.value(""),
            max_tokens=output_tokens,
            output_p90=self._output_p90.value,
            max_model_len=self._max_model_len,
        )
        request = Request(clock.now, prompt_tokens, output_tokens, cost)
        if not self.replicas and not self._comes_back():
            route = self.route
            self._finished.refused(
                request,
                refuse_without_replica(route.name, route.availability, route.retry_after_seconds),
            )
            return
        if not self._queue and self._start_at_once(request):
            return
        self._wait(request)

    def _comes_back(self) -> bool:
        """Whether requests wait although no replica is there."""
        route = self.route
        if route.availability is ModelAvailability.SLEEPING and route.holds:
            self.on_woken()
            return True
        return route.holds and route.availability is ModelAvailability.STARTING

    def _wait(self, request: Request) -> None:
        now = self.clock.now
        entry = Waiting(request, request.cost, now, now + self.route.max_wait_seconds)
        ahead = self._queue.ahead(key="", weight=1.0, priority=0, deadline=entry.deadline)
        limits = self._limits()
        late = refuse_too_late(ahead, limits.max_wait_seconds, limits)
        if late is not None:
            self._finished.refused(request, late)
            return
        gone = self._queue.push(entry)
        if gone is not None:
            self._finished.refused(gone.item, refuse_full(len(self._queue), ahead, limits))
        if gone is not entry:
            self.clock.plan(entry.deadline, _Expiry(self, entry))
            self._dispatch()

    def _start_at_once(self, request: Request) -> bool:
        slowness = self._slowness.factors(self.clock.now)
        draws = (self._draws.random(), self._draws.random())
        if slowness:
            room: Iterable[FleetReplica] = [
                replica
                for replica in self.replicas
                if admits(replica, request.cost, slowness.get(replica.replica_id, 1.0))
            ]
        else:
            room = self._least_occupied(request)
        chosen = choose_replica(room, (), draws, slowness=slowness)
        if chosen is None:
            return False
        self._queue.charge("", request.cost.kv_tokens, weight=1.0, priority=0)
        self._start(request, chosen)
        return True

    def _least_occupied(self, request: Request) -> Sequence[FleetReplica]:
        """Of those that have room the least occupied, in order."""
        replicas, cost = self.replicas, request.cost
        for share in self._order:
            level = self._levels[share]
            if share == 0.0:
                return [replicas[place] for place in level]
            if share >= 1.0:
                break
            room = [replicas[place] for place in level if admits(replicas[place], cost)]
            if room:
                return room
        return ()

    def _dispatch(self) -> None:
        """Start whoever may start now, in order."""
        while self._queue:
            slowness = self._slowness.factors(self.clock.now)
            loads: list[FleetReplica | Full] = []
            if slowness:
                loads += self.replicas
            else:
                loads += [self.replicas[place] for place in self._free_slots]
                if not loads:
                    return
                rest = self._slots - sum(replica.max_sequences for replica in loads)
                if rest:
                    loads.append(Full(rest))
            taken = self._queue.take(loads, self._draws.random, slowness)
            if taken is None:
                return
            entry, chosen = taken
            assert isinstance(chosen, FleetReplica)  # what is full takes nothing
            self._start(entry.item, chosen)

    def _start(self, request: Request, replica: FleetReplica) -> None:
        request.placed = self.clock.now
        self._count(replica, 1, request.cost.kv_tokens)
        if replica.engine is not None:
            replica.engine.add(request)

    def expire(self, entry: Waiting[Request]) -> None:
        """A deadline has come."""
        if entry in self._queue:
            if not self.replicas:
                self._queue.discard(entry)
                route = self.route
                rejected = refuse_without_replica(
                    route.name, route.availability, route.retry_after_seconds
                )
            else:
                rejected = expire(self._queue, entry, self.clock.now, self._limits())
            self._finished.refused(entry.item, rejected)
            self._dispatch()

    def ended(self, request: Request, replica: FleetReplica) -> None:
        """A replica is done with a request."""
        now = self.clock.now
        request.ended = now
        self._count(replica, -1, -request.cost.kv_tokens)
        prompt_tokens, output_tokens = request.prompt_tokens, request.output_tokens
        self._queue.settle("", request.cost.kv_tokens, prompt_tokens + output_tokens)
        self._ratios.observe("", prompt_tokens * BYTES_PER_TOKEN, prompt_tokens)
        self._output_p90 = self._output_p90.observe(output_tokens)
        stayed = now - request.placed
        self._service = self._service.observe(stayed)
        self._slowness.observe(
            replica.replica_id, stayed, output_tokens, replica.route.service_seconds, now
        )
        if self._queue:
            self._dispatch()
        self._finished.answered(request)

    def _limits(self) -> QueueLimits:
        # While nobody serves, how fast the queue will move is not known: only its length counts.
        return QueueLimits(
            max_queue=self.route.max_queue,
            max_wait_seconds=self.route.max_wait_seconds,
            sequences_in_flight=self.in_flight,
            service_seconds=self._service.seconds if self.replicas else 0.0,
        )


def _nothing() -> None:
    """Before anyone listens."""
