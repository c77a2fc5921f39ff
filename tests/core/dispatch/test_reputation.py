"""A replica is judged by failures that are its own, and comes back by an answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import reputation
from partitiond.core.dispatch.reputation import PAUSE_SECONDS, Reputation, Trust

NOW = 1000.0
GOOD, DOUBTFUL, REFUSED, OUT = Trust
EVENTS = st.lists(
    st.tuples(st.sampled_from(["key 1", "key 2", "elsewhere", "answer"]), st.floats(0, 90)),
    max_size=60,
)


def failing(*sources: str, now: float = NOW) -> Reputation:
    found = Reputation()
    for source in sources:
        found.failed(source, now)
    return found


def what(of: Reputation, now: float = NOW, *, on_trial: bool = False) -> Trust:
    return of.trust(now, on_trial=on_trial)


@pytest.mark.parametrize(
    ("sources", "elsewhere", "trust"),
    [
        ("ab", False, GOOD),
        ("aa", True, GOOD),
        ("aaa", False, DOUBTFUL),
        ("a" * 99, False, DOUBTFUL),
        ("aab", False, REFUSED),
        ("abb", False, REFUSED),
        ("aaa", True, REFUSED),
    ],
)
def test_failures_in_a_row_count_and_are_proved_by_another_key_or_another_replica(
    sources: str, elsewhere: bool, trust: Trust
) -> None:
    found = failing(*sources)
    if elsewhere:
        found.served_elsewhere(found.number, NOW)
    assert what(found) is trust


@given(EVENTS)
def test_one_key_takes_no_replica_away_and_an_answer_ends_all_doubt(
    events: list[tuple[str, float]],
) -> None:
    """Of the other events some other one is needed, since the last answer."""
    found, now, since = Reputation(), NOW, set[str]()
    for event, seconds in events:
        now += seconds
        before = found.proofs
        match event:
            case "answer":
                found.succeeded()
                since = set()
                assert what(found) is GOOD
            case "elsewhere":
                found.served_elsewhere(found.number, now)
            case _:
                found.failed(event, now)
        if event != "answer":
            since.add(event)
            assert found.proofs - before in {0, 1}
        if found.proofs:
            assert len(since) > 1
            assert since != {"elsewhere"}
        assert found.trial_at - now <= reputation.MAX_PAUSE_SECONDS


def test_pauses_double_with_each_proof_up_to_the_longest() -> None:
    found, now, pauses = failing("a", "a"), NOW, []
    for number in range(9):
        found.failed("ba"[number % 2], now)
        pauses.append(found.trial_at - now)
        now = found.trial_at
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for _ in range(5):
        found.failed("b", now)
        assert (found.proofs, found.trial_at - now) == (9, PAUSE_SECONDS), (
            "the same key again proves nothing, and keeps no other from a trial for long"
        )
        now = found.trial_at
    found.served_elsewhere(found.number, now)
    assert (found.proofs, found.trial_at - now) == (10, 60)
    found.succeeded()
    assert what(found) is GOOD
    for source in "abc":
        found.failed(source, now)
    assert found.trial_at - now == PAUSE_SECONDS, "what was before an answer is forgotten"


def test_one_trial_at_a_time_after_the_pause() -> None:
    for found, trust in ((failing(*"aaa"), DOUBTFUL), (failing(*"aab"), REFUSED)):
        due = NOW + PAUSE_SECONDS
        assert what(found, math.nextafter(due, 0)) is trust
        assert what(found, due) is GOOD
        assert what(found, due, on_trial=True) is trust
        found.succeeded()
        assert what(found, due, on_trial=True) is GOOD, "by another request's answer"


def test_what_was_sent_before_counts_once() -> None:
    """Eight requests that fail together, and are then served elsewhere, are one proof."""
    found = failing(*"ababababab")
    for _ in range(8):
        found.served_elsewhere(found.number, NOW)
    assert (found.proofs, found.trial_at) == (1, NOW + PAUSE_SECONDS)


def test_a_proof_is_of_its_own_failure_alone() -> None:
    """Not of one after an answer, of another process, nor of another worker's replica."""
    found = failing("a")
    before = found.number
    found.succeeded()
    for after in (found, Reputation(before), Reputation(10**9)):
        for _ in range(reputation.FAILURES):
            last = after.failed("a", NOW)
        for number in (0, before, last + 1):
            after.served_elsewhere(number, NOW)
        assert what(after) is DOUBTFUL
        after.served_elsewhere(last, NOW)
        assert what(after) is REFUSED
        assert after.failed("a", NOW) == 0, "it was sent before"


def test_who_refuses_all_that_others_answer_is_refused_itself() -> None:
    """And who is right to refuse is not, however often."""
    found, now, pauses = Reputation(), NOW, []
    assert [found.refused(now) for _ in range(reputation.FAILURES - 1)] == [0, 0]
    assert what(found) is GOOD
    for _ in range(9):
        number = found.refused(now)
        assert number == found.number > 0
        assert what(found, now) is DOUBTFUL, "until another replica has said its word"
        assert what(found, now + PAUSE_SECONDS) is GOOD
        found.refused_elsewhere(number)
        assert what(found, now) is GOOD
    for _ in range(9):
        number = found.refused(now)
        found.served_elsewhere(number, now)
        assert what(found, now) is REFUSED
        pauses.append(found.trial_at - now)
        now = found.trial_at
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    found.refused_elsewhere(found.refused(now))
    assert what(found, now) is REFUSED
    assert what(found, now + PAUSE_SECONDS) is GOOD, "one trial"
    found.succeeded()
    assert what(found, now) is GOOD
    assert found.refused(now) == 0


def test_one_that_is_out_stays_out_whatever_becomes_of_what_runs() -> None:
    found = failing("a")
    found.out = True
    found.succeeded()
    for source in "abab":
        found.failed(source, NOW)
        found.served_elsewhere(found.number, NOW)
    assert what(found, NOW + 999) is OUT
    assert found.failures == 0, "another process is asked"


def test_a_broken_connection_is_the_end_if_nobody_listens_and_else_perhaps_its_beginning() -> None:
    found = Reputation()

    def broke(now: float, *, listens: bool = True, idle_end: bool = False) -> bool | None:
        return found.broke(now, listens=listens, idle_end=idle_end)

    assert broke(NOW, idle_end=True) is False
    assert found.broke_at == math.inf
    assert broke(NOW) is None
    assert broke(NOW + 2.0) is None
    assert found.broke_at == NOW, "of several the first"
    assert broke(NOW + 2.1) is None
    assert found.broke_at == NOW + 2.1, "the first was not the end"
    found.succeeded()
    assert found.broke_at == math.inf
    assert broke(NOW + 3.0) is None
    assert broke(NOW + 4.0, listens=False, idle_end=True) is True
    assert (found.broke_at, found.death_judged) == (NOW + 3.0, True)
