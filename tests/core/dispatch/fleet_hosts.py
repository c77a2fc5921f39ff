"""Hosts for the tests of the rules between hosts."""

import dataclasses
import math

from partitiond.core.dispatch.admission import Cost, RequestOwner, Waiting, service_time
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.peer_loads import PeerCounts, PeerLoads
from partitiond.core.dispatch.places import Places, Request
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute

ROUTE = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=4, max_wait_seconds=10.0)
NOW = 1000.0


@dataclasses.dataclass
class Slots:
    """A replica of the own host."""

    replica_id: str
    sequences: int = 0
    max_sequences: int = 8
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False
    doubt: int = 0

    @property
    def batch(self) -> int:
        return self.max_sequences


class OwnPlaces(Places[Request, Slots]):
    """Places of the own host, some of which other workers wait for."""

    elsewhere = 0, 0

    def add(self, load: Slots, request: Request) -> None:
        """Count the request."""
        load.sequences += request.takes.sequences

    def waiting_elsewhere(self) -> tuple[int, int]:
        """Return what the other workers have waiting."""
        return self.elsewhere


class Own(Dispatcher[Request, Slots]):
    """The dispatcher of the own host."""

    def __init__(
        self, *slots: Slots, waiting: int = 0, seconds: float = 1.0, most: int = 4
    ) -> None:
        self.own_places = OwnPlaces(slots, lambda: 0.0)
        super().__init__(ROUTE, self.own_places, service_time(seconds))
        self.changed(0.0, route=ROUTE, most=most)
        for number in range(waiting):
            self.queue.push(
                Waiting(asks(), Cost(1, 0), 0.0, math.inf, share=RequestOwner(str(number)))
            )


def asks(
    sequences: int = 1,
    kv_tokens: int = 0,
    *,
    prefer: tuple[str, ...] = (),
    tried: frozenset[str] = frozenset(),
    priority: int = 0,
) -> Request:
    """Make a request."""
    request = Request(Cost(sequences, kv_tokens), RequestOwner(priority=priority))
    request.prefer, request.tried = prefer, tried
    return request


def peer(
    host: str,
    *replicas: ReplicaLoad,
    waiting: int = 0,
    seconds: float = 1.0,
    age: float = 0.0,
    most: int = 4,
) -> PeerLoads:
    """Make a peer that told its counts `age` seconds ago."""
    loads = PeerLoads(host, most)
    loads.take_over(PeerCounts(replicas, waiting, waiting, seconds), NOW - age)
    return loads


def load(name: str, sequences: int = 0, limit: int = 8, **more: bool) -> ReplicaLoad:
    """Make a told replica."""
    return ReplicaLoad(name, sequences, limit, **more)
