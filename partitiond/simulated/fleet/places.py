"""Indexes one model's replicas by occupancy, so that a request need not visit thousands of them.

`core.dispatch.places` visits every replica for every request. This index passes it only replicas
that can be chosen: for a request that starts at once, the least occupied ones with room, which are
those that `choose_replica` would find among all; for the queue, replicas with a free slot. Tests
compare the index with a plain collection.
"""

import bisect
from collections.abc import Callable, Collection, Iterable

from partitiond.core.dispatch.admission import Cost, Waiting, admits
from partitiond.core.dispatch.balance import occupancy
from partitiond.core.dispatch.fair_queue import FairQueue
from partitiond.core.dispatch.places import Places
from partitiond.core.dispatch.routing import ReplicaRoute
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest, TokenListener
from partitiond.simulated.fleet.events import SimulatedClock


class FleetReplica(TokenListener):
    """A replica as the dispatcher sees it (with the fields of `balance.Load`), and its engine.

    Attributes:
        place: index among the model's replicas.
    """

    def __init__(
        self,
        route: ReplicaRoute,
        clock: SimulatedClock,
        ended: Callable[[FleetRequest, "FleetReplica"], None],
    ) -> None:
        """
        Args:
            ended: called after the last token of a request on this replica.
        """
        self.route = route
        self.replica_id = route.replica_id
        self.max_sequences = self.batch = route.max_sequences
        self.kv_cache_tokens = route.kv_cache_tokens
        self.draining = route.draining
        self.ejected = False
        self.doubt = 0
        self.sequences = 0
        self.kv_tokens = 0
        self._clock, self._ended = clock, ended
        self.place = 0
        self.engine: FleetEngine | None = None

    def first_token(self, request: FleetRequest) -> None:
        """Record the time of the first token."""
        request.first = self._clock.now

    def last_token(self, request: FleetRequest) -> None:
        """Free the place of the request."""
        self._ended(request, self)


class Full:
    """All replicas without a free slot, as one: tells the queue how many slots there are."""

    replica_id = ""
    kv_tokens = 0
    kv_cache_tokens = 0
    draining = False
    ejected = False
    doubt = 0

    def __init__(self, slots: int) -> None:
        self.sequences = slots
        self.max_sequences = self.batch = slots


Place = FleetReplica | Full


class FleetPlaces(Places[FleetRequest, Place]):
    """The indexed replicas; see the module.

    Attributes:
        replicas: all replicas, in order; changed by `enter`.
        in_flight: sequences in all replicas.
        max_model_len: longest context of any replica; 0 if unknown.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__((), draw)
        self.replicas: list[FleetReplica] = []
        self.in_flight = 0
        self.max_model_len = 0
        # Indices of replicas by occupancy, and the occupancies in order.
        self._levels: dict[float, list[int]] = {}
        self._order: list[float] = []
        self._slots = 0
        self._free_slots: list[int] = []

    # Calls of the dispatcher

    def loads(self) -> Collection[Place]:
        """Return all replicas."""
        return self.replicas

    def add(self, load: Place, request: FleetRequest) -> None:
        """Assign a place on the replica to the request."""
        assert isinstance(load, FleetReplica)  # a full replica takes nothing
        self.count(load, request.takes.sequences, request.takes.kv_tokens)

    def serve(self) -> bool:
        """Return whether any replica may get requests."""
        return bool(self.replicas)

    def sequences_in_flight(self) -> int:
        """Return the sequences in all replicas."""
        return self.in_flight

    def take(
        self, queue: FairQueue[FleetRequest], now: float
    ) -> tuple[Waiting[FleetRequest], Place] | None:
        """Assign a place to the next queued request that may start, and dequeue the request."""
        del now
        replicas, loads = self.replicas, list[Place]()
        if self._free_slots:
            loads += [replicas[place] for place in self._free_slots]
            rest = self._slots - sum(load.max_sequences for load in loads)
            if rest:
                loads.append(Full(rest))
        elif replicas:
            loads.append(Full(self._slots))
        return self._take_of(queue, loads)

    def _with_room(self, request: FleetRequest, cost: Cost) -> Iterable[Place]:
        """Return the least occupied replicas that have room, in order."""
        if request.tried or request.prefer:
            return super()._with_room(request, cost)
        replicas = self.replicas
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

    # Changes

    def enter(self, replica: FleetReplica) -> None:
        """Add a replica, which serves from now on."""
        self.replicas.append(replica)
        self._sort()

    def count(self, replica: FleetReplica, sequences: int, kv_tokens: int) -> None:
        """Change a replica's sequences and KV tokens by these amounts."""
        before = replica.sequences
        after = before + sequences
        replica.sequences = after
        replica.kv_tokens += kv_tokens
        self.in_flight += sequences
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

    def _sort(self) -> None:
        """Rebuild the index, after the set of serving replicas changed."""
        self._levels.clear()
        self._free_slots.clear()
        self._slots = 0
        self.max_model_len = max((r.route.max_model_len for r in self.replicas), default=0)
        for place, replica in enumerate(self.replicas):
            replica.place = place
            self._levels.setdefault(occupancy(replica), []).append(place)
            self._slots += replica.max_sequences
            if replica.sequences < replica.max_sequences or replica.sequences == 0:
                self._free_slots.append(place)
        self._order = sorted(self._levels)

    def _leave(self, share: float, place: int) -> None:
        level = self._levels[share]
        if len(level) == 1:
            del self._levels[share]
            del self._order[bisect.bisect_left(self._order, share)]
        else:
            del level[bisect.bisect_left(level, place)]
