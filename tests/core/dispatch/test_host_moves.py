"""Waiting requests are moved to where there is room, in order, and by each entry its share."""

from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.fleet import OWN_HOST
from partitiond.core.dispatch.host_moves import MovableRequest, choose_moves
from partitiond.core.dispatch.peer_loads import SETTLE_SECONDS, PeerLoads
from partitiond.core.dispatch.places import Request
from tests.core.dispatch.fleet_hosts import NOW, Own, Slots, asks, load, peer

FULL = Slots("own", 8)


def waits(*requests: Request, host: str = "y", first: float = 0.0) -> list[MovableRequest[Request]]:
    return [MovableRequest(request, first + n, host) for n, request in enumerate(requests)]


def moved(
    waiting: list[MovableRequest[Request]],
    target: PeerLoads | None,
    *,
    own: Own | None = None,
    peers: tuple[PeerLoads, ...] = (),
    draw: float = 0.0,
) -> list[tuple[int, str]]:
    """Return which are moved, and to which replicas."""
    found = choose_moves(
        own or Own(FULL), [*peers, *([target] if target else [])], waiting, target,
        now=NOW, draw=draw,
    )  # fmt: skip
    return [(waiting.index(movable), replica) for movable, replica in found]


def test_as_many_move_as_there_is_room_the_first_by_priority_and_wait() -> None:
    waiting = [*waits(asks(), first=5.0), *waits(asks(), asks())]
    assert moved(waiting, peer("x", load("x1", 6))) == [(1, "x1"), (2, "x1")]
    assert moved(waiting, peer("x", load("x1", 6), load("x2", 7))) == [
        (1, "x1"), (2, "x1"), (0, "x2"),
    ]  # fmt: skip
    assert moved(waiting, peer("x", load("x1", 8))) == []
    assert moved([], peer("x", load("x1"))) == []
    waiting = waits(asks(), asks(priority=1), asks(priority=-1))
    assert moved(waiting, peer("x", load("x1", 6))) == [(1, "x1"), (0, "x1")]


def test_nobody_moves_where_somebody_waits_or_who_is_not_fresh_or_full() -> None:
    waiting = waits(asks())
    assert moved(waiting, peer("x", load("x1"), waiting=1)) == []
    assert moved(waiting, peer("x", load("x1"), age=0.3)) == []
    said = peer("x", load("x1"))
    said.refused(0)
    assert moved(waiting, said) == []
    home = waits(asks(), host="x")
    assert moved(home, None, own=Own(Slots("own", 1), waiting=1)) == []
    own = Own(Slots("own", 1))
    own.own_places.elsewhere = 1, 1
    assert moved(home, None, own=own) == []


def test_nobody_moves_who_is_there_or_settles_or_was_refused_or_moved_too_often() -> None:
    here, refused, often, last = waiting = waits(asks(), asks(), asks(), asks())
    here.host = "x"
    refused.refused = frozenset({"x"})
    often.moves, last.moves = 2, 1
    assert moved(waiting, peer("x", load("x1"))) == [(3, "x1")]
    waiting = waits(asks(), asks(), asks())
    waiting[0].known_at, waiting[1].known_at = NOW + SETTLE_SECONDS, NOW
    assert moved(waiting, peer("x", load("x1"))) == [(1, "x1"), (2, "x1")]
    assert moved(waiting, None, own=Own(Slots("own", 1))) == [(1, "own"), (2, "own")]


def test_a_request_moves_to_a_replica_that_takes_it() -> None:
    waiting = waits(asks(4), asks(tried=frozenset({"x1"})), asks(2, 200), asks(1, 10))
    told = ReplicaLoad("x1", 5, 8, 800, 1000)
    assert moved(waiting, peer("x", told)) == [(3, "x1")]
    waiting = waits(asks(1, 100), asks(1, 100), asks(1, 40))
    assert moved(waiting, peer("x", told)) == [(0, "x1"), (2, "x1")]
    both = peer("x", load("x1", 4), load("x2", 1), load("x3", draining=True))
    assert moved(waits(asks(prefer=("x1",)), asks(prefer=("x2",))), both) == [(0, "x2"), (1, "x2")]


def test_an_entry_moves_its_share_of_all_that_wait() -> None:
    waiting = waits(*[asks() for _ in range(4)])
    others = peer("y", load("y1", 8), waiting=16, most=16)
    assert len(moved(waiting, peer("x", load("x1", 0)), peers=(others,))) == 2
    assert len(moved(waiting, peer("x", load("x1", 2)), peers=(others,))) == 1
    assert len(moved(waiting, peer("x", load("x1", 2)), peers=(others,), draw=0.5)) == 2
    assert len(moved(waiting, peer("x", load("x1", 6)), peers=(others,), draw=0.49)) == 0
    assert len(moved(waits(*[asks() for _ in range(9)]), peer("x", load("x1", 6)), draw=0.99)) == 2
    busy = Own(FULL, waiting=8, most=99)
    mine = waits(*[entry.item for entry in busy.queue], host=OWN_HOST)
    crowd = peer("y", load("y1", 8), waiting=8, most=8)
    assert len(moved(mine, peer("x", load("x1", 4)), own=busy, peers=(crowd,))) == 2
    own = Own(FULL)
    own.own_places.elsewhere = 16, 16
    assert len(moved(waiting, peer("x", load("x1", 0)), own=own)) == 2


def test_what_a_peer_tells_beyond_its_bound_keeps_nobody_from_moving() -> None:
    waiting = waits(*[asks() for _ in range(4)])
    liar = peer("y", load("y1", 8), waiting=10**9, most=4)
    assert len(moved(waiting, peer("x", load("x1", 0)), peers=(liar,))) == 4
    gone = peer("y", load("y1", 8), waiting=16, age=3.0, most=16)
    assert len(moved(waiting, peer("x", load("x1", 4)), peers=(gone,))) == 4
