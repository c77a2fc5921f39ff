"""Session and prefix affinity is applied, and given up by its rules."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import affinity, balance
from partitiond.core.dispatch.affinity import (
    Prefixes,
    SessionAffinity,
    prefix_blocks,
    session_digest,
)
from partitiond.core.dispatch.balance import ReplicaLoad, choose_replica, occupancy

DRAWS = (0.0, 0.0)


def where(sessions: SessionAffinity, session: str, now: float) -> str:
    """The session's replica; empty for none."""
    found = sessions.seen(session_digest(session), now)
    return "" if found is None else found[0]


def test_a_session_prefers_where_it_was_last_until_its_time_is_over() -> None:
    sessions = SessionAffinity(seconds=60)
    assert where(sessions, "s", 0.0) == ""
    sessions.note(session_digest("s"), "a", 0.0)
    sessions.note(session_digest("s"), "b", 10.0)
    assert where(sessions, "s", 69.9) == "b"
    assert where(sessions, "s", 70.0) == ""
    sessions = SessionAffinity(seconds=0)
    sessions.note(session_digest("s"), "a", 0.0)
    assert len(sessions) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=200))
def test_sessions_are_bounded_and_the_least_recently_seen_goes_first(
    steps: list[tuple[int, float]],
) -> None:
    sessions, now, seen = SessionAffinity(seconds=20, max_entries=8), 0.0, {}
    for number, pause in steps:
        now += pause
        sessions.note(session_digest(str(number)), "a", now)
        seen[str(number)] = now
        latest = sorted(seen, key=lambda one: seen[one], reverse=True)[:8]
        expected = {one for one in latest if now - seen[one] < 20}
        kept = {one for one in seen if where(sessions, one, now)}
        assert len(sessions) <= 8
        # Of several seen at the same moment any may have been let go.
        assert kept == expected or len(kept) == len(expected)


def test_a_session_takes_as_much_memory_whatever_its_name() -> None:
    """Counted: what is allocated for 1,000 sessions with names of 30,000 bytes, or of 8."""

    def kept(length: int) -> int:
        sessions = SessionAffinity()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1_000):
            sessions.note(session_digest(f"{number:08}".ljust(length, "x")), "a", 0.0)
        assert len(sessions) == 1_000
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        kept(8)
        short, long = kept(8), kept(30_000)
    finally:
        tracemalloc.stop()
    assert long == pytest.approx(short, rel=0.1)
    assert long < 1_000 * 400, "bytes for each"


def test_long_names_are_told_apart_by_each_of_their_characters() -> None:
    sessions, name = SessionAffinity(), "k\0" + "x" * 30_000
    names = [name, name[:-1] + "y", "l" + name[1:], name + "\ud800", name + "\ud801", ""]
    for number, one in enumerate(names):
        sessions.note(session_digest(one), str(number), 0.0)
    assert [where(sessions, one, 1.0) for one in names] == [*"012345"]


def test_what_a_lost_replica_knew_is_forgotten() -> None:
    sessions, prefixes = SessionAffinity(), Prefixes()
    blocks = prefix_blocks(b"x" * 2048)
    for replica in "ab":
        sessions.note(session_digest(replica), replica, 0.0)
        prefixes.remember(blocks, replica)
    sessions.forget_replica("b")
    prefixes.forget_replica("b")
    assert (where(sessions, "a", 1.0), where(sessions, "b", 1.0)) == ("a", "")
    assert prefixes.prefer(blocks) == ("a",)
    prefixes.forget_replica("a")
    assert len(prefixes) == 0


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 32))
def test_blocks_are_equal_as_far_as_the_prompts_are(one: bytes, two: bytes, size: int) -> None:
    first, second = (prefix_blocks(p, block_bytes=size, max_blocks=100) for p in (one, two))
    common = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    if common is None:
        common = min(len(one), len(two))
    for n, (a, b) in enumerate(zip(first, second, strict=False)):
        assert (a == b) == ((n + 1) * size <= common)


def test_short_prompts_have_no_blocks() -> None:
    assert prefix_blocks(b"x" * 511) == ()
    assert len(prefix_blocks(b"x" * 10**6)) == 16


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=5), st.sampled_from("abcdef"))))
def test_the_longest_match_wins_against_a_plain_search(
    sent: list[tuple[list[int], str]],
) -> None:
    prefixes = Prefixes()
    history: list[tuple[tuple[bytes, ...], str]] = []
    for parts, replica in sent:
        blocks = prefix_blocks(bytes(parts), block_bytes=1)
        longest = max((sum(b in set(before) for b in blocks) for before, _ in history), default=0)
        assert prefixes.matched(blocks) == longest
        if longest:
            who = [r for before, r in history if blocks[longest - 1] in before]
            latest = list(dict.fromkeys(reversed(who)))[: affinity.REPLICAS_EACH]
            assert prefixes.prefer(blocks) == tuple(latest)
        prefixes.remember(blocks, replica)
        history.append((blocks, replica))


def test_prefixes_are_bounded_and_short_ones_last_longest() -> None:
    prefixes = Prefixes(max_entries=10)
    system = b"s" * 4
    for number in range(50):
        text = system + bytes([number] * 4)
        prefixes.remember(prefix_blocks(text, block_bytes=2), "a")
    assert len(prefixes) == 10
    assert prefixes.matched(prefix_blocks(system + b"new!", block_bytes=2)) == 2


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


def test_a_preferred_replica_that_may_not_be_used_is_not() -> None:
    loads = [ReplicaLoad("a", 0, 8, ejected=True), ReplicaLoad("b", 8, 8), ReplicaLoad("c", 0, 8)]
    for prefer in (("a",), ("gone",), ("b",), ("c",)):
        chosen = choose_replica(loads, (), DRAWS, prefer=prefer)
        assert chosen is not None
        assert chosen.replica_id == "c"
    assert choose_replica(loads, {"c"}, DRAWS, prefer=("c",)) is loads[1]
