"""What is learned of an engine's speed, and how much it is sent by that."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.pace import (
    ENOUGH_RATIOS,
    FORGET_SECONDS,
    OVERDUE,
    READING_SHARE,
    TPOT_SHARE,
    Pace,
    soonest,
)
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute

TTFT, TPOT = 2.0, 0.1
BASE, PER_TOKEN = 0.02, 1e-4


def bounded(planned: int = 16, ttft: float = TTFT, tpot: float = TPOT) -> Pace:
    pace = Pace()
    pace.apply(planned, ttft, tpot)
    return pace


def reads(pace: Pace, *prompts: int, slow: float = 1.0, base: float = BASE) -> None:
    """First tokens of prompts that are sent one after the other."""
    for number, tokens in enumerate(prompts):
        pace.sent(number, tokens, 100.0)
        pace.first_token(number, 100.0 + slow * (base + PER_TOKEN * tokens))


def steps(
    pace: Pace, tpot: float, sequences: int, seconds: float = 5.0, began: float = 0.0
) -> None:
    """So many streams get tokens for some seconds."""
    for tick in range(int(seconds * 4)):
        now = began + tick / 4
        pace.decoded(0.25 * sequences, 0.25 * sequences / tpot, sequences, now)


def test_a_first_token_is_expected_by_the_prompt_and_by_what_is_unread() -> None:
    pace = bounded()
    reads(pace, *range(100, 4000, 200))
    assert pace.first_token_seconds(1000) == pytest.approx(BASE + 0.1)
    pace.sent("a", 500, 0.0)
    assert pace.first_token_seconds(1000) == pytest.approx(BASE + 0.15)
    pace.sent("b", 9000, 0.0)
    most = READING_SHARE * TTFT  # a request is sent only when no more than this is unread
    assert pace.first_token_seconds(1000) == pytest.approx(BASE + 0.1 + most)


def test_little_is_expected_of_an_engine_that_was_hardly_seen() -> None:
    pace = bounded()
    reads(pace, *[1000] * ENOUGH_RATIOS)
    assert pace.first_token_seconds(1000) is None
    reads(pace, 1000)
    assert pace.first_token_seconds(1000) == pytest.approx(BASE + 0.1)


@pytest.mark.parametrize("prompts", [[1000] * 20, list(range(100, 4000, 200))])
def test_a_slower_engine_is_soon_known_as_one_and_so_is_its_recovery(prompts: list[int]) -> None:
    pace = bounded()
    for slow in (1.0, 6.0, 1.0):
        reads(pace, *prompts * 4, slow=slow)
        assert pace.first_token_seconds(1000) == pytest.approx(slow * 0.12, rel=0.15)


@pytest.mark.parametrize(
    ("prompts", "base", "per_token", "expected"),
    [
        ([1000] * 20, 0.1, 0.0, {1: 1e-4, 1000: 0.1}),  # nothing tells base and rate apart
        (range(100, 2000, 100), 0.3, -1e-4, {1: 0.2, 100_000: 0.2}),
        (range(100, 2000, 100), -0.01, 2e-4, {1: 2e-4, 1000: 0.2}),
    ],
    ids=["all alike", "longer ones sooner", "short ones at once"],
)
def test_no_line_has_a_negative_part(
    prompts: Iterable[int], base: float, per_token: float, expected: dict[int, float]
) -> None:
    pace = bounded()
    for _ in range(3):
        for tokens in prompts:
            pace.sent(tokens, tokens, 0.0)
            pace.first_token(tokens, base + per_token * tokens)
    for tokens, seconds in expected.items():
        assert 0.5 * seconds < (pace.first_token_seconds(tokens) or 0.0) < 2 * seconds


def test_a_prompt_that_waits_for_something_else_closes_nothing_and_teaches_little() -> None:
    """Its grammar is compiled, or its picture fetched: the engine reads others meanwhile."""
    pace = bounded()
    reads(pace, *[1000] * 20)
    expected = pace.first_token_seconds(1000)
    pace.sent("a", 9000, 100.0)
    assert pace.most_sequences(1) == 1
    assert not pace.expire("a", 100.5)
    assert pace.expire("a", 100.0 + 1.1 * OVERDUE * 9 * (BASE + 0.1))
    assert not pace.expire("a", 200.0), "once"
    assert pace.most_sequences(1) == 16
    pace.first_token("a", 160.0)
    assert pace.most_sequences(0) == 16
    after = pace.first_token_seconds(1000)
    assert after == pytest.approx(expected)
    pace.sent("b", 9000, 200.0)
    pace.unseen("b")  # its client reads nothing, so nobody sees its first token
    assert pace.most_sequences(1) == 16
    pace.first_token("b", 300.0)
    assert pace.first_token_seconds(1000) == after


def late(pace: Pace, seconds: float = 60.0) -> None:
    """A first token that comes long after all others would have."""
    pace.sent("late", 1000, 100.0)
    pace.first_token("late", 100.0 + seconds)


def test_late_first_tokens_teach_if_they_come_in_a_row_and_no_more_than_overdue_ones() -> None:
    pace = bounded()
    reads(pace, *[1000] * 20)
    for _ in range(9):
        late(pace)
        late(pace)
        reads(pace, 1000)
    assert pace.first_token_seconds(1000) == pytest.approx(0.12)
    late(pace)
    late(pace)
    assert pace.first_token_seconds(1000) == pytest.approx(0.12)
    pace.sent("late", 1000, 100.0)
    assert pace.expire("late", 160.0)
    pace.first_token("late", 160.0)  # one that was given up counts all the same
    assert 0.13 < (pace.first_token_seconds(1000) or 0.0) < 1.0
    for seen in (pace.unseen, lambda one: pace.left(one, 0.0)):
        before = pace.first_token_seconds(1000)
        pace.sent("gone", 9000, 100.0)
        seen("gone")
        pace.first_token("gone", 100.01)
        assert pace.first_token_seconds(1000) == before


def test_a_prompt_is_overdue_by_what_is_known_of_the_engine() -> None:
    """And never within half a second, nor within the bound while nothing is known."""
    unknown, fast, wide = bounded(), bounded(), bounded()
    reads(fast, *[1000] * 20, slow=0.1)
    for number in range(40):
        reads(wide, 1000, slow=2.5 if number % 3 == 0 else 1.0)
    for pace, early, overdue in ((unknown, 1.9, 2.1), (fast, 0.4, 0.6), (wide, 0.9, 2.0)):
        pace.sent("a", 1000, 0.0)
        assert not pace.expire("a", early)
        assert pace.expire("a", overdue)


def test_what_is_expected_holds_for_nine_of_ten_and_a_recovery_is_believed_slowly() -> None:
    for every, least, most in ((5, 2.5, 3.5), (20, 0.9, 1.3)):
        pace = bounded()
        for number in range(60):
            reads(pace, 1000, slow=1.0 if number % every else 3.0)
        assert least * 0.12 < (pace.first_token_seconds(1000) or 0.0) < most * 0.12
    for number in range(40):
        reads(pace, 1000, slow=0.95**number)
    assert (pace.first_token_seconds(1000) or 0.0) > 2.7 * 0.12 * 0.95**39


def test_prompts_that_are_nearly_alike_tell_no_base_from_a_rate() -> None:
    pace = bounded()
    for number in range(20):
        pace.sent("a", 1000 + number % 2, 0.0)
        pace.first_token("a", 0.13 - 0.01 * (number % 2))
    assert (pace.first_token_seconds(2000) or 0.0) > 0.2


def test_a_limit_of_which_nothing_is_seen_any_more_is_the_planned_one() -> None:
    pace = bounded()
    steps(pace, 2 * TPOT, 16, 5.0)
    small = pace.limit
    pace.left("whole", 5.0 + FORGET_SECONDS - 1)
    assert pace.limit == small < 16
    pace.left("whole", 5.0 + FORGET_SECONDS + 1)
    assert pace.limit == 16
    steps(pace, 2 * TPOT, 16, 5.0, 30.0)
    small = pace.limit
    pace.apply(16, TTFT, TPOT)
    assert pace.limit == small < 16
    pace.apply(24, TTFT, TPOT)
    assert pace.limit == 24, "another batch"
    steps(pace, 2 * TPOT, 24, 5.0, 60.0)
    assert pace.limit < 24
    pace.apply(24, TTFT, 3 * TPOT)
    assert pace.limit == 24, "another bound has other batches"


def test_what_other_processes_sent_and_found_counts_as_well() -> None:
    pace = bounded()
    reads(pace, *range(100, 4000, 200), base=0.0)
    pace.sent("a", 1, 0.0)
    pace.learn_from_others(round(READING_SHARE * TTFT / PER_TOKEN), 0, 0.0)
    assert pace.most_sequences(2) == 2
    pace.learn_from_others(500, 5, 0.0)
    assert pace.most_sequences(2) == 5
    assert pace.first_token_seconds(1000) == pytest.approx(0.15, rel=1e-2)
    pace.sent("b", 1000, 0.0)
    pace.first_token("b", PER_TOKEN * 1501)
    pace.learn_from_others(0, 0, 0.0)
    pace.left("a", 0.0)
    assert pace.first_token_seconds(1000) == pytest.approx(0.15, rel=1e-2), "it waited for theirs"
    steps(pace, 2 * TPOT, 16, 5.0)
    small = pace.limit
    pace.learn_from_others(0, 12, 5.0 + FORGET_SECONDS - 1)
    assert pace.most_sequences(0) == small < 12
    pace.learn_from_others(0, 12, 5.0 + FORGET_SECONDS + 1)
    assert pace.most_sequences(0) == 12, "it sees no stream itself any more"


def test_without_bounds_nothing_but_the_plan_counts() -> None:
    pace = bounded(ttft=0.0, tpot=0.0)
    reads(pace, *[1000] * 20)
    pace.sent("a", 10**9, 0.0)
    steps(pace, 99.0, 16)
    assert pace.most_sequences(3) == 16
    # A bound that goes takes with it what was learned by it, here and by others, who tell no more.
    pace = bounded()
    steps(pace, 2 * TPOT, 16)
    pace.learn_from_others(10**9, 1, 5.0)
    assert pace.most_sequences(0) == 1
    pace.apply(16, 0.0, 0.0)
    assert pace.most_sequences(0) == pace.limit == 16


def test_the_limit_is_the_batch_that_meets_the_bound_and_settles_in_ten_seconds() -> None:
    """Steps of 40 ms and 8 ms for each sequence: 90 ms, as the bound less its share, are 6."""
    pace = bounded(32)
    seen = []
    for second in itertools.count():
        sequences = min(32, pace.limit)
        steps(pace, 0.04 + 0.008 * sequences, sequences, 1.0, float(second))
        seen.append(pace.limit)
        if second == 40:
            break
    assert all(5 <= limit <= 8 for limit in seen[10:]), seen
    for second in range(50, 61):
        steps(pace, 0.01 + 0.001 * pace.limit, pace.limit, 1.0, float(second))
    assert pace.limit == 32, "it grows back"


def test_a_limit_neither_shrinks_under_the_bound_nor_ends_at_none() -> None:
    pace = bounded()
    steps(pace, 0.99 * TPOT_SHARE * TPOT, 2)
    assert pace.limit == 16, "two sequences are few, not slow"
    steps(pace, 50 * TPOT, 3, 60.0, 10.0)
    assert pace.limit == 1


def test_a_shrunken_limit_grows_by_one_where_it_is_full_and_in_time_alone() -> None:
    in_time = 0.97 * TPOT_SHARE * TPOT
    pace = bounded()
    steps(pace, 2 * TPOT, 16)
    small = pace.limit
    for tick in range(20):
        many = pace.limit
        pace.decoded(0.01 * many, 0.01 * many / in_time, many, 10.0 + tick / 100)
    assert pace.limit <= small + 1, "by one at a time"
    steps(pace, in_time, 1, 30.0, 20.0)
    assert pace.limit <= small + 1, "nor where it is not full"
    steps(pace, in_time, small + 1, 30.0, 60.0)
    assert pace.limit > small + 1
    steps(pace, 2 * TPOT, 16, 9.0, 100.0)
    small = pace.limit
    steps(pace, 1.02 * TPOT_SHARE * TPOT, 16, 9.0, 120.0)
    assert pace.limit <= small, "more than it may are still there, and too slow"


def test_few_tokens_tell_nothing_of_a_step() -> None:
    pace = bounded()
    pace.decoded(10.0, 1.0, 16, 0.0)
    assert pace.limit == 16
    pace = bounded()
    pace.decoded(0.0, 8.0, 1, 0.0)
    assert pace.limit == 16
    pace = bounded()
    pace.decoded(5e-324, 8.0, 1, 0.0)
    assert pace.limit == 16, "a clock that hardly went says nothing of an engine"


@given(
    st.lists(
        st.tuples(
            st.sampled_from("sfld"), st.integers(0, 3), st.integers(0, 9999), st.floats(0, 9)
        ),
        max_size=60,
    )
)
def test_whatever_happens_there_is_a_place_and_nothing_is_unread_in_the_end(
    acts: list[tuple[str, int, int, float]],
) -> None:
    pace, now, sent = bounded(), 0.0, set[int]()
    for act, request, number, seconds in acts:
        now += seconds
        if act == "s" and request not in sent:
            pace.sent(request, number, now)
            sent.add(request)
        elif act == "f":
            pace.first_token(request, now)
        elif act == "l":
            pace.left(request, now)
            sent.discard(request)
        elif act == "d":
            pace.decoded(seconds, number, request, now)
        assert 1 <= pace.limit <= 16
        assert (pace.first_token_seconds(number) or 0.0) >= 0
    for request in range(4):
        pace.left(request, now)
    assert pace.most_sequences(0) == pace.limit


def test_the_soonest_of_replicas_counts() -> None:
    fast, slow, unknown = bounded(), bounded(), bounded()
    reads(fast, *[1000] * 20)
    reads(slow, *[1000] * 20, slow=3.0)
    assert soonest([slow, unknown, fast], 1000) == pytest.approx(0.12)
    assert soonest([unknown], 1000) is None


@pytest.mark.parametrize(
    ("bound", "limit", "first", "longest"),
    [
        (0.0, 30.0, 1.0, 7.0),  # without a bound, and
        (5.0, 30.0, None, 7.0),  # until something is known, the plan's figure
        (5.0, 30.0, 1.0, 4.0),
        (5.0, 3.0, 1.0, 3.0),
        (5.0, 30.0, 6.0, 0.0),
    ],
)
def test_a_request_waits_as_long_as_it_can_still_meet_the_bound(
    bound: float, limit: float, first: float | None, longest: float
) -> None:
    route = ModelRoute(
        "m",
        ModelAvailability.SERVING,
        "m",
        max_wait_seconds=7.0,
        ttft_seconds=bound,
        wait_limit_seconds=limit,
    )
    assert route.longest_wait_seconds(first) == longest
