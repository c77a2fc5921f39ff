"""Chooses the host for a request, when several hosts have replicas of its model.

The host that a client asked (the entry) chooses the host that admits the request (the owner), which
may be itself. The owner starts the request on one of its replicas, lets it wait in its own fair
queue beside the requests of its own clients, or answers that it is full; nothing was sent to the
client before. So batches, KV tokens and queues are bounded by their owner, whatever the entries
believe; a wrong choice costs a hop and time, never a bound.

What an entry knows of its peers is at most `FRESH_SECONDS` old (`core.dispatch.peer_loads`). Many
entries see the same free place at the same time. Therefore an entry does not choose the best host
of all, but the better one of two drawn ones (Mitzenmacher, "How Useful Is Old Information?", 2000).

No clock, no randomness: times and draws are arguments. Each call visits each replica once.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.dispatch.admission import admits
from partitiond.core.dispatch.balance import (
    DOUBTFUL,
    PREFERENCE_SLACK,
    LoadT,
    is_eligible,
    occupancy,
)
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.core.dispatch.places import RequestT
from partitiond.core.dispatch.routing import ModelRoute

OWN_HOST: Final = ""
"""The entry's own host, among the names of hosts."""

HOP_SLACK: Final = 0.25
"""A request with room at its own host leaves it if the own least occupied replica is fuller than
the other one by more than this share of its limit. Measured: docs/dispatch.md."""
WAIT_SLACK: Final = 0.25
"""It waits at its own host unless the wait there is longer than elsewhere by more than this share.
Measured: docs/dispatch.md."""
QUEUE_SLACK: Final = 0.125
"""A peer's queue counts as full from this share of its bound below the bound, since it fills while
its counts are on their way. Measured: docs/dispatch.md."""
MAX_REFUSALS: Final = 2
"""Hosts that may answer "full" before the request is refused."""


class HostChoice:
    """The host for a request, or one that is possible.

    Attributes:
        peer: the host; None for the entry's own.
        replica_id: where the request should start, for the owner's `prefer`; empty if the owner
            chooses, or if the request is expected to wait.
        figure: share of the replica that is taken, or seconds to wait; the least is best.
    """

    __slots__ = ("figure", "peer", "replica_id")

    def __init__(self, peer: PeerLoads | None, replica_id: str = "", figure: float = 0.0) -> None:
        self.peer = peer
        self.replica_id = replica_id
        self.figure = figure

    @property
    def host(self) -> str:
        """Name of the host; `OWN_HOST` for the entry's own."""
        return OWN_HOST if self.peer is None else self.peer.host


STAY: Final = HostChoice(None)


def choose_host(
    own: Dispatcher[RequestT, LoadT],
    peers: Iterable[PeerLoads],
    request: RequestT,
    *,
    now: float,
    draws: Sequence[float],
    refused: Collection[str] = (),
) -> HostChoice | None:
    """Return the host for a request; None if there is none: the own dispatcher then refuses the
    request or holds it for a replica that is coming, unless it has refused the request already.

    Args:
        own: dispatcher of the entry.
        peers: other hosts that may have replicas of the model.
        request: the request; it prefers replicas of any host, and avoids those it has tried.
        now: monotonic seconds.
        draws: numbers in [0, 1), usually two: as many of the possible peers are drawn, and the best
            of these is chosen. Without any, it is the best of all.
        refused: hosts that refused the request (`OWN_HOST` for the entry's own).
    """
    if len(refused) >= MAX_REFUSALS:
        return None
    may_stay = OWN_HOST not in refused
    shares = _own_shares(own, request) if may_stay else {}
    least = min(shares.values()) if shares else math.inf
    prefer = request.prefer
    if shares.get(prefer[0], math.inf) <= PREFERENCE_SLACK if prefer else least <= HOP_SLACK:
        return STAY
    fresh: list[PeerLoads] = []
    stale: list[PeerLoads] = []
    for peer in peers:
        if not (peer.host in refused or peer.is_silent(now)):
            (fresh if peer.is_fresh(now) else stale).append(peer)
    room = _with_room(fresh, request)
    if prefer:
        preferred = _preferred(prefer, shares, least, room)
        if preferred is not None:
            return preferred
    best = _drawn(room, draws)
    if best is not None and best.figure + HOP_SLACK < least:
        return best
    if least < 2 * DOUBTFUL:
        return STAY
    wait = _own_wait(own, request) if may_stay else math.inf
    best = _drawn(_with_queue(fresh, request), draws)
    if wait < math.inf and (best is None or wait <= (1 + WAIT_SLACK) * best.figure):
        return STAY
    best = best or _drawn(_with_room(stale, request) or _with_queue(stale, request), draws)
    if best is None and not refused:
        # All queues are full. The fair queue of an owner may still have a place for this key.
        if any(is_eligible(load, request.tried) for load in own.places.loads()):
            return STAY
        best = _drawn(_that_serve(fresh, request) or _that_serve(stale, request), ())
        if best is None and not own.places.loads():
            best = _drawn(_that_come_back(fresh, request) or _that_come_back(stale, request), ())
    return best


class QueueShares:
    """How many requests may wait for a model at each of the hosts that serve each other.

    A host has its share of the model's bound by slots, rounded up, so all hosts together let fewer
    than `max_queue` + hosts requests wait. Hosts without slots let none wait. While no host has
    any, requests are held for a replica that is coming, and each host holds up to `max_queue`.

    Args:
        route: of the model, by the routing table.
    """

    def __init__(self, route: ModelRoute) -> None:
        self._max_queue = route.max_queue
        self._slots = {one.host: one.slots for one in route.hosts}
        self._all_slots = sum(self._slots.values())

    def of(self, host: str) -> int:
        """Return the share of a host."""
        if self._all_slots <= 0:
            return self._max_queue
        own = self._slots.get(host, 0)
        return min(self._max_queue, -(-self._max_queue * own // self._all_slots))


def _own_shares(own: Dispatcher[RequestT, LoadT], request: RequestT) -> dict[str, float]:
    """Return the own replicas on which the request could start now, and how full each is."""
    if own.queue or own.places.waiting_elsewhere()[0]:
        return {}
    return {
        load.replica_id: occupancy(load) + DOUBTFUL * load.doubt
        for load in own.places.loads()
        if is_eligible(load, request.tried) and admits(load, request.cost)
    }


def _own_wait(own: Dispatcher[RequestT, LoadT], request: RequestT) -> float:
    """Return the expected wait at the own host in seconds; infinite if its queue is full, or no
    replica of it takes the request.
    """
    loads = own.places.loads()
    if own.is_full or not any(is_eligible(one, request.tried) and one.doubt < 2 for one in loads):
        return math.inf
    ahead = own.places.waiting_elsewhere()[1] + own.queue.sequences + request.cost.sequences
    return ahead * own.service.value / max(1, own.places.sequences_in_flight())


def _with_room(peers: Iterable[PeerLoads], request: RequestT) -> list[HostChoice]:
    """Return the replicas of peers on which the request could start now, where nobody waits."""
    options: list[HostChoice] = []
    cost, tried = request.cost, request.tried
    for peer in peers:
        if peer.waiting or peer.full:
            continue
        for replica in peer.replicas.values():
            if is_eligible(replica, tried) and admits(replica, cost):
                figure = occupancy(replica) + DOUBTFUL * replica.doubt
                options.append(HostChoice(peer, replica.replica_id, figure))
    return [option for option in options if option.figure < DOUBTFUL] or options


def _that_serve(peers: Iterable[PeerLoads], request: RequestT) -> list[HostChoice]:
    """Return the peers with a replica that takes the request once there is room, and the wait."""
    options: list[HostChoice] = []
    for peer in peers:
        if any(is_eligible(replica, request.tried) for replica in peer.replicas.values()):
            ahead = peer.waiting_sequences + request.cost.sequences
            wait = ahead * peer.service_seconds / max(1, peer.sequences_in_flight())
            options.append(HostChoice(peer, figure=wait))
    return options


def _that_come_back(peers: Iterable[PeerLoads], request: RequestT) -> list[HostChoice]:
    """Return the peers all of whose replicas are refused or out, which may take the request."""
    return [
        HostChoice(peer, figure=float(peer.waiting_sequences))
        for peer in peers
        if not request.tried and any(not replica.draining for replica in peer.replicas.values())
    ]


def _with_queue(peers: Iterable[PeerLoads], request: RequestT) -> list[HostChoice]:
    """Return the peers in whose queue there is room, and the expected wait there."""
    part = 1 - QUEUE_SLACK
    with_queue = [p for p in peers if not p.full and p.waiting < part * p.max_waiting]
    return _that_serve(with_queue, request)


def _preferred(
    prefer: Sequence[str], shares: Mapping[str, float], least: float, room: Sequence[HostChoice]
) -> HostChoice | None:
    """Return the host of the first preferred replica that is not clearly busier than the least
    occupied one of all hosts (as `balance.choose_replica` does for one host).
    """
    lowest = min([least, *[option.figure for option in room]])
    for name in prefer:
        if name in shares:
            if shares[name] <= lowest + PREFERENCE_SLACK:
                return STAY
            continue
        for option in room:
            if option.replica_id == name and option.figure <= lowest + PREFERENCE_SLACK:
                return option
    return None


def _drawn(options: Sequence[HostChoice], draws: Sequence[float]) -> HostChoice | None:
    """Return the best one of the drawn ones, or of all without draws; None if there is none."""
    best: HostChoice | None = None
    count = len(options)
    for other in [options[int(draw * count)] for draw in draws] if draws and count else options:
        if best is None or other.figure < best.figure:
            best = other
    return best
