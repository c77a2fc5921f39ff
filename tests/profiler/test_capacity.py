"""Which rates an open loop tries, what it takes for held, and what it believes in the end."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.profile import CapacityTrial, Latency, OperatingPoint, capacity_req_per_s
from partitiond.core.units import Bytes
from partitiond.profiler.capacity import (
    MAX_TRIALS,
    confirmed_rate,
    next_rate,
    queue_grows,
    trial_seconds,
)
from tests.controller.samples import measured_profile


def trial(rate: float, *, held: bool) -> CapacityTrial:
    return CapacityTrial(8, rate, 1.0 if held else 0.5, 20.0, held)


def search(closed_loop: float, holds: Callable[[float, int], bool]) -> list[CapacityTrial]:
    trials: list[CapacityTrial] = []
    while (rate := next_rate(trials, closed_loop)) is not None:
        trials.append(trial(rate, held=holds(rate, len(trials))))
    return trials


@given(st.floats(0.01, 1000), st.floats(0.05, 1.0))
def test_without_noise_the_rate_is_held_and_close_to_the_largest(
    closed_loop: float, capacity: float
) -> None:
    trials = search(closed_loop, lambda rate, _: rate <= capacity * closed_loop)
    found = confirmed_rate(trials)
    assert len(trials) <= MAX_TRIALS
    if capacity < 0.34:
        assert found is None
        return
    assert found is not None
    assert found <= capacity * closed_loop * (1 + 1e-9)
    assert found >= 0.74 * capacity * closed_loop


@given(st.lists(st.booleans(), min_size=MAX_TRIALS, max_size=MAX_TRIALS))
def test_no_verdicts_make_it_endless_or_believe_a_disproved_rate(said: list[bool]) -> None:
    trials = search(10.0, lambda _, n: said[n])
    assert 1 <= len(trials) <= MAX_TRIALS
    found = confirmed_rate(trials)
    failed = [t.req_per_s for t in trials if not t.held]
    assert found is None or all(found < rate for rate in failed)
    assert all(0 < t.req_per_s < 10.0 for t in trials)


def test_the_best_of_several_is_tried_again_with_other_arrivals() -> None:
    trials = search(10.0, lambda rate, _: rate < 8.7)
    assert trials[-1].req_per_s == max(t.req_per_s for t in trials if t.held)
    assert [t.req_per_s for t in trials].count(trials[-1].req_per_s) == 2


def test_a_rate_that_fails_its_repetition_is_not_believed() -> None:
    trials = search(10.0, lambda _, n: n in {0, 1})
    assert trials[-1].req_per_s == pytest.approx(9.0)
    assert confirmed_rate(trials) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("rate", "expected"), [(100.0, 20.0), (1.0, 40.0), (0.1, 120.0), (0.4, 100.0)]
)
def test_a_trial_lasts_for_forty_arrivals_within_bounds(rate: float, expected: float) -> None:
    assert trial_seconds(rate, 10.0, 60.0) == pytest.approx(expected)


def test_a_queue_that_grows_is_told_from_one_that_comes_and_goes() -> None:
    assert queue_grows([(0.1 * n, 1.0) for n in range(40)])
    assert not queue_grows([(0.5 * (n % 5), 1.0) for n in range(40)])
    assert not queue_grows([(0.0, 1.0)] * 3)


def point(batch: int) -> OperatingPoint:
    none = Latency(0, 0, 0, 0)
    return OperatingPoint(batch, 100.0, 1.0, 10.0, none, none, none, none, 0, Bytes(0))


def test_what_was_confirmed_at_one_batch_says_nothing_of_another() -> None:
    confirmed = dataclasses.replace(
        measured_profile(), capacity_req_per_s=9.0, capacity_trials=(trial(9.0, held=True),)
    )
    assert capacity_req_per_s(confirmed, point(8)) == 9.0
    assert capacity_req_per_s(confirmed, point(16)) == pytest.approx(8.0)
    unknown = dataclasses.replace(confirmed, capacity_req_per_s=None, capacity_trials=())
    assert capacity_req_per_s(unknown, point(8)) == pytest.approx(8.0)


def test_rates_that_all_failed_bound_the_capacity() -> None:
    failed = dataclasses.replace(
        measured_profile(),
        capacity_req_per_s=None,
        capacity_trials=tuple(trial(rate, held=False) for rate in (8.0, 6.0, 4.0)),
    )
    assert capacity_req_per_s(failed, point(8)) == pytest.approx(3.0)
