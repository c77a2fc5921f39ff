"""The fair queue gives keys and requests their fair share."""

import itertools
import math

import pytest

from partitiond.core.dispatch.admission import Cost, QueueLimits, Waiting
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.fair_keys import AGEING_SHARE, CREDIT_SHARE
from partitiond.core.dispatch.fair_queue import HEADROOM_SHARE, MAX_ASIDE, FairQueue, expire

_numbers = itertools.count()
FREE = [ReplicaLoad("a", 0, 64)]
FULL = [ReplicaLoad("a", 64, 64)]


def entry(
    key: str = "",
    *,
    tokens: float = 100.0,
    weight: float = 1.0,
    priority: int = 0,
    deadline: float = math.inf,
    cost: Cost | None = None,
    tried: frozenset[str] = frozenset(),
    prefer: tuple[str, ...] = (),
    since: float = 0.0,
) -> Waiting[str]:
    return Waiting(
        f"{key}{next(_numbers)}", cost or Cost(1, int(tokens)), since, deadline, tried,
        key=key, weight=weight, priority=priority, tokens=tokens, prefer=prefer,
    )  # fmt: skip


def queued(
    *entries: Waiting[str], places: int = 256, credit: float = CREDIT_SHARE
) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(places, credit)
    for one in entries:
        assert queue.push(one) is None
    return queue


def keys_taken(queue: FairQueue[str], count: int) -> str:
    taken = []
    for _ in range(count):
        found = queue.take(FREE, lambda: 0.0)
        assert found is not None
        taken.append(found[0].key)
    return "".join(taken)


def test_a_flood_does_not_delay_another_key() -> None:
    queue = queued(*[entry("f") for _ in range(20)])
    assert keys_taken(queue, 5) == "fffff"
    queue.push(entry("v"))
    assert keys_taken(queue, 3) == "vff"


def test_keys_share_by_weight_and_by_tokens_not_by_requests() -> None:
    queue = queued(
        *[entry("a", tokens=100, weight=3) for _ in range(60)],
        *[entry("b", tokens=300, weight=1) for _ in range(60)],
    )
    taken = keys_taken(queue, 50)
    assert taken.count("a") / taken.count("b") == pytest.approx(9, rel=0.1)


def test_idleness_earns_a_part_of_what_the_slots_hold_and_no_more() -> None:
    queue = queued(*[entry("a") for _ in range(150)])
    queue.push(entry("b"))
    assert keys_taken(queue, 100).count("b") == 1
    for _ in range(60):
        queue.push(entry("b"))
    credit = int(64 * CREDIT_SHARE)
    assert keys_taken(queue, credit) == "b" * credit
    assert keys_taken(queue, 10).count("b") in {5, 6}


def test_one_long_request_does_not_send_a_modest_keys_next_one_behind_a_flood() -> None:
    queue = queued(*[entry("f") for _ in range(50)])
    keys_taken(queue, 40)
    queue.push(entry("v", tokens=500))
    queue.push(entry("v"))
    assert keys_taken(queue, 3) == "vvf"


def test_a_flood_leaves_headroom_while_others_are_active() -> None:
    queue = queued(entry("v"), *[entry("f") for _ in range(20)])
    keys_taken(queue, 4)
    slots = 64
    kept = int(slots * HEADROOM_SHARE)
    tight = [ReplicaLoad("a", slots - kept, slots)]
    assert queue.take(tight, lambda: 0.0) is None
    queue.push(entry("v"))
    found = queue.take(tight, lambda: 0.0)
    assert found is not None
    assert found[0].key == "v"
    assert queue.take([ReplicaLoad("a", slots - kept - 1, slots)], lambda: 0.0) is not None


def test_a_key_alone_may_have_every_slot() -> None:
    queue = queued(*[entry("f") for _ in range(20)])
    keys_taken(queue, 4)
    assert queue.take([ReplicaLoad("a", 63, 64)], lambda: 0.0) is not None


def test_who_used_less_than_estimated_gets_it_back() -> None:
    queue = queued(*[entry(key) for key in "ab" for _ in range(20)])
    assert sorted(keys_taken(queue, 2)) == ["a", "b"]
    queue.settle("a", 100, 0)
    assert keys_taken(queue, 1) == "a"
    queue.settle("b", 100, 400)
    assert keys_taken(queue, 4) == "aaaa"


def test_what_started_without_waiting_counts() -> None:
    queue = queued()
    for _ in range(5):
        queue.charge("a", 100)
    queue.push(entry("a"))
    queue.push(entry("b"))
    assert keys_taken(queue, 2) == "ba"


def test_higher_priorities_go_first_and_lower_ones_keep_a_share() -> None:
    queue = queued(*[entry("low", priority=0) for _ in range(30)])
    for _ in range(170):
        queue.push(entry("high", priority=5))
    taken = [queue.take(FREE, lambda: 0.0) for _ in range(150)]
    order = [found[0].key for found in taken if found is not None]
    assert order[:16] == ["high"] * 16
    low = order.count("low") / len(order)
    assert low == pytest.approx(AGEING_SHARE / (1 + AGEING_SHARE), rel=0.15)


def test_within_a_key_the_earliest_deadline_goes_first_then_the_first_that_came() -> None:
    late, soon, also = entry(deadline=9.0), entry(deadline=3.0), entry(deadline=3.0)
    queue = queued(late, soon, also)
    order = [found[0] for _ in range(3) if (found := queue.take(FREE, lambda: 0.0))]
    assert order == [soon, also, late]


def test_a_full_queue_takes_the_place_from_the_key_with_the_most() -> None:
    flood = [entry("f") for _ in range(4)]
    queue = queued(*flood, places=4)
    first = entry("v")
    assert queue.push(first) is flood[3]
    another = entry("f")
    assert queue.push(another) is another
    assert queue.push(entry("v")) is flood[2]
    third = entry("v")
    assert queue.push(third) is third, "two and two is even"
    assert sorted(one.key for one in queue) == ["f", "f", "v", "v"]
    assert queue.sequences == 4


def test_places_follow_weights() -> None:
    queue = queued(*[entry("light") for _ in range(6)], places=6)
    displaced = [queue.push(entry("heavy", weight=2.0)) for _ in range(6)]
    assert [one.key if one else None for one in displaced] == ["light"] * 4 + ["heavy"] * 2


def test_a_higher_priority_takes_places_but_never_a_keys_only_one() -> None:
    low = [entry("a"), entry("a"), entry("b")]
    queue = queued(*low, places=3)
    assert queue.push(entry("top", priority=1)) is low[1]
    refused = entry("top", priority=1)
    assert queue.push(refused) is refused


def test_a_retry_is_taken_although_the_queue_is_full_and_goes_first() -> None:
    queue = queued(entry("a"), places=1)
    retry = entry("b", tried=frozenset({"b"}))
    assert queue.push(retry, front=True) is None
    found = queue.take(FREE, lambda: 0.0)
    assert found is not None
    assert found[0] is retry


def test_a_retry_goes_before_one_that_was_set_aside_for_want_of_room() -> None:
    load = [ReplicaLoad("a", 1, 64, 500, 1000)]
    large = entry("large", cost=Cost(1, 800))
    queue = queued(large)
    assert queue.take(load, lambda: 0.0) is None, "it has had its turn, and waits for room"
    retry = entry("retry", cost=Cost(1, 10))
    assert queue.push(retry, front=True) is None
    found = queue.take([ReplicaLoad("a", 0, 64, 0, 1000)], lambda: 0.0)
    assert found is not None
    assert found[0] is retry


def test_a_retry_steps_aside_for_those_who_can_use_the_free_replica() -> None:
    queue = queued(entry("first"))
    queue.push(entry("retry", tried=frozenset({"a"})), front=True)
    assert keys_taken(queue, 1) == "first"
    assert queue.take(FREE, lambda: 0.0) is None
    assert len(queue) == 1


def test_a_preferred_replica_gets_it() -> None:
    queue = queued(entry(prefer=("b",)))
    found = queue.take([ReplicaLoad("a", 0, 8), ReplicaLoad("b", 1, 8)], lambda: 0.0)
    assert found is not None
    assert found[1].replica_id == "b"


def test_while_nobody_has_a_slot_the_order_stays_open() -> None:
    queue = queued(entry("f"), entry("f"))
    assert queue.take(FULL, lambda: 0.0) is None
    queue.push(entry("top", priority=1))
    assert keys_taken(queue, 1) == "top"


def test_a_large_request_is_overtaken_by_no_more_than_its_own_size() -> None:
    """One replica of 1000 KV tokens, kept full by requests of 100; one needs 800 at once."""
    queue = queued(entry("big", tokens=800, cost=Cost(1, 800)))
    running = [100] * 9
    overtook = 0
    for _ in range(100):
        queue.push(entry("small", tokens=100))
        found = queue.take([ReplicaLoad("a", len(running), 64, sum(running), 1000)], lambda: 0.0)
        if found is not None and found[0].key == "big":
            break
        if found is not None:
            overtook += 100
            running.append(100)
        running = running[1:]
    else:
        pytest.fail("it never started")
    assert overtook == 800


def test_a_reservation_keeps_one_replica_and_the_others_go_on() -> None:
    queue = queued(entry("big", tokens=50, cost=Cost(8, 800)))
    for _ in range(12):
        queue.push(entry("small", tokens=10))
    # Both are nearly full; the large one fits nowhere. "a" is nearer to having room.
    loads = [ReplicaLoad("a", 5, 8), ReplicaLoad("b", 6, 8)]
    where = []
    for _ in range(10):
        found = queue.take(loads, lambda: 0.0)
        assert found is not None
        where.append(found[1].replica_id)
    assert where[:5] == ["a"] * 5, "by occupancy, until it was overtaken by its own 50 tokens"
    assert where[5:] == ["b"] * 5, "then 'a' drains for it"
    loads[0] = ReplicaLoad("a", 0, 8)
    found = queue.take(loads, lambda: 0.0)
    assert found is not None
    assert (found[0].key, found[1].replica_id) == ("big", "a")


def test_only_so_many_are_set_aside() -> None:
    queue = queued(*[entry("big", cost=Cost(8, 10)) for _ in range(5)], entry("small", tokens=1e4))
    assert queue.take([ReplicaLoad("a", 5, 8)], lambda: 0.0) is not None, "the small one passes"
    queue.push(entry("small", tokens=1e4))
    assert MAX_ASIDE == 2
    assert queue.take([ReplicaLoad("a", 5, 8)], lambda: 0.0) is None


def test_who_gives_up_after_having_been_set_aside_pays_nothing() -> None:
    big = entry("a", cost=Cost(8, 10), tokens=5000)
    queue = queued(big, credit=0.0)
    assert queue.take([ReplicaLoad("a", 5, 8)], lambda: 0.0) is None
    assert queue.discard(big)
    assert not queue.discard(big)
    for key in "ab":
        for _ in range(4):
            queue.push(entry(key))
    assert sorted(keys_taken(queue, 2)) == ["a", "b"]


def test_a_newcomer_waits_for_what_is_ahead_of_it_only() -> None:
    queue = queued(*[entry("f") for _ in range(40)])
    keys_taken(queue, 4)
    assert queue.ahead(key="f") == 36
    assert queue.ahead(key="v") <= 1
    assert queue.ahead(key="top", priority=1) <= 3, "a sixteenth, for those below"
    assert queue.ahead(key="low", priority=-1) == 36
    queue.push(entry("v"), front=True)
    assert queue.ahead(key="top", priority=1) >= 1, "retries come first"


def test_who_waited_in_vain_is_told_of_what_its_own_key_would_wait_for() -> None:
    # Each has more time than the one before: who comes again has no deadline that passes theirs.
    flood, modest = [entry("f", deadline=1.0 + n) for n in range(40)], entry("m", deadline=1.0)
    limits = QueueLimits(256, 60.0, sequences_in_flight=4, service_seconds=2.0)
    queue = queued(*flood, modest)
    assert [expire(queue, one, 1.0, limits).retry_after_seconds for one in (modest, flood[0])] == [
        1,  # behind one of the flood's
        20,  # behind 39
    ]
    assert expire(queue, flood[1], 1.0, limits, elsewhere=100).retry_after_seconds == 70
    assert len(queue) == 38


def test_a_short_deadline_is_not_held_against_its_own_keys_later_ones() -> None:
    queue = queued(*[entry("k", deadline=100.0) for _ in range(10)])
    assert queue.ahead(key="k", deadline=5.0) == 0
    assert queue.ahead(key="k", deadline=200.0) == 10


def test_urgency_puts_priority_then_share_then_age_first() -> None:
    flood = queued(entry("f", since=10.0), entry("f", since=10.0), entry("f", since=10.0))
    keys_taken(flood, 1)
    modest = queued(entry("v", since=50.0))
    top = queued(entry("t", since=90.0, priority=2))
    ranks = [queue.urgency() for queue in (top, modest, flood)]
    assert None not in ranks
    assert ranks == sorted(ranks, key=lambda rank: rank or 0.0)
    assert queued().urgency() is None


def test_a_key_whose_priority_changes_takes_its_requests_along() -> None:
    queue = queued(entry("a"), entry("b"), entry("b"))
    queue.push(entry("b", priority=3))
    assert keys_taken(queue, 4) == "bbba"


def test_a_key_without_weight_is_served_too() -> None:
    queue = queued(entry("zero", weight=0.0), places=2)
    assert queue.ahead(key="zero", weight=0.0) == 1
    queue.push(entry("one"))
    assert queue.push(entry("none", weight=0.0)) is not None
    keys_taken(queue, 2)
    assert len(queue) == 0


def test_keys_that_are_gone_are_forgotten() -> None:
    queue = queued()
    for number in range(10_000):
        queue.charge(f"key-{number}", 10)
        queue.charge("busy", 100)
    assert len(queue._keys._accounts) < 5000
