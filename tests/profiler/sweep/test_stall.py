"""An engine under load counts as hung after the right length of silence."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.profiler.sweep.stall import first_stall_seconds, stall_seconds
from tests.profiler.samples import trial_of

VISIT = dataclasses.replace(trial_of(4, 100).visit, e2el_seconds=100.0)


def test_a_quick_engine_gets_the_least_silence_and_a_slow_one_what_it_needs() -> None:
    quick = dataclasses.replace(VISIT, e2el_seconds=1.0)
    assert stall_seconds(8, [quick], 60) == 60
    assert stall_seconds(4, [VISIT], 60) == 300
    assert stall_seconds(1, [VISIT], 60) == 300
    assert stall_seconds(8, [VISIT], 60) == 600
    assert stall_seconds(8, [VISIT, dataclasses.replace(quick, died=True)], 60) == 600


def test_before_anything_was_measured_a_roofline_may_ask_for_more_patience() -> None:
    assert first_stall_seconds(1, 32, None, 60) == 600
    assert first_stall_seconds(1, 32, ((1, 100.0), (2, 200.0)), 60) == 600
    assert first_stall_seconds(1, 1000, ((1, 5.0),), 60) == 2000


@given(st.integers(1, 512), st.integers(1, 512), st.floats(0.001, 1e4), st.floats(0.1, 1e3))
def test_it_is_longer_than_the_requests_last(
    batch: int, seen: int, e2el: float, least: float
) -> None:
    """However flat throughput is: a batch is served in at most its share of a smaller one's."""
    visit = dataclasses.replace(VISIT, batch=seen, e2el_seconds=e2el)
    longest = e2el * max(1.0, batch / seen)
    assert stall_seconds(batch, [visit], least) >= max(least, longest)
