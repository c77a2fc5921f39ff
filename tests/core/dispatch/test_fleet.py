"""The host for a request is chosen by its rules, and nonsense harms nobody else."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import fleet
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.fleet import OWN_HOST, choose_host
from partitiond.core.dispatch.peer_loads import PeerCounts, PeerLoads
from partitiond.core.dispatch.routing import HostSlots
from tests.core.dispatch.fleet_hosts import NOW, ROUTE, Own, Slots, asks, load, peer
from tests.core.dispatch.test_peer_loads import NONSENSE

FULL = Slots("own", 8)


def own(*slots: Slots, elsewhere: int = 0, **more: Any) -> Own:
    made = Own(*slots, **more)
    made.own_places.elsewhere = elsewhere, elsewhere
    return made


def at(running: int, **more: Any) -> PeerLoads:
    """A peer with one replica that runs so many of 8."""
    host = more.pop("host", "x")
    return peer(host, load(f"{host}1", running), **more)


def has(running: int, name: str = "own") -> Slots:
    return Slots(name, running)


def said_full(host: str = "x") -> PeerLoads:
    told = at(1, host=host)
    told.refused(0)
    return told


def doubted(host: str = "x") -> PeerLoads:
    return peer(host, ReplicaLoad(f"{host}1", 0, 8, doubt=1))


DOUBTED, REFUSED = Slots("own", doubt=1), Slots("own", doubt=2)
HOME, FULL_X, NOBODY = ("", ""), ("x", ""), None
TO_X = ("x", "x1")
CROWDED = at(8, waiting=4, seconds=0.01)
FIVE = [at(8, host=name) for name in "vwxyz"]
LIKES_X, LIKES_OWN = {"prefer": ("x1",)}, {"prefer": ("own",)}
MANY = peer("x", load("x1", 32, 32), waiting=3)
BUSY = [at(4), at(0, host="y")]
THREE = [at(6), at(5, host="y"), at(4, host="z")]
OVERFULL = [at(8, waiting=6), at(8, host="y", waiting=4)]


@pytest.mark.parametrize(
    ("here", "peers", "wish", "given", "where"),
    [
        # With room at home it stays, unless home is clearly fuller.
        (own(has(2)), [at(0)], {}, {}, HOME),
        (own(has(4)), [at(2)], {}, {}, HOME),
        (own(has(5)), [at(2)], {}, {}, TO_X),
        # Without, it goes where there is room and nobody waits.
        (own(FULL), [at(7)], {}, {}, TO_X),
        (own(has(0), waiting=1), [at(7)], {}, {}, TO_X),
        (own(has(0), elsewhere=1), [at(7)], {}, {}, TO_X),
        (own(FULL), [at(7, waiting=1, seconds=0.1)], {}, {}, FULL_X),
        (own(FULL), [peer("x", ReplicaLoad("x1", 1, 8, 900, 1000))], {"kv_tokens": 50}, {}, TO_X),
        (own(), [peer("x", ReplicaLoad("x1", 1, 8, 900, 1000))], {"kv_tokens": 51}, {}, FULL_X),
        # The draws decide between peers, and the better drawn one is chosen.
        (own(), THREE, {}, {"draws": (0.0, 0.5)}, ("y", "y1")),
        (own(), THREE, {}, {"draws": (0.0, 0.1)}, TO_X),
        (own(), THREE, {}, {}, ("z", "z1")),
        # A preferred replica is kept unless it is clearly busier than any, whoever is drawn.
        (own(has(1)), [at(2)], LIKES_X, {}, TO_X),
        (own(has(1)), [at(4)], LIKES_X, {}, HOME),
        (own(has(1)), [at(2)], {"prefer": ("gone", "x1")}, {}, TO_X),
        (own(has(6)), [at(4)], LIKES_OWN, {}, HOME),
        (own(has(6)), [at(3)], LIKES_OWN, {}, TO_X),
        (own(has(0), has(3, "other")), [at(5)], {"prefer": ("x1", "other")}, {}, HOME),
        (own(), BUSY, LIKES_X, {"draws": (0.0,)}, TO_X),
        # Without room the shortest wait is chosen, and home has some favour.
        (own(FULL, waiting=1, seconds=1.2), [at(8, waiting=1)], {}, {}, HOME),
        (own(FULL, waiting=1, seconds=1.3), [at(8, waiting=1)], {}, {}, FULL_X),
        (own(FULL, waiting=1), [at(8, waiting=3, seconds=0.25)], {}, {}, FULL_X),
        (own(FULL, elsewhere=3), [at(8, waiting=1)], {}, {}, FULL_X),
        (own(FULL, waiting=1), [MANY], {}, {}, FULL_X),
        (own(Slots("own", 8, ejected=True), waiting=1), [at(8, waiting=3)], {}, {}, FULL_X),
        # Doubtful replicas come after all others with room, and those of peers' own hosts, too.
        (own(DOUBTED), [at(7)], {}, {}, TO_X),
        (own(has(7)), [doubted()], {}, {}, HOME),
        (own(), [doubted(), at(7, host="y")], {}, {"draws": (0.0, 0.0)}, ("y", "y1")),
        # A refused one comes even after waiting elsewhere.
        (own(REFUSED), [at(8, waiting=3)], {}, {}, FULL_X),
        (own(REFUSED), [at(8, waiting=3), doubted("y")], {}, {}, ("y", "y1")),
        (own(Slots("own", 8, doubt=2)), [at(8, waiting=3)], {}, {}, FULL_X),
        # A full queue gets nothing while another one has room; other workers fill it as well.
        (own(FULL, waiting=4), [CROWDED, at(8, host="y", waiting=3)], {}, {}, ("y", "")),
        (own(has(7)), [said_full()], {}, {}, HOME),
        (own(), [said_full(), at(8, host="y")], {}, {}, ("y", "")),
        (own(FULL, waiting=1, seconds=1e-3, elsewhere=3), [at(8, waiting=1)], {}, {}, FULL_X),
        # While all are full the own queue decides, or that with the shortest wait.
        (own(), OVERFULL, {}, {"draws": (0.0, 0.0)}, ("y", "")),
        (own(FULL, waiting=4), OVERFULL, {}, {"refused": {OWN_HOST}}, NOBODY),
        # Who refused is not asked again, and not all are asked.
        (own(FULL), FIVE[:1], {}, {"refused": {"v"}}, HOME),
        (own(FULL), FIVE[:1], {}, {"refused": {OWN_HOST}}, ("v", "")),
        (own(FULL), FIVE, {}, {"refused": {OWN_HOST, "v"}}, NOBODY),
        # Old counts come after fresh ones, and silent hosts never.
        (own(), [at(8, waiting=3), at(0, host="y", age=0.3)], {}, {}, FULL_X),
        (own(FULL, waiting=3), [at(0, age=0.3)], {}, {}, HOME),
        (own(), [at(8, waiting=4), at(0, host="y", age=0.3)], {}, {}, ("y", "y1")),
        (own(FULL, waiting=4), [at(0, age=0.3)], {}, {}, TO_X),
        (own(), [at(8, waiting=1, age=1.9)], {}, {}, FULL_X),
        (own(), [at(0, age=2.1)], {}, {}, NOBODY),
    ],
)  # fmt: skip
def test_a_request_goes_where_it_is_best_off(
    here: Own,
    peers: list[PeerLoads],
    wish: dict[str, Any],
    given: dict[str, Any],
    where: tuple[str, str] | None,
) -> None:
    arguments = {"draws": (), **given}
    found = choose_host(here, peers, asks(**wish), now=NOW, **arguments)
    assert (None if found is None else (found.host, found.replica_id)) == where


def test_a_queue_that_was_told_as_nearly_full_is_full_for_another_host() -> None:
    def at(waiting: int) -> str:
        told = peer("x", load("x1", 8), waiting=waiting, seconds=0.01, most=16)
        found = choose_host(Own(FULL, waiting=4), [told], asks(), now=NOW, draws=())
        assert found is not None
        return found.host

    assert [at(12), at(13), at(14)] == ["x", "x", ""]


def shares_of(max_queue: int, *slots: int) -> list[int]:
    """The share of each host with these slots, and of one without."""
    hosts = tuple(HostSlots(str(number), each) for number, each in enumerate(slots))
    found = fleet.QueueShares(dataclasses.replace(ROUTE, max_queue=max_queue, hosts=hosts))
    return [found.of(str(number)) for number in range(len(slots) + 1)]


def test_the_share_of_a_queue_is_by_slots_and_rounded_up() -> None:
    assert shares_of(256, 8, 56) == [32, 224, 0]
    assert shares_of(10, 1, 2) == [4, 7, 0]
    assert shares_of(256, 0, 3) == [0, 256, 0]
    assert shares_of(256, 0) == shares_of(256)[:1] * 2 == [256, 256]
    assert shares_of(0, 1, 2) == [0, 0, 0]


@given(st.integers(0, 10_000), st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_all_shares_are_the_bound_and_less_than_one_for_each_host(
    max_queue: int, slots: list[int]
) -> None:
    *shares, _ = shares_of(max_queue, *slots)
    if any(slots):
        assert max_queue <= sum(shares) < max_queue + len(slots)
        assert all(share > 0 for share, own in zip(shares, slots, strict=True) if own * max_queue)


DRAWS = st.lists(st.floats(0, 1, exclude_max=True), max_size=3)


@given(NONSENSE, DRAWS)
def test_a_lying_peer_changes_nothing_for_requests_that_are_not_sent_there(
    counts: PeerCounts, draws: list[float]
) -> None:
    liar = PeerLoads("liar", 4)
    liar.take_over(counts, NOW)
    others = [peer("x", load("x1", 8), waiting=2)]
    own = Own(FULL, waiting=2)
    with_liar = choose_host(own, [*others, liar], asks(), now=NOW, draws=draws)
    assert with_liar is not None
    without = choose_host(own, others, asks(), now=NOW, draws=())
    assert with_liar.peer is liar or (with_liar.host, with_liar.replica_id) == (
        without.host if isinstance(without, fleet.HostChoice) else None,
        "",
    )
