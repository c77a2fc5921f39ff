"""What a host tells of its sessions and prefixes, and what it makes of what it is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import host_affinity
from partitiond.core.dispatch.affinity import Prefixes, SessionAffinity, prefix_blocks
from partitiond.core.dispatch.host_affinity import MOST_TOLD, HostAffinity, PlacedLately

LONG, LONGER = prefix_blocks(b"a" * 1024), prefix_blocks(b"a" * 2048)


def digest(number: int) -> bytes:
    return number.to_bytes(12, "big")


def host(**figures: float) -> HostAffinity:
    made = HostAffinity(**figures)  # type: ignore[arg-type]
    made.lately = PlacedLately()
    return made


def tell(one: HostAffinity, other: HostAffinity, now: float) -> None:
    assert one.lately is not None
    for name, (sessions, blocks) in one.lately.take().items():
        other.told(name, sessions, blocks, now)


def test_a_session_comes_before_a_prefix_and_its_time_counts_for_what_was_told() -> None:
    a, b = host(seconds=60.0), host(seconds=60.0)
    a.remember(digest(1), (), "a-1", 0.0, here=True)
    a.remember(b"", LONG, "a-2", 0.0, here=True)
    tell(a, b, 5.0)
    assert b.prefer(digest(1), LONG, 64.9, ()) == ("a-1",)
    assert b.prefer(digest(1), LONG, 65.0, ()) == ("a-2",)
    assert b.prefer(b"", LONG, 5.0, ()) == ("a-2",)
    b.keep_for(0.0)
    assert not b.keeps_sessions
    a.remember(digest(1), (), "a-1", 70.0, here=True)
    tell(a, b, 70.0)
    assert b.prefer(digest(1), (), 70.0, ()) == ()


def test_the_longest_beginning_wins_and_among_equals_the_replicas_of_this_host() -> None:
    b = host()
    b.told("a-1", b"", b"".join(reversed(LONGER)), 0.0)
    b.remember(b"", LONG, "b-1", 0.0, here=True)
    assert b.prefer(b"", LONGER, 0.0, {"b-1"}) == ("a-1",)
    assert b.prefer(b"", LONG, 0.0, {"b-1"}) == ("b-1", "a-1")
    b.remember(b"", LONGER, "c-1", 0.0, here=False)
    assert b.prefer(b"", LONGER, 0.0, {"b-1"}) == ("c-1", "a-1")
    b.told("c-1", b"", LONGER[-1], 0.0)
    assert b.prefer(b"", LONGER, 0.0, {"b-1"}) == ("c-1", "a-1")
    b.told("b-1", b"", LONGER[-1], 0.0)
    assert b.prefer(b"", LONGER, 0.0, {"b-1"}) == ("b-1", "c-1", "a-1")
    longest = prefix_blocks(b"a" * 4096)
    b.remember(b"", longest, "d-1", 0.0, here=False)
    assert b.prefer(b"", longest, 0.0, {"b-1"}) == ("d-1",)
    assert b.prefer(b"", prefix_blocks(b"b" * 1024), 0.0, ()) == ()


def test_a_host_tells_of_its_own_replicas_alone_and_each_thing_once() -> None:
    a = host()
    assert a.lately is not None
    a.remember(digest(1), LONG, "b-1", 0.0, here=False)
    assert a.lately.take() == {}
    a.remember(digest(1), LONG, "a-1", 0.0, here=True)
    assert a.lately.take() == {"a-1": (digest(1), b"".join(reversed(LONG)))}
    assert a.lately.take() == {}
    a.remember(digest(1), LONGER, "a-1", 1.0, here=True)
    assert a.lately.take() == {"a-1": (digest(1), b"".join(reversed(LONGER[2:])))}
    a.remember(b"", LONGER, "a-2", 1.0, here=True)
    a.remember(b"", LONGER, "a-1", 1.0, here=True)
    assert a.lately.take() == {"a-2": (b"", b"".join(reversed(LONGER)))}
    a.lately = None
    a.remember(digest(2), (), "a-1", 0.0, here=True)
    assert a.prefer(digest(2), (), 0.0, ()) == ("a-1",)


def test_of_too_much_the_latest_is_told() -> None:
    lately = PlacedLately(most=3)
    for number in (1, 2, 3, 1, 4, 5):
        lately.placed(digest(number), [digest(10 + number)], "a-1")
    want = b"".join(digest(number) for number in (1, 4, 5))
    assert lately.take() == {"a-1": (want, b"".join(digest(10 + n) for n in (1, 4, 5)))}


@given(st.lists(st.integers(0, 40), max_size=120))
def test_what_peers_tell_is_bounded_and_takes_nothing_from_what_this_host_knows(
    numbers: list[int],
) -> None:
    a = host(max_entries=8)
    a.remember(digest(1000), LONG, "a-1", 0.0, here=True)
    for number in numbers:
        a.told("liar", digest(number), digest(number), 0.0)
        assert a.told_count() <= 16
    assert a.prefer(digest(1000), (), 0.0, ()) == ("a-1",)
    assert a.prefer(b"", LONG, 0.0, ()) == ("a-1",)


def test_what_is_no_digest_or_too_much_is_refused() -> None:
    a = host()
    for wrong in (b"x", bytes(13), bytes(12 * (MOST_TOLD + 1))):
        with pytest.raises(ValueError, match="no digests"):
            a.told("b-1", wrong, b"", 0.0)
        with pytest.raises(ValueError, match="no digests"):
            a.told("b-1", b"", wrong, 0.0)
    assert a.told_count() == 0
    assert host_affinity.split_digests(bytes(12 * MOST_TOLD), MOST_TOLD) == [bytes(12)] * MOST_TOLD
    assert host_affinity.split_digests(b"", 1) == []


def test_a_lost_replica_is_forgotten() -> None:
    a = host()
    a.remember(digest(1), LONG, "a-1", 0.0, here=True)
    a.forget_replica("a-1")
    assert a.prefer(digest(1), LONG, 0.0, ()) == ()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.lists(st.integers(0, 2), max_size=4)),
        max_size=40,
    )
)
def test_hosts_that_tell_at_once_know_as_much_as_one_proxy(
    steps: list[tuple[int, int, list[int]]],
) -> None:
    """Each session's replica, and as long a match as one proxy that places all requests."""
    hosts = [host() for _ in range(3)]
    sessions, prefixes = SessionAffinity(), Prefixes()
    for at, (number, session, parts) in enumerate(steps, 1):
        now, blocks = float(at), prefix_blocks(bytes(parts), block_bytes=1)
        asked = hosts[(number + at) % 3]
        found = asked.prefer(digest(session), (), now, ())
        one = sessions.seen(digest(session), now)
        assert found == (() if one is None else (one[0],))
        assert bool(asked.prefer(b"", blocks, now, ())) == bool(prefixes.matched(blocks))
        owner, name = hosts[number], f"r-{number}"
        sessions.note(digest(session), name, now)
        prefixes.remember(blocks, name)
        owner.remember(digest(session), blocks, name, now, here=True)
        told = owner.lately.take() if owner.lately is not None else {}
        for other in hosts:
            if other is not owner:
                for replica_id, joined in told.items():
                    other.told(replica_id, *joined, now)
