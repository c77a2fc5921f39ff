"""The host for a request is chosen by its rules, and nonsense harms nobody else."""

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import fleet
from partitiond.core.dispatch.admission import admits
from partitiond.core.dispatch.balance import ReplicaLoad, is_eligible
from partitiond.core.dispatch.fleet import OWN_HOST, HostPolicy, choose_host, queue_share
from partitiond.core.dispatch.peer_loads import PeerCounts, PeerLoads
from partitiond.core.dispatch.places import Request
from partitiond.core.dispatch.routing import HostSlots
from tests.core.dispatch.fleet_hosts import NOW, ROUTE, Own, Slots, asks, load, peer
from tests.core.dispatch.test_peer_loads import NONSENSE

POLICY = HostPolicy(hop_slack=0.25, wait_slack=0.5, queue_slack=0.0, max_refusals=3)
FULL = Slots("own", 8)


def chosen(
    own: Own,
    *peers: PeerLoads,
    request: Request | None = None,
    draws: tuple[float, ...] = (),
    refused: frozenset[str] = frozenset(),
) -> tuple[str, str] | None:
    """Return (host, replica), or None."""
    found = choose_host(
        own, peers, request or asks(), now=NOW, draws=draws, refused=refused, policy=POLICY
    )
    return None if found is None else (found.host, found.replica_id)


def test_a_request_with_room_at_home_stays_unless_home_is_clearly_fuller() -> None:
    assert chosen(Own(Slots("own", 2)), peer("x", load("x1"))) == ("", "")
    assert chosen(Own(Slots("own", 4)), peer("x", load("x1", 2))) == ("", "")
    assert chosen(Own(Slots("own", 5)), peer("x", load("x1", 2))) == ("x", "x1")
    assert chosen(Own(Slots("own", 7)), peer("x", load("x1", 7))) == ("", "")


def test_a_request_without_room_at_home_goes_where_there_is_room_and_nobody_waits() -> None:
    assert chosen(Own(FULL), peer("x", load("x1", 7))) == ("x", "x1")
    assert chosen(Own(Slots("own"), waiting=1), peer("x", load("x1", 7))) == ("x", "x1")
    assert chosen(Own(FULL), peer("x", load("x1", 7), waiting=1, seconds=0.1)) == ("x", "")
    assert chosen(Own(), peer("x", load("x1", 7))) == ("x", "x1")


def test_workers_that_wait_at_home_count() -> None:
    own = Own(Slots("own"))
    own.own_places.elsewhere = 1, 1
    assert chosen(own, peer("x", load("x1", 7))) == ("x", "x1")


def test_the_draws_decide_between_peers_and_the_better_drawn_one_is_chosen() -> None:
    peers = [peer("x", load("x1", 6)), peer("y", load("y1", 5)), peer("z", load("z1", 4))]
    assert chosen(Own(), *peers, draws=(0.0, 0.5)) == ("y", "y1")
    assert chosen(Own(), *peers, draws=(0.0, 0.1)) == ("x", "x1")
    assert chosen(Own(), *peers, draws=(0.4, 0.99)) == ("z", "z1")
    assert chosen(Own(), *peers) == ("z", "z1")


def test_a_preferred_replica_is_kept_unless_it_is_clearly_busier_than_any() -> None:
    near, far = Slots("own", 1), peer("x", load("x1", 2))
    assert chosen(Own(near), far, request=asks(prefer=("x1",))) == ("x", "x1")
    assert chosen(Own(near), peer("x", load("x1", 4)), request=asks(prefer=("x1",))) == ("", "")
    assert chosen(Own(near), far, request=asks(prefer=("gone", "x1"))) == ("x", "x1")
    assert chosen(Own(near), far, request=asks(prefer=("own", "x1"))) == ("", "")
    busy = Slots("own", 6)
    assert chosen(Own(busy), peer("x", load("x1", 4)), request=asks(prefer=("own",))) == ("", "")
    assert chosen(Own(busy), peer("x", load("x1", 3)), request=asks(prefer=("own",))) == ("x", "x1")
    two = Own(Slots("own", 0), Slots("other", 3))
    assert chosen(two, peer("x", load("x1", 5)), request=asks(prefer=("x1", "other"))) == ("", "")
    # The lowest of all hosts counts, whoever is drawn.
    peers = peer("x", load("x1", 4)), peer("y", load("y1", 0))
    assert chosen(Own(), *peers, request=asks(prefer=("x1",)), draws=(0.0,)) == ("x", "x1")
    assert chosen(Own(), *peers, request=asks(prefer=("x1",)), draws=(0.9,)) == ("y", "y1")


def test_without_room_the_shortest_wait_is_chosen_and_home_has_some_favour() -> None:
    def at(waiting: int, seconds: float = 1.0) -> PeerLoads:
        return peer("x", load("x1", 8), waiting=waiting, seconds=seconds)

    assert chosen(Own(FULL, waiting=2), at(1)) == ("", "")
    assert chosen(Own(FULL, waiting=3), at(1)) == ("x", "")
    assert chosen(Own(FULL, waiting=1), at(3, 0.25)) == ("x", "")
    assert chosen(Own(FULL, waiting=1, seconds=0.25), at(0)) == ("", "")
    own = Own(FULL)
    own.own_places.elsewhere = 3, 3
    assert chosen(own, at(1)) == ("x", "")
    many = peer("x", load("x1", 32, 32), waiting=3)
    assert chosen(Own(FULL, waiting=1), many) == ("x", "")
    assert chosen(Own(FULL, waiting=1), many, request=asks(4)) == ("x", "")
    assert chosen(Own(Slots("own", 8, ejected=True), waiting=1), at(3)) == ("x", "")


def test_a_full_queue_gets_nothing_while_another_one_has_room() -> None:
    own = Own(FULL, waiting=4)
    crowded = peer("x", load("x1", 8), waiting=4, seconds=0.01)
    assert chosen(own, crowded, peer("y", load("y1", 8), waiting=3)) == ("y", "")
    assert chosen(Own(FULL, waiting=3, seconds=9.0), crowded) == ("", "")
    said = peer("x", load("x1", 1))
    said.refused(0)
    assert chosen(Own(Slots("own", 7)), said) == ("", "")
    assert chosen(Own(), said, peer("y", load("y1", 8))) == ("y", "")


def test_a_queue_that_was_told_as_nearly_full_is_full_for_another_host() -> None:
    policy = HostPolicy(queue_slack=0.25)

    def at(waiting: int) -> str:
        told = peer("x", load("x1", 8), waiting=waiting, seconds=0.01)
        found = choose_host(Own(FULL, waiting=4), [told], asks(), now=NOW, draws=(), policy=policy)
        assert found is not None
        return found.host

    assert [at(2), at(3), at(4)] == ["x", "", ""]


def test_while_all_are_full_the_own_queue_decides_or_that_with_the_shortest_wait() -> None:
    crowded = peer("x", load("x1", 8), waiting=6), peer("y", load("y1", 8), waiting=4)
    assert chosen(Own(FULL, waiting=4), *crowded) == ("", "")
    assert chosen(Own(), *crowded, draws=(0.0, 0.0)) == ("y", "")
    assert chosen(Own(FULL, waiting=4), *crowded, refused=frozenset({OWN_HOST})) is None
    assert chosen(Own(), *crowded, refused=frozenset({"y"})) is None


def test_who_refused_is_not_asked_again_and_not_all_are_asked() -> None:
    peers = [peer(name, load(f"{name}1", 8)) for name in "vwxyz"]
    own = Own(FULL)
    assert chosen(own, *peers[:1], refused=frozenset({"v"})) == ("", "")
    assert chosen(own, *peers[:1], refused=frozenset({OWN_HOST})) == ("v", "")
    assert chosen(own, *peers[:1], refused=frozenset({OWN_HOST, "v"})) is None
    assert chosen(own, *peers, refused=frozenset({OWN_HOST, "v"})) == ("w", "")
    assert chosen(own, *peers, refused=frozenset({OWN_HOST, "v", "w"})) is None


def test_old_counts_come_after_fresh_ones_and_silent_hosts_never() -> None:
    fresh, old = peer("x", load("x1", 8), waiting=3), peer("y", load("y1"), age=0.3)
    assert chosen(Own(), fresh, old) == ("x", "")
    assert chosen(Own(FULL, waiting=3), old) == ("", "")
    assert chosen(Own(), peer("x", load("x1", 8), waiting=4), old) == ("y", "y1")
    assert chosen(Own(FULL, waiting=4), old) == ("y", "y1")
    assert chosen(Own(), peer("y", load("y1", 8), waiting=1, age=1.9)) == ("y", "")
    assert chosen(Own(), peer("y", load("y1"), age=2.1)) is None
    assert chosen(Own(), PeerLoads("never")) is None
    assert chosen(Own(), peer("x", load("x1", 8), waiting=9, age=1.0)) == ("x", "")


def test_a_slow_replica_has_the_room_that_it_has_in_effect() -> None:
    for seconds, there in ((2.0, 4), (1.5, 0)):  # two slots in effect, and five
        own = Own(Slots("slow", 2), Slots("own", 8))
        for replica, pace in (("slow", seconds), ("own", 1.0)):
            for _ in range(20):
                own.slowness.observe(replica, pace, 1.0, 1.0, NOW)
        assert chosen(own, peer("x", load("x1", there))) == ("x", "x1")


def test_the_share_of_a_queue_is_by_slots_and_rounded_up() -> None:
    assert queue_share(256, 8, 64) == 32
    assert queue_share(256, 1, 3) == 86
    assert queue_share(256, 0, 3) == 0
    assert queue_share(256, 0, 0) == 256
    assert queue_share(256, 9, 3) == 256
    assert queue_share(0, 1, 3) == 0
    assert queue_share(256, -5, 3) == 0


def test_hosts_that_serve_each_other_share_the_queue_of_a_model() -> None:
    hosts = (HostSlots("a", 8), HostSlots("b", 24))
    shares = fleet.QueueShares(dataclasses.replace(ROUTE, max_queue=10, hosts=hosts))
    assert [shares.of(host) for host in ("a", "b", "c")] == [3, 8, 0]
    nowhere = fleet.QueueShares(dataclasses.replace(ROUTE, max_queue=10))
    assert nowhere.of("a") == 10


def test_what_waits_in_other_workers_fills_the_own_queue_as_well() -> None:
    def own() -> Own:
        return Own(FULL, waiting=1, most=4, seconds=1e-3)

    far = peer("x", load("x1", 8), waiting=1)
    assert chosen(own(), far) == ("", "")
    crowded = own()
    crowded.own_places.elsewhere = 3, 3
    assert chosen(crowded, far) == ("x", "")


@given(st.integers(0, 10_000), st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_all_shares_are_the_bound_and_less_than_one_for_each_host(
    max_queue: int, slots: list[int]
) -> None:
    shares = [queue_share(max_queue, own, sum(slots)) for own in slots]
    if any(slots):
        assert max_queue <= sum(shares) < max_queue + len(slots)
        assert all(share > 0 for share, own in zip(shares, slots, strict=True) if own * max_queue)


LIMITS = st.sampled_from([0, 1, 3, 8, 97])
REPLICAS = st.builds(
    ReplicaLoad, st.sampled_from("abcdef"), LIMITS, LIMITS, LIMITS, LIMITS, st.booleans(),
    st.booleans(),
)  # fmt: skip
COUNTS = st.one_of(
    NONSENSE,
    st.builds(
        PeerCounts, st.lists(REPLICAS, max_size=3).map(tuple), st.integers(0, 6),
        st.integers(0, 6), st.sampled_from([1.0, 1 / 3, 1e-300, math.inf]),
    ),
)  # fmt: skip
DRAWS = st.lists(st.floats(0, 1, exclude_max=True), max_size=3)


TOLD = st.lists(st.tuples(COUNTS, st.sampled_from([0.0, 0.2, 0.3, 2.0, 2.5, math.inf])), max_size=4)
OWN = st.builds(
    lambda slots, waiting: Own(*slots, waiting=waiting),
    st.lists(st.builds(Slots, st.sampled_from("uvw"), LIMITS, LIMITS, LIMITS, LIMITS), max_size=2),
    st.integers(0, 4),
)


@given(
    TOLD,
    OWN,
    st.sets(st.sampled_from([OWN_HOST, "h0", "h1"]), max_size=3),
    st.frozensets(st.sampled_from("abcuv")),
    DRAWS,
)
def test_who_is_chosen_may_be_and_room_is_found_where_there_is_any(
    told: list[tuple[PeerCounts, float]],
    own: Own,
    refused: set[str],
    tried: frozenset[str],
    draws: list[float],
) -> None:
    peers = []
    for number, (counts, age) in enumerate(told):
        loads = PeerLoads(f"h{number}", 4)
        loads.take_over(counts, NOW - age)
        peers.append(loads)
    request = asks(tried=tried, prefer=("b", "u"))
    found = choose_host(own, peers, request, now=NOW, draws=draws, refused=refused, policy=POLICY)
    fresh = [p for p in peers if p.host not in refused and NOW - p.told_at <= 0.2]
    rooms = [
        replica
        for p in fresh
        if not p.waiting
        for replica in p.replicas.values()
        if is_eligible(replica, tried) and admits(replica, request.cost)
    ]
    if found is None:
        assert len(refused) >= POLICY.max_refusals or not rooms
        return
    assert found.host not in refused
    if found.peer is None:
        assert found is fleet.STAY
        assert any(is_eligible(replica, tried) for replica in own.places.loads())
        return
    assert NOW - found.peer.told_at <= 2.0
    assert any(is_eligible(r, tried) for r in found.peer.replicas.values())
    if rooms:
        assert found.replica_id in {replica.replica_id for replica in rooms}


@given(NONSENSE, DRAWS)
def test_a_lying_peer_changes_nothing_for_requests_that_are_not_sent_there(
    counts: PeerCounts, draws: list[float]
) -> None:
    liar = PeerLoads("liar", 4)
    liar.take_over(counts, NOW)
    others = [peer("x", load("x1", 8), waiting=2)]
    own = Own(FULL, waiting=2)
    with_liar = choose_host(own, [*others, liar], asks(), now=NOW, draws=draws, policy=POLICY)
    assert with_liar is not None
    without = choose_host(own, others, asks(), now=NOW, draws=(), policy=POLICY)
    assert with_liar.peer is liar or (with_liar.host, with_liar.replica_id) == (
        without.host if isinstance(without, fleet.HostChoice) else None,
        "",
    )
