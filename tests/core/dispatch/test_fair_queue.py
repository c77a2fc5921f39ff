"""The fair queue gives keys and requests their fair share, and keeps its bounds on random loads."""

import dataclasses
import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Cost, QueueLimits, RequestOwner, Waiting, admits
from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.fair_keys import AGEING_SHARE, CREDIT_SHARE, RECENT_STARTS
from partitiond.core.dispatch.fair_queue import HEADROOM_SHARE, FairQueue, expire

_numbers = itertools.count()
SLOTS = 64


def entry(
    key: str = "", *, tokens: float = 100.0, cost: Cost | None = None, **more: Any
) -> Waiting[str]:
    since, deadline = more.pop("since", 0.0), more.pop("deadline", math.inf)
    share = RequestOwner(key, more.pop("weight", 1.0), more.pop("priority", 0))
    name, cost = f"{key}{next(_numbers)}", cost or Cost(1, int(tokens))
    return Waiting(name, cost, since, deadline, share=share, tokens=tokens, **more)


def entries(keys: str, **more: Any) -> list[Waiting[str]]:
    return [entry(key, **more) for key in keys]


def queued(*there: Waiting[str], places: int = 256, credit: float = CREDIT_SHARE) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(places, credit)
    for one in there:
        assert queue.push(one) is None
    return queue


def busy(
    running: int = 0, tokens: int = 0, cache: int = 0, *, of: int = SLOTS, name: str = "a"
) -> ReplicaLoad:
    return ReplicaLoad(name, running, of, tokens, cache)


TIGHT = busy(5, of=8)


def taken(queue: FairQueue[str], *loads: ReplicaLoad) -> tuple[Waiting[str], str] | None:
    found = queue.take(loads or [busy()], lambda: 0.0)
    return None if found is None else (found[0], found[1].replica_id)


def keys_taken(queue: FairQueue[str], count: int) -> str:
    found = [taken(queue) for _ in range(count)]
    return "".join(one[0].key for one in found if one is not None)


def test_idleness_earns_a_part_of_what_the_slots_hold_and_no_more() -> None:
    queue = queued(*entries("a" * 150), entry("b"))
    assert keys_taken(queue, 100).count("b") == 1
    for one in entries("b" * 60):
        queue.push(one)
    credit = int(SLOTS * CREDIT_SHARE)
    assert keys_taken(queue, credit) == "b" * credit
    assert keys_taken(queue, 10).count("b") in {5, 6}


def test_a_flood_leaves_headroom_while_others_are_active() -> None:
    queue = queued(*entries("v" + "f" * 20))
    keys_taken(queue, 4)
    kept = int(SLOTS * HEADROOM_SHARE)
    assert taken(queue, busy(SLOTS - kept)) is None
    queue.push(entry("v"))
    found = taken(queue, busy(SLOTS - kept))
    assert found is not None
    assert found[0].key == "v"
    assert taken(queue, busy(SLOTS - kept - 1)) is not None


def test_a_key_alone_may_have_every_slot() -> None:
    """From the moment on at which no other key is among the last starts."""
    queue = queued(*entries("f" * 20))
    keys_taken(queue, 4)
    assert taken(queue, busy(SLOTS - 1)) is not None
    queue = queued(*entries("v" + "f" * 300), places=1000)
    assert keys_taken(queue, RECENT_STARTS) == "v" + "f" * (RECENT_STARTS - 1)
    assert taken(queue, busy(SLOTS - 1)) is None
    assert keys_taken(queue, 1) == "f"
    assert taken(queue, busy(SLOTS - 1)) is not None


WHOLE = Cost(8, 80)
"""Takes a replica of eight slots, for 1000 tokens in all."""


@pytest.mark.parametrize(
    ("others_started", "others_wait", "of_first", "second", "starts"),
    [
        (True, False, 8, True, False),
        (True, False, 7, True, True),
        (True, False, 7, False, True),  # or it never would
        (False, False, 8, True, True),
        (True, True, 8, True, True),  # it is first
    ],
)
def test_requests_that_take_whole_replicas_leave_one_to_others(
    *, others_started: bool, others_wait: bool, of_first: int, second: bool, starts: bool
) -> None:
    loads = [busy(of_first, of=8), *([busy(1, of=8, name="b")] if second else [])]
    queue = queued(credit=0.0)
    if others_started:
        queue.charge(RequestOwner("o"), 10)
    queue.charge(RequestOwner("a"), 100)
    assert queue.leaves_none("a", WHOLE, loads) is (not starts or others_wait)
    assert not queue.leaves_none("new", WHOLE, loads), "it has had nothing"
    assert not queue.leaves_none("a", Cost(7, 70), loads)
    queue.push(entry("a", cost=WHOLE, tokens=1000))
    if others_wait:
        queue.charge(RequestOwner("o"), 1000)
        queue.push(entry("o"))
    found = taken(queue, *loads)
    assert (None if found is None else found[0].key) == ("a" if starts else None)


def test_a_request_of_many_batches_is_overtaken_by_no_more_than_one() -> None:
    queue = queued(entry("big", tokens=100_000, cost=Cost(8, 800)))
    assert taken(queue, busy(1, 990, 1000, of=8)) is None
    overtook = 0
    for _ in range(20):
        queue.push(entry("small", tokens=100))
        found = taken(queue, busy(1, 400, 1000, of=8))
        overtook += 0 if found is None or found[0].key == "big" else 100
    assert overtook == 800


def test_higher_priorities_go_first_and_lower_ones_keep_a_share() -> None:
    queue = queued(*entries("l" * 30), *entries("h" * 170, priority=5))
    order = keys_taken(queue, 150)
    assert order[:16] == "h" * 16
    share = AGEING_SHARE / (1 + AGEING_SHARE)
    assert order.count("l") / len(order) == pytest.approx(share, rel=0.15)


def test_a_full_queue_takes_the_place_from_the_key_with_the_most() -> None:
    flood = entries("ffff")
    queue = queued(*flood, places=4)
    assert queue.push(entry("v")) is flood[3]
    another = entry("f")
    assert queue.push(another) is another
    assert queue.push(entry("v")) is flood[2]
    third = entry("v")
    assert queue.push(third) is third, "two and two is even"
    assert sorted(one.key for one in queue) == ["f", "f", "v", "v"]
    assert queue.sequences == 4


def test_places_follow_weights_and_priorities_but_a_keys_only_one_is_kept() -> None:
    queue = queued(*entries("l" * 6), places=6)
    displaced = [queue.push(entry("h", weight=2.0)) for _ in range(6)]
    assert [one.key if one else None for one in displaced] == ["l"] * 4 + ["h"] * 2
    low = entries("aab")
    queue = queued(*low, places=3)
    assert queue.push(entry("top", priority=1)) is low[1]
    refused = entry("top", priority=1)
    assert queue.push(refused) is refused


def test_a_retry_goes_first_or_steps_aside() -> None:
    queue = queued(entry("a"), places=1)
    retry = entry("b", tried=frozenset({"b"}))
    assert queue.push(retry, front=True) is None
    assert taken(queue) == (retry, "a")
    queue = queued(entry("large", cost=Cost(1, 800)))
    assert taken(queue, busy(1, 500, 1000)) is None, "it has had its turn, and waits for room"
    retry = entry("retry", cost=Cost(1, 10))
    assert queue.push(retry, front=True) is None
    assert taken(queue, busy(0, 0, 1000)) == (retry, "a")
    queue = queued(entry("first"))
    queue.push(entry("retry", tried=frozenset({"a"})), front=True)
    assert keys_taken(queue, 1) == "first"
    assert taken(queue) is None
    assert len(queue) == 1


def test_a_preferred_replica_gets_it() -> None:
    found = taken(queued(entry(prefer=("b",))), busy(0, of=8), busy(1, of=8, name="b"))
    assert found is not None
    assert found[1] == "b"


def test_a_reservation_keeps_one_replica_and_the_others_go_on() -> None:
    queue = queued(entry("big", tokens=50, cost=Cost(7, 800)))
    for _ in range(12):
        queue.push(entry("small", tokens=10))
    # Both are nearly full; the large one fits nowhere. "a" is nearer to having room.
    found = [taken(queue, TIGHT, busy(6, of=8, name="b")) for _ in range(10)]
    where = [one[1] for one in found if one is not None]
    assert where[:5] == ["a"] * 5, "by occupancy, until it was overtaken by its own 50 tokens"
    assert where[5:] == ["b"] * 5, "then 'a' drains for it"
    last = taken(queue, busy(0, of=8), busy(6, of=8, name="b"))
    assert last is not None
    assert (last[0].key, last[1]) == ("big", "a")


def test_a_newcomer_waits_for_what_is_ahead_of_it_only() -> None:
    queue = queued(*entries("f" * 40))
    keys_taken(queue, 4)
    assert queue.ahead(RequestOwner("f")) == 36
    assert queue.ahead(RequestOwner("v")) <= 1
    assert queue.ahead(RequestOwner("top", priority=1)) <= 3, "a sixteenth, for those below"
    assert queue.ahead(RequestOwner("low", priority=-1)) == 36
    queue.push(entry("v"), front=True)
    assert queue.ahead(RequestOwner("top", priority=1)) >= 1, "retries come first"
    # A short deadline is not held against its own key's later ones.
    queue = queued(*entries("k" * 10, deadline=100.0))
    assert [queue.ahead(RequestOwner("k"), at) for at in (5.0, 200.0)] == [0, 10]


def test_who_waited_in_vain_is_told_of_what_its_own_key_would_wait_for() -> None:
    # Each has more time than the one before: who comes again has no deadline that passes theirs.
    flood, modest = [entry("f", deadline=1.0 + n) for n in range(40)], entry("m", deadline=1.0)
    limits = QueueLimits(60.0, sequences_in_flight=4, service_seconds=2.0)
    queue = queued(*flood, modest)
    told = [expire(queue, one, 1.0, limits).retry_after_seconds for one in (modest, flood[0])]
    assert told == [1, 20], "behind one of the flood's, and behind 39"
    assert expire(queue, flood[1], 1.0, limits, elsewhere=100).retry_after_seconds == 70
    assert len(queue) == 38


def test_a_lower_priority_earns_only_while_it_waits() -> None:
    low = entry("l")
    queue = queued(low, *entries("h" * 40, priority=5))
    assert keys_taken(queue, 15) == "h" * 15
    queue.discard(low)
    queue.push(entry("l"))
    assert keys_taken(queue, 17) == "h" * 16 + "l"


def test_a_key_whose_priority_changes_takes_its_requests_along() -> None:
    queue = queued(*entries("abb"))
    queue.push(entry("b", priority=3))
    assert keys_taken(queue, 4) == "bbba"


def test_a_key_without_weight_is_served_too() -> None:
    queue = queued(entry("zero", weight=0.0), places=2)
    assert queue.ahead(RequestOwner("zero", weight=0.0)) == 1
    queue.push(entry("one"))
    assert queue.push(entry("none", weight=0.0)) is not None
    keys_taken(queue, 2)
    assert len(queue) == 0


def test_keys_that_are_gone_are_forgotten() -> None:
    queue = queued()
    for number in range(10_000):
        queue.charge(RequestOwner(f"key-{number}"), 10)
        queue.charge(RequestOwner("busy"), 100)
    assert len(queue._keys._accounts) < 5000


# On random loads

FREE = [busy()]
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 0.5}
KEYS = "abcd"


def of_key(key: str, tokens: int, number: int, deadline: float = 1e9) -> Waiting[int]:
    weight = WEIGHTS.get(key, 1.0)
    return Waiting(
        number, Cost(1, tokens), 0.0, deadline, share=RequestOwner(key, weight), tokens=tokens
    )


@dataclasses.dataclass
class Plain:
    """Start-time fair queueing with lists, looked through for every answer."""

    now: float = 0.0
    tags: dict[str, float] = dataclasses.field(default_factory=dict)
    met: list[str] = dataclasses.field(default_factory=list)
    entries: list[Waiting[int]] = dataclasses.field(default_factory=list)

    def push(self, entry: Waiting[int]) -> None:
        if entry.key not in self.met:
            self.met.append(entry.key)
        if all(other.key != entry.key for other in self.entries):
            self.tags[entry.key] = max(self.tags.get(entry.key, 0.0), self.now)
        self.entries.append(entry)

    def take(self) -> Waiting[int]:
        key = min(
            {entry.key for entry in self.entries},
            key=lambda key: (self.tags[key], self.met.index(key)),
        )
        mine = [entry for entry in self.entries if entry.key == key]
        first = min(mine, key=lambda entry: (entry.deadline, entry.item))
        self.entries.remove(first)
        self.now = max(self.now, self.tags[key])
        self.tags[key] += first.charge / first.share.weight
        return first

    def settle(self, key: str, charged: float, actual: float) -> None:
        if key in self.tags:
            self.tags[key] += (actual - charged) / WEIGHTS[key]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from(KEYS), st.integers(1, 500), st.integers(0, 3)),
        st.tuples(st.just("take"), st.just("a"), st.just(0), st.just(0)),
        st.tuples(
            st.just("settle"), st.sampled_from(KEYS), st.integers(0, 300), st.integers(0, 300)
        ),
        st.tuples(st.just("discard"), st.just("a"), st.integers(0, 50), st.just(0)),
    ),
    max_size=120,
)


@given(STEPS)
def test_it_answers_as_a_plain_fair_queue(steps: list[tuple[str, str, int, int]]) -> None:
    queue: FairQueue[int] = FairQueue(10_000, credit_share=0.0)
    plain = Plain()
    for number, (what, key, first, second) in enumerate(steps):
        if what == "push":
            entry = of_key(key, first, number, float(second))
            queue.push(entry)
            plain.push(entry)
        elif what == "take" and plain.entries:
            found = queue.take(FREE, lambda: 0.0)
            assert found is not None
            assert found[0] is plain.take()
        elif what == "settle":
            queue.settle(key, first, second)
            plain.settle(key, first, second)
        elif what == "discard" and plain.entries:
            gone = plain.entries.pop(first % len(plain.entries))
            assert queue.discard(gone)
        assert set(queue) == set(plain.entries)
        assert queue.sequences == len(plain.entries)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_backlogged_keys_get_like_amounts_per_weight_over_any_stretch(
    seed: int, count: int
) -> None:
    """SFQ's bound: |W_a/w_a - W_b/w_b| <= l_a/w_a + l_b/w_b, from any moment to any other."""
    dice = random.Random(seed)
    queue: FairQueue[int] = FairQueue(10_000)
    keys = KEYS[:count]
    largest = dict.fromkeys(keys, 0.0)

    def refill(key: str) -> None:
        tokens = dice.choice([1, 10, 100, 400])
        largest[key] = max(largest[key], tokens)
        queue.push(of_key(key, tokens, 0))

    for key in keys:
        for _ in range(dice.randint(2, 5)):
            refill(key)
    got = [dict.fromkeys(keys, 0.0)]
    for _ in range(150):
        found = queue.take(FREE, dice.random)
        assert found is not None
        entry = found[0]
        got.append({**got[-1], entry.key: got[-1][entry.key] + entry.charge / entry.share.weight})
        refill(entry.key)
    for key in keys:
        for other in keys:
            gap = [now[key] - now[other] for now in got]
            bound = largest[key] / WEIGHTS[key] + largest[other] / WEIGHTS[other]
            assert max(gap) - min(gap) <= bound + 1e-6


LOADS = st.lists(
    st.builds(
        ReplicaLoad,
        replica_id=st.sampled_from("wxyz"),
        sequences=st.integers(0, 8),
        max_sequences=st.integers(1, 8),
        kv_tokens=st.integers(0, 1000),
        kv_cache_tokens=st.sampled_from([0, 1000]),
    ),
    max_size=4,
    unique_by=lambda load: load.replica_id,
)
SHAPES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(1, 8), st.integers(1, 900)), max_size=30
)


@given(LOADS, SHAPES)
def test_no_slot_stays_free_while_the_next_request_fits(
    loads: list[ReplicaLoad], shapes: list[tuple[str, int, int]]
) -> None:
    queue: FairQueue[int] = FairQueue(10_000)
    for number, (key, sequences, tokens) in enumerate(shapes):
        queue.push(
            Waiting(
                number, Cost(sequences, tokens), 0.0, 1e9, share=RequestOwner(key), tokens=tokens
            )
        )
    before = list(queue)
    found = queue.take(loads, lambda: 0.5)
    if found is None:
        # Two that fit nowhere may hold up the others; never one, and never none.
        blocked = [e for e in before if not any(admits(load, e.cost) for load in loads)]
        assert len(blocked) >= min(2, len(before))
        assert list(queue) == before
    else:
        assert admits(found[1], found[0].cost)
        assert found[0] in before
        assert set(queue) == set(before) - {found[0]}


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(1, 300))
def test_nobody_waits_for_ever(seed: int, classes: int, tokens: int) -> None:
    """Whatever keeps coming from other keys and priorities, and however full it is."""
    dice = random.Random(seed)
    queue: FairQueue[int] = FairQueue(10_000)
    mine = Waiting(-1, Cost(4, tokens), 0.0, 1e9, share=RequestOwner("mine"), tokens=tokens)
    queue.push(mine)
    running: list[Cost] = []
    started = 0.0
    for number in range(5000):
        for key in "ab":
            cost = Cost(dice.randint(1, 4), dice.randint(1, 200))
            queue.push(
                Waiting(
                    number, cost, 0.0, dice.random(), tokens=cost.kv_tokens,
                    share=RequestOwner(key, 1.0, dice.randint(0, classes) if key == "a" else 0),
                )
            )  # fmt: skip
        load = ReplicaLoad(
            "r", sum(c.sequences for c in running), 6, sum(c.kv_tokens for c in running), 1000
        )
        found = queue.take([load], dice.random)
        if found is not None:
            if found[0] is mine:
                break
            running.append(found[0].cost)
            started += found[0].charge
        if running and (found is None or dice.random() < 0.5):
            running.pop(dice.randrange(len(running)))
    else:
        raise AssertionError("it starved")
    # What may go before it: its own size of each other key, what it takes to earn its turn from
    # above, what overtakes it once set aside, and a request or two of rounding.
    assert started <= 2 * tokens + (tokens + 800) / AGEING_SHARE + 2000
