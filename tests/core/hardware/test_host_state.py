"""A host is judged by what was heard of it, and one that comes and goes does not come back."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.host_state import (
    HostLimits,
    HostState,
    HostView,
    HostWords,
    asked_first,
    heard,
    host_standing,
    missed,
    refused,
    steady_seconds,
    with_ray_told,
)

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
FINE, LATE, SILENT, LOST = HostState.FINE, HostState.LATE, HostState.SILENT, HostState.LOST


def words_of(*at: float, start: float = 0.0) -> HostWords:
    words = asked_first(start)
    for now in at:
        words = heard(asked_till(words, now), now, LIMITS)
    return words


def asked_till(words: HostWords, now: float) -> HostWords:
    """The words after looks that brought nothing, if the host said nothing for more than one."""
    next_look = words.heard_at + 5.0
    return missed(words, next_look, "cut") if next_look < now else words


def state(words: HostWords, now: float) -> HostState:
    return host_standing("gpu-2", words, now, LIMITS).state


def test_a_host_is_late_then_silent_then_lost() -> None:
    words = words_of(5.0, 10.0)
    assert state(words, 29.9) is FINE  # no look was missed
    words = missed(words, 15.0, "the line is cut.")
    words = missed(words, 20.0, "the line is cut.")
    found = host_standing("gpu-2", words, 29.9, LIMITS)
    assert (found.state, found.answers, found.gone) == (LATE, True, False)
    assert found.reason == "the host gpu-2 is late: the line is cut."
    found = host_standing("gpu-2", words, 30.0, LIMITS)
    assert (found.state, found.answers, found.gone) == (SILENT, False, False)
    assert found.silent_seconds == 20.0
    assert "the line is cut." in found.reason
    assert state(words, 309.9) is SILENT
    found = host_standing("gpu-2", words, 310.0, LIMITS)
    assert (found.state, found.answers, found.gone) == (LOST, False, True)
    assert "partitiond hosts forget gpu-2" in found.reason


def test_a_host_that_never_answered_is_silent_at_once_and_lost_by_the_heads_own_time() -> None:
    words = asked_first(1000.0)
    assert state(words, 1000.0) is SILENT
    assert state(words, 1299.9) is SILENT
    assert state(words, 1300.0) is LOST


def test_a_host_that_was_away_once_is_trusted_with_its_first_word() -> None:
    assert state(words_of(5.0, 40.0), 40.0) is FINE
    assert state(words_of(5.0, 5000.0), 5000.0) is FINE


def test_a_refused_host_is_not_asked_for_room_and_goes_as_a_silent_one() -> None:
    words = refused(words_of(5.0), "it obeys another head.")
    found = host_standing("gpu-2", words, 6.0, LIMITS)
    assert (found.state, found.answers, found.gone) == (HostState.REFUSED, False, False)
    assert host_standing("gpu-2", words, 305.0, LIMITS).gone
    assert state(heard(words, 6.0, LIMITS), 6.0) is FINE


def test_the_second_return_takes_as_long_as_silence_and_each_further_one_twice_as_long() -> None:
    assert [steady_seconds(falls, LIMITS) for falls in range(8)] == [
        0.0, 0.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0,
    ]  # fmt: skip
    words = words_of(0.0, 30.0, 60.0)
    assert state(words, 60.0) is SILENT
    words = heard(words, 79.0, LIMITS)
    assert state(words, 79.9) is SILENT
    assert state(words, 80.0) is FINE
    assert "answered for 20 s" in host_standing("gpu-2", words, 79.0, LIMITS).reason


def test_a_host_that_was_well_for_long_begins_anew() -> None:
    words = words_of(0.0, 30.0, 60.0, *(float(t) for t in range(70, 400, 10)))
    assert words.falls == 2
    assert heard(missed(words, 395.0, "cut"), 450.0, LIMITS).falls == 1


def test_a_head_that_looked_at_nothing_for_long_takes_no_host_for_silent() -> None:
    words = words_of(5.0, 10.0)
    assert state(words, 5000.0) is FINE
    words = missed(words, 5000.0, "cut")
    assert state(words, 5000.0) is LATE
    assert state(words, 5010.0) is SILENT
    assert state(words, 5289.0) is SILENT
    assert state(words, 5290.0) is LOST
    assert heard(words_of(5.0), 5000.0, LIMITS).falls == 0


def test_a_host_that_comes_and_goes_is_lost_in_the_end_and_stays_so() -> None:
    words, states = asked_first(0.0), []
    for second in range(2000):
        if second % 31 == 0:  # 30 s of silence, then one word
            words = heard(asked_till(words, second), float(second), LIMITS)
        else:
            words = missed(words, float(second), "cut")
        states.append(state(words, float(second)))
    changes = [one for one, other in itertools.pairwise(states) if one is not other]
    assert len(changes) <= 8
    assert states[-1] is LOST
    assert set(states[1000:]) == {LOST}
    steady = 2000 + 400
    for second in range(2000, steady, 10):
        words = heard(words, float(second), LIMITS)
    assert state(words, float(steady)) is FINE


@given(
    gaps=st.lists(st.floats(0.1, 400.0), max_size=60),
    limits=st.builds(
        lambda silent, more: HostLimits(silent, silent + more),
        st.floats(1.0, 60.0),
        st.floats(0.0, 1000.0),
    ),
)
def test_whatever_was_heard_a_quiet_host_is_lost_and_a_steady_one_is_fine(
    gaps: list[float], limits: HostLimits
) -> None:
    words, now = asked_first(0.0), 0.0
    for gap in gaps:
        words = heard(missed(words, now + gap / 2, "cut"), now + gap, limits)
        now += gap
        assert words.trusted_at <= words.heard_at == now
        found = host_standing("h", words, now, limits)
        assert found.answers == (found.state in (FINE, LATE))
        assert found.gone == (found.state is LOST)
    quiet = missed(words, now + 1.0, "cut")
    assert host_standing("h", quiet, now + limits.lost_seconds + 0.001, limits).gone
    pause = limits.silent_seconds / 2
    for _ in range(int(limits.lost_seconds / pause) + 3):
        now += pause
        words = heard(words, now, limits)
    assert host_standing("h", words, now, limits).state is FINE


@given(falls=st.integers(2, 12), limits=st.just(LIMITS))
def test_in_any_time_a_host_that_falls_again_and_again_returns_only_a_few_times(
    falls: int, limits: HostLimits
) -> None:
    words, now, returns, was = asked_first(0.0), 0.0, 0, True
    for _ in range(falls * 20):  # answers for a minute, is silent for half of one
        for _ in range(12):
            now += 5.0
            words = heard(words, now, limits)
            is_there = host_standing("h", words, now, limits).answers
            returns += is_there and not was
            was = is_there
        words = missed(words, now + 5.0, "cut")
        now += 30.0
        was = host_standing("h", words, now, limits).answers
    assert returns <= 5


@pytest.mark.parametrize("state", [HostState.LATE, HostState.SILENT, HostState.LOST])
def test_a_host_that_is_away_with_another_ray_is_told_so(state: HostState) -> None:
    host = HostView("a", state, "the host a is away.", ray_version="2.61.0")
    told = with_ray_told(host, "2.60.0").reason
    assert told.startswith("the host a is away. It has Ray 2.61.0 and the head 2.60.0")
    assert with_ray_told(host, "2.61.0") is host
    assert with_ray_told(host, "") is host
    for other in (
        dataclasses.replace(host, ray_version=""),
        dataclasses.replace(host, state=HostState.FINE),
        dataclasses.replace(host, state=HostState.REFUSED),
    ):
        assert with_ray_told(other, "2.60.0") is other
