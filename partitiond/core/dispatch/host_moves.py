"""Moves waiting requests to a host that has room.

A request that waits at one host is moved when another host has room and nobody waits there. Only
the entry of the request (`core.dispatch.fleet`) moves it. The entry takes the request back from the
host where it waits, unless it has started there, and then sends it on with the time that is left to
it. The request's place in the former queue is lost.

All entries see the same room at the same time. Therefore an entry moves no more requests to a host
than its share of all that wait.
"""

import math
from collections.abc import Collection, Iterable
from typing import Final, Generic

from partitiond.core.dispatch.admission import admits
from partitiond.core.dispatch.balance import LoadT, choose_replica
from partitiond.core.dispatch.dispatcher import Dispatcher
from partitiond.core.dispatch.fleet import OWN_HOST
from partitiond.core.dispatch.peer_loads import PeerLoads, copied
from partitiond.core.dispatch.places import RequestT

MAX_MOVES: Final = 2
"""Times that a waiting request is moved. Measured: docs/dispatch.md."""


class MovableRequest(Generic[RequestT]):
    """A request of this entry that waits at a host.

    Attributes:
        request: as the dispatcher sees it.
        since: when it began to wait, at any host; monotonic seconds.
        host: where it waits; `OWN_HOST` for the entry's own.
        moves: times that it was moved.
        refused: hosts that refused it.
        known_at: until then it may have started at a peer whose word is on its way; monotonic
            seconds.
    """

    __slots__ = ("host", "known_at", "moves", "refused", "request", "since")

    def __init__(self, request: RequestT, since: float, host: str) -> None:
        self.request = request
        self.since = since
        self.host = host
        self.moves = 0
        self.refused: frozenset[str] = frozenset()
        self.known_at = -math.inf


def choose_moves(
    own: Dispatcher[RequestT, LoadT],
    peers: Iterable[PeerLoads],
    waiting: Collection[MovableRequest[RequestT]],
    target: PeerLoads | None,
    *,
    now: float,
    draw: float,
) -> list[tuple[MovableRequest[RequestT], str]]:
    """Return the waiting requests to move to a host that has room, with the replica for each.

    Call it when a peer tells counts, and when a place comes free at the own host while nobody waits
    there. The highest priority goes first, then the longest wait. All entries see the same room, so
    an entry moves no more than its share of all waiting requests; to its own host it moves what
    fits, since only the entry itself sees that room at once.

    Args:
        own: dispatcher of the entry.
        peers: other hosts that may have replicas of the model.
        waiting: all requests of the entry that wait at any host.
        target: the host with room; None for the entry's own.
        now: monotonic seconds.
        draw: a number in [0, 1), which decides how a share is rounded.
    """
    if not waiting:
        return []
    if target is None:
        if own.queue or own.places.waiting_elsewhere()[0]:
            return []
        name, left = OWN_HOST, len(waiting)
        replicas = [copied(load) for load in own.places.loads()]
    else:
        if not target.is_fresh(now) or target.full or target.waiting:
            return []
        name = target.host
        left = _share_of(target, own, peers, mine=len(waiting), now=now, draw=draw)
        replicas = [copied(replica) for replica in target.replicas.values()]
    moves: list[tuple[MovableRequest[RequestT], str]] = []
    for movable in sorted(waiting, key=_move_order):
        if left < 1:
            break
        if movable.host == name or movable.moves >= MAX_MOVES or name in movable.refused:
            continue
        if now < movable.known_at:
            continue
        request = movable.request
        room = [one for one in replicas if not one.doubt and admits(one, request.cost)]
        chosen = choose_replica(room, request.tried, (0.0, 0.0), prefer=request.prefer)
        if chosen is not None:
            chosen.sequences += request.cost.sequences
            chosen.kv_tokens += request.cost.kv_tokens
            left -= 1
            moves.append((movable, chosen.replica_id))
    return moves


def _share_of(
    target: PeerLoads,
    own: Dispatcher[RequestT, LoadT],
    peers: Iterable[PeerLoads],
    *,
    mine: int,
    now: float,
    draw: float,
) -> int:
    """Return how many of its waiting requests this entry moves to the target."""
    everyone = len(own.queue) + own.places.waiting_elsewhere()[0]
    for peer in peers:
        if not peer.is_silent(now):
            # What a peer tells beyond its bound is not true, and must not keep others from moving.
            everyone += min(peer.waiting, peer.max_waiting)
    return int(target.free_sequences() * mine / max(mine, everyone) + draw)


def _move_order(movable: MovableRequest[RequestT]) -> tuple[int, float]:
    return -movable.request.share.priority, movable.since
