"""Replicas of one model by occupancy, so that a request need not look at thousands of them.

`core.places` looks at every replica for every request. Here it is shown those that can be chosen at
all: for a request that starts at once the least occupied that have room, which is what
`choose_replica` would find among all of them; for the queue those with a free slot. While some
replica is slow, all are looked at, as the rule is another one then. Tests hold this and a plain
collection side by side.
"""

import bisect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from partitiond.core.admission import Cost, Waiting, admits
from partitiond.core.balance import Slowness, occupancy
from partitiond.core.fair_queue import FairQueue
from partitiond.core.places import Places
from partitiond.core.routing import ReplicaRoute
from partitiond.simulation.fleet.engine import FleetEngine, Request, Served

if TYPE_CHECKING:
    from partitiond.simulation.fleet.dispatch import FleetModel


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


Place = FleetReplica | Full


class FleetPlaces(Places[Request, Place]):
    """See the module.

    Attributes:
        replicas: those that may get requests, in order; changed by `enter` and `drain`.
        in_flight: sequences in all replicas, draining ones included.
        max_model_len: longest context any replica has; 0 where unknown.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__((), draw)
        self.replicas: list[FleetReplica] = []
        self._everyone: list[FleetReplica] = []
        self.in_flight = 0
        self.max_model_len = 0
        # Places by occupancy, of those that do not drain; the occupancies in order.
        self._levels: dict[float, list[int]] = {}
        self._order: list[float] = []
        self._slots = 0
        self._free_slots: list[int] = []

    # What the dispatcher asks

    def loads(self) -> Collection[Place]:
        """All until they are lost."""
        return self._everyone

    def add(self, load: Place, request: Request) -> None:
        """The request takes its place there."""
        assert isinstance(load, FleetReplica)  # what is full takes nothing
        self.count(load, request.cost.sequences, request.cost.kv_tokens)

    def serve(self) -> bool:
        """Whether there is any."""
        return bool(self.replicas)

    def sequences_in_flight(self) -> int:
        """In all replicas."""
        return self.in_flight

    def take(
        self, queue: FairQueue[Request], slowness: Slowness, now: float
    ) -> tuple[Waiting[Request], Place] | None:
        """Take a place for the next in the queue that may start, and take it out."""
        if slowness.factors(now):
            return super().take(queue, slowness, now)
        replicas, loads = self.replicas, list[Place]()
        if self._free_slots:
            loads += [replicas[place] for place in self._free_slots]
            rest = self._slots - sum(load.max_sequences for load in loads)
            if rest:
                loads.append(Full(rest))
        elif replicas:
            loads.append(Full(self._slots))
        return self._take_of(queue, loads, slowness, now)

    def _with_room(
        self, request: Request, cost: Cost, slow: Mapping[str, float]
    ) -> Iterable[Place]:
        """Of those that have room the least occupied, in order."""
        if slow or request.tried or request.prefer:
            return super()._with_room(request, cost, slow)
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

    # What changes

    def enter(self, replica: FleetReplica) -> None:
        """A replica serves from now on."""
        self.replicas.append(replica)
        self._everyone.append(replica)
        self._sort()

    def drain(self, replica: FleetReplica) -> None:
        """It gets nothing new."""
        replica.draining = True
        if replica in self.replicas:
            self.replicas.remove(replica)
            self._sort()

    def lose(self, replica: FleetReplica) -> None:
        """It is gone, with what it had."""
        self.drain(replica)
        if replica in self._everyone:
            self._everyone.remove(replica)
            self._sort()
        self.in_flight -= replica.sequences
        replica.sequences = replica.kv_tokens = 0

    def count(self, replica: FleetReplica, sequences: int, kv_tokens: int) -> None:
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

    def _sort(self) -> None:
        """All orders anew: who serves has changed."""
        self._levels.clear()
        self._free_slots.clear()
        self._slots = 0
        self.max_model_len = max((r.route.max_model_len for r in self._everyone), default=0)
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
