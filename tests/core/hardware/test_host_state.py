"""A host is judged by what was heard of it, and one that comes and goes does not come back."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware import host_state
from partitiond.core.hardware.host_state import HostLimits, HostStanding, HostState, HostWords

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
FINE, LOST = HostState.FINE, HostState.LOST


def standing(words: HostWords, now: float, limits: HostLimits = LIMITS) -> HostStanding:
    return host_state.host_standing("gpu-2", words, now, limits)


def heard(words: HostWords, now: float, limits: HostLimits = LIMITS) -> HostWords:
    return host_state.heard(words, now, limits)


def missed(words: HostWords, now: float) -> HostWords:
    return host_state.missed(words, now, "the line is cut.")


def heard_after_silence(words: HostWords, now: float) -> HostWords:
    """A look brought nothing, if the host said nothing for more than one."""
    late = words.heard_at + 5.0
    return heard(missed(words, late) if late < now else words, now)


def lived(story: str, start: float = 0.0) -> HostWords:
    """Live through "heard 5, missed 15, fine 29.9": words, looks that bring none, and standings."""
    words = host_state.asked_first(start)
    for part in story.split(", "):
        what, at = part.split()
        if what == "heard":
            words = heard_after_silence(words, float(at))
        elif what == "missed":
            words = missed(words, float(at))
        elif what == "refused":
            words = host_state.refused(words, "it obeys another head.")
        else:
            assert standing(words, float(at)).state.value == what, part
    return words


@pytest.mark.parametrize(
    ("story", "start"),
    [
        pytest.param(*row, id=name)
        for name, *row in [
            ("late, then silent, then lost", "heard 5, heard 10, fine 29.9, missed 15, missed 20,"
             " late 29.9, silent 30, silent 309.9, lost 310", 0.0),
            ("never answered: by the head's own time", "silent 1000, silent 1299.9, lost 1300",
             1000.0),
            ("away once: trusted with its first word", "heard 5, heard 40, fine 40", 0.0),
            ("away long", "heard 5, heard 5000, fine 5000", 0.0),
            ("refused until it is heard", "heard 5, refused 5, refused 6, heard 6, fine 6", 0.0),
            ("a second return takes as long as silence",
             "heard 0, heard 30, heard 60, silent 60, heard 64, heard 69, heard 74, heard 79,"
             " silent 79.9, fine 80", 0.0),
            ("a head that looked at nothing for long", "heard 5, heard 10, fine 5000, missed 5000,"
             " late 5000, silent 5010, silent 5289, lost 5290", 0.0),
        ]
    ],
)  # fmt: skip
def test_a_host_stands_as_it_was_heard(story: str, start: float) -> None:
    lived(story, start)


def test_a_standing_says_what_it_means() -> None:
    words = lived("heard 5, heard 10, missed 15, missed 20")
    seen = [standing(words, now) for now in (29.9, 30.0, 310.0)]
    assert [(host.answers, host.gone) for host in seen] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip
    assert seen[0].reason == "the host gpu-2 is late: the line is cut."
    assert seen[1].silent_seconds == 20.0
    assert "the line is cut." in seen[1].reason
    assert "partitiond hosts --forget gpu-2" in seen[2].reason
    refused = lived("heard 5, refused 5")
    assert not standing(refused, 6.0).answers
    assert [standing(refused, now).gone for now in (6.0, 305.0)] == [False, True]
    again = lived("heard 0, heard 30, heard 60, heard 64, heard 69, heard 74, heard 79")
    assert "answered for 20 s" in standing(again, 79.0).reason


def test_each_further_return_takes_twice_as_long_until_it_was_well_for_long() -> None:
    assert [host_state.steady_seconds(falls, LIMITS) for falls in range(8)] == [
        0.0, 0.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0,
    ]  # fmt: skip
    words = lived("heard 0, heard 30, heard 60")
    for now in range(70, 400, 10):
        words = heard_after_silence(words, float(now))
    assert words.falls == 2
    assert heard(missed(words, 395.0), 450.0).falls == 1
    assert heard(lived("heard 5"), 5000.0).falls == 0, "the head looked at nothing"


def test_a_host_that_comes_and_goes_is_lost_in_the_end_and_stays_so() -> None:
    words, states = host_state.asked_first(0.0), []
    for second in range(2000):
        if second % 31 == 0:  # 30 s of silence, then one word
            words = heard_after_silence(words, float(second))
        else:
            words = missed(words, float(second))
        states.append(standing(words, float(second)).state)
    assert sum(one is not other for one, other in itertools.pairwise(states)) <= 8
    assert set(states[1000:]) == {LOST}
    for second in range(2000, 2400, 10):
        words = heard(words, float(second))
    assert standing(words, 2400.0).state is FINE


@given(
    gaps=st.lists(st.floats(0.1, 400.0), max_size=60),
    silent=st.floats(1.0, 60.0),
    more=st.floats(0.0, 1000.0),
)
def test_whatever_was_heard_a_quiet_host_is_lost_and_a_steady_one_is_fine(
    gaps: list[float], silent: float, more: float
) -> None:
    limits, words, now = HostLimits(silent, silent + more), host_state.asked_first(0.0), 0.0
    for gap in gaps:
        words = heard(missed(words, now + gap / 2), now + gap, limits)
        now += gap
        assert words.trusted_at <= words.heard_at == now
        found = standing(words, now, limits)
        assert found.answers == (found.state in (FINE, HostState.LATE))
        assert found.gone == (found.state is LOST)
    assert standing(missed(words, now + 1.0), now + limits.lost_seconds + 0.001, limits).gone
    for _ in range(int(limits.lost_seconds / silent * 2) + 3):
        now += silent / 2
        words = heard(words, now, limits)
    assert standing(words, now, limits).state is FINE


@given(falls=st.integers(2, 12))
def test_in_any_time_a_host_that_falls_again_and_again_returns_only_a_few_times(
    falls: int,
) -> None:
    words, now, returns, was = host_state.asked_first(0.0), 0.0, 0, True
    for _ in range(falls * 20):  # answers for a minute, is silent for half of one
        for _ in range(12):
            now += 5.0
            words = heard(words, now)
            returns += standing(words, now).answers and not was
            was = standing(words, now).answers
        words = missed(words, now + 5.0)
        now += 30.0
        was = standing(words, now).answers
    assert returns <= 5


@pytest.mark.parametrize("state", list(HostState))
def test_a_host_that_is_away_with_another_ray_is_told_so(state: HostState) -> None:
    host = host_state.HostView("a", state, "the host a is away.", ray_version="2.61.0")
    told = host_state.with_ray_told(host, "2.60.0")
    if state in (HostState.LATE, HostState.SILENT, LOST):
        assert told.reason.startswith(f"{host.reason} It has Ray 2.61.0 and the head 2.60.0")
    else:
        assert told is host
    assert all(host_state.with_ray_told(host, same) is host for same in ("2.61.0", ""))
    unknown = dataclasses.replace(host, ray_version="")
    assert host_state.with_ray_told(unknown, "2.60.0") is unknown
