"""The replica that has read the beginning of a prompt is found, from any host, within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import affinity, balance
from partitiond.core.dispatch.affinity import (
    ENDS,
    MOST_TOLD,
    Affinity,
    Prefixes,
    prefix_digests,
    split_digests,
)
from partitiond.core.dispatch.balance import ReplicaLoad, choose_replica, occupancy

DRAWS = (0.0, 0.0)
SHORT, LONG, LONGEST = (prefix_digests(b"a" * size) for size in (1024, 2048, 4096))
TENS = tuple(range(1, 11))
"""Ends of beginnings of prompts whose bytes are their parts."""


def digest(number: int) -> bytes:
    return number.to_bytes(12, "big")


def host(max_entries: int = 99) -> Affinity:
    made = Affinity(max_entries)
    made.set_peers(there_are=True)
    return made


def tell(one: Affinity, *others: Affinity) -> None:
    for replica_id, digests in one.take_news().items():
        for other in others:
            other.learn(replica_id, digests)


# Beginnings


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 32))
def test_digests_are_equal_as_far_as_the_prompts_are(one: bytes, two: bytes, size: int) -> None:
    ends = tuple(range(size, 301, size))
    first, second = prefix_digests(one, ends), prefix_digests(two, ends)
    common = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    if common is None:
        common = min(len(one), len(two))
    for end, a, b in zip(ends, first, second, strict=False):
        assert (a == b) == (end <= common)


def test_short_prompts_have_no_digests_and_long_ones_few() -> None:
    assert prefix_digests(b"x" * 511) == ()
    assert len(prefix_digests(b"x" * 512)) == 1
    assert len(prefix_digests(b"x" * 10**6)) == 16


@given(st.integers(1024, ENDS[-1]))
def test_two_thirds_of_a_common_beginning_of_1_kib_or_more_are_found(common: int) -> None:
    found = max(end for end in ENDS if end <= common)
    assert found > common * 2 / 3 - 1
    assert max(ENDS) == 128 * 1024


# One table


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=5), st.sampled_from("abcdef"))))
def test_the_longest_match_wins_against_a_plain_search(
    sent: list[tuple[list[int], str]],
) -> None:
    prefixes = Prefixes()
    history: list[tuple[tuple[bytes, ...], str]] = []
    for parts, replica in sent:
        digests = prefix_digests(bytes(parts), TENS)
        longest = max((sum(b in set(before) for b in digests) for before, _ in history), default=0)
        assert prefixes.matched(digests) == longest
        if longest:
            who = [r for before, r in history if digests[longest - 1] in before]
            latest = list(dict.fromkeys(reversed(who)))[: affinity.REPLICAS_EACH]
            assert prefixes.prefer(digests) == tuple(latest)
        prefixes.remember(digests, replica)
        history.append((digests, replica))


def test_prefixes_are_bounded_and_short_ones_last_longest() -> None:
    prefixes = Prefixes(max_entries=10)
    system = b"s" * 4
    for number in range(50):
        text = system + bytes([number] * 4)
        prefixes.remember(prefix_digests(text, TENS[1::2]), "a")
    assert len(prefixes) == 10
    assert prefixes.matched(prefix_digests(system + b"new!", TENS[1::2])) == 2


def test_what_a_lost_replica_knew_is_forgotten() -> None:
    prefixes, made = Prefixes(), host()
    for replica in "ab":
        prefixes.remember(LONG, replica)
        made.remember(LONG, replica, is_own=True)
    prefixes.forget_replica("b")
    made.forget_replica("b")
    assert prefixes.prefer(LONG) == made.prefer(LONG, "ab") == ("a",)
    prefixes.forget_replica("a")
    assert len(prefixes) == 0


# Several hosts


def test_the_longest_beginning_wins_and_among_equals_the_replicas_of_this_host() -> None:
    made = host()
    made.learn("a-1", b"".join(reversed(LONG)))
    made.remember(SHORT, "b-1", is_own=True)
    assert made.prefer(LONG, {"b-1"}) == ("a-1",)
    assert made.prefer(SHORT, {"b-1"}) == ("b-1", "a-1")
    made.remember(LONG, "c-1", is_own=False)
    assert made.prefer(LONG, {"b-1"}) == ("c-1", "a-1")
    made.learn("c-1", LONG[-1])
    assert made.prefer(LONG, {"b-1"}) == ("c-1", "a-1")
    made.learn("b-1", LONG[-1])
    assert made.prefer(LONG, {"b-1"}) == ("b-1", "c-1", "a-1")
    made.remember(LONGEST, "d-1", is_own=False)
    assert made.prefer(LONGEST, {"b-1"}) == ("d-1",)
    assert made.prefer(prefix_digests(b"b" * 1024), ()) == ()


def test_a_host_tells_of_its_own_replicas_alone_and_each_thing_once() -> None:
    made = host()
    made.remember(SHORT, "b-1", is_own=False)
    assert made.take_news() == {}
    made.remember(SHORT, "a-1", is_own=True)
    assert made.take_news() == {"a-1": b"".join(reversed(SHORT))}
    assert made.take_news() == {}
    made.remember(LONG, "a-1", is_own=True)
    assert made.take_news() == {"a-1": b"".join(reversed(LONG[2:]))}
    made.remember(LONG, "a-2", is_own=True)
    made.remember(LONG, "a-1", is_own=True)
    made.set_peers(there_are=True)
    assert made.take_news() == {"a-2": b"".join(reversed(LONG))}
    made.set_peers(there_are=False)
    made.remember(LONGEST, "a-1", is_own=True)
    made.set_peers(there_are=True)
    assert made.take_news() == {}
    assert made.prefer(LONGEST, ()) == ("a-1",)


def test_of_too_much_the_latest_is_told() -> None:
    made = host(max_entries=9999)
    for number in (*range(MOST_TOLD), 0, MOST_TOLD, MOST_TOLD + 1):
        made.remember((digest(number),), "a-1" if number else f"a-{number}", is_own=True)
        if number == 0:
            made.forget_replica("a-0")  # so that it is new again
    told = made.take_news()
    assert told["a-0"] == digest(0)
    assert told["a-1"] == b"".join(digest(number) for number in range(3, MOST_TOLD + 2))


@given(st.lists(st.integers(0, 40), max_size=120))
def test_what_peers_tell_is_bounded_and_takes_nothing_from_what_this_host_knows(
    numbers: list[int],
) -> None:
    made = host(max_entries=8)
    made.remember(SHORT, "a-1", is_own=True)
    for number in numbers:
        made.learn("liar", digest(number))
    kept = [number for number in range(41) if made.prefer((digest(number),), ())]
    assert set(kept) == set(list(dict.fromkeys(reversed(numbers)))[:8])
    assert made.prefer(SHORT, ()) == ("a-1",)


def test_what_is_no_digest_or_too_much_is_refused() -> None:
    made = host()
    for wrong in (b"x", bytes(13), bytes(12 * (MOST_TOLD + 1))):
        with pytest.raises(ValueError, match="no digests"):
            made.learn("b-1", wrong)
    assert made.prefer((bytes(12),), ()) == ()
    assert split_digests(bytes(12 * MOST_TOLD), MOST_TOLD) == [bytes(12)] * MOST_TOLD
    assert split_digests(b"", 1) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), max_size=4)), max_size=40))
def test_hosts_that_tell_at_once_know_as_much_as_one_proxy(
    steps: list[tuple[int, list[int]]],
) -> None:
    hosts, one = [host() for _ in range(3)], Prefixes()
    for at, (number, parts) in enumerate(steps):
        digests = prefix_digests(bytes(parts), TENS)
        found = hosts[(number + at) % 3].prefer(digests, ())
        assert bool(found) == bool(one.matched(digests))
        one.remember(digests, f"r-{number}")
        hosts[number].remember(digests, f"r-{number}", is_own=True)
        tell(hosts[number], *[other for other in hosts if other is not hosts[number]])


# The choice


@given(
    st.lists(st.integers(0, 32), min_size=2, max_size=6),
    st.data(),
)
def test_a_preference_is_given_up_when_its_replica_is_clearly_busier(
    running: list[int], data: st.DataObject
) -> None:
    loads = [ReplicaLoad(str(n), count, 32) for n, count in enumerate(running)]
    wish = data.draw(st.sampled_from(loads))
    chosen = choose_replica(loads, (), DRAWS, prefer=(wish.replica_id,))
    least = min(map(occupancy, loads))
    assert chosen is not None
    if occupancy(wish) <= least + balance.PREFERENCE_SLACK:
        assert chosen is wish
    else:
        assert occupancy(chosen) == least
