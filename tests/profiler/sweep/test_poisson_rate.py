"""The open loop tries the right rates, judges whether they hold, and settles on one."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import OpenLoopResult, Outcome, Record, Samples, Throughput
from partitiond.core.model.spec import Slo
from partitiond.core.profile.confirmed import CapacityTrial
from partitiond.core.profile.points import Latency, OperatingPoint
from partitiond.core.profile.record import capacity_req_per_s
from partitiond.core.units import Bytes
from partitiond.profiler.sweep import poisson_rate
from partitiond.profiler.sweep.poisson_rate import MAX_TRIALS, OpenTrial, confirmed_rate, next_rate
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
    lowest = 0.8 * 0.75**3  # the fourth trial's, by the closed loop's
    if capacity < lowest * (1 - 1e-9):
        assert found is None
    if capacity < lowest * (1 + 1e-9):
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
    """And is not believed if it fails then."""
    trials = search(10.0, lambda rate, _: rate < 8.7)
    assert trials[-1].req_per_s == max(t.req_per_s for t in trials if t.held)
    assert [t.req_per_s for t in trials].count(trials[-1].req_per_s) == 2
    trials = search(10.0, lambda _, n: n in {0, 1})
    assert trials[-1].req_per_s == pytest.approx(9.0)
    assert confirmed_rate(trials) == pytest.approx(8.0)


def test_a_window_has_forty_arrivals_and_three_latencies() -> None:
    for rate, e2el, expected in (
        (100.0, 0.3, 20.0),  # the shortest window
        (0.5, 1.0, 80.0),  # forty arrivals
        (0.188, 68.0, 40 / 0.188),
        (0.256, 100.0, 300.0),  # three latencies
    ):
        trial = poisson_rate.open_trial(16, rate, e2el, min_window_seconds=10.0, slo=None, seed=1)
        assert trial.seconds == pytest.approx(expected)
        assert trial.warm_up_seconds == 2 * e2el
        assert trial.expected_seconds >= trial.seconds + trial.warm_up_seconds + e2el


def test_there_are_arrivals_enough_to_see_a_share_that_is_ten_points_too_low() -> None:
    for quantile in (0.5, 0.9, 0.95, 0.99, 1.0):
        count = poisson_rate.arrivals_needed(quantile)
        assert 40 <= count <= 400
        bad = quantile - 0.1
        held = sum(
            math.comb(count, good) * bad**good * (1 - bad) ** (count - good)
            for good in range(count + 1)
            if good / count >= quantile - 1e-9
        )
        assert held <= 0.05
        assert poisson_rate.arrivals_needed(0.95) == 40


TRIAL = OpenTrial(4, 2.0, 2.0, 20.0, 1, 30.0)


def result_of(
    *, service: float, wait_growth: float = 0.0, late: int = 0, lost: int = 0
) -> OpenLoopResult:
    """Arrivals twice a second for 22 s, served in `service` seconds after a wait that grows."""
    records = []
    for index in range(44):
        due = index / 2
        sent = due + wait_growth * due
        record = Record(index, scheduled=due, sent=sent, end=sent + service, outcome=Outcome.OK)
        record.wanted_output_tokens = record.output_tokens = 8
        first = sent + (9.0 if 4 <= index < 4 + late else 0.01)
        record.chunk_times.extend([first, max(first, sent + service)])
        record.chunk_tokens.extend([1, 7])
        if 10 <= index < 10 + lost:
            record.outcome = Outcome.ERROR
        records.append(record)
    empty = Samples((), (), (), ())
    return OpenLoopResult(tuple(records), 2.0, 22.0, Throughput(1.0, 0.1), empty, 0.0, 0.0)


def judged(slo: Slo | None, **how: float) -> CapacityTrial:
    return poisson_rate.judge(result_of(**how), TRIAL, slo, 8.0)  # type: ignore[arg-type]


def test_a_verdict_says_how_full_the_places_were_and_how_sure_it_is() -> None:
    said = judged(None, service=1.6)
    assert said.utilisation == pytest.approx(2.0 * 1.6 / 4)
    assert said.utilisation_half_width == pytest.approx(0.0, abs=1e-9)
    assert said.arrivals == 40
    assert said.attainment_interval is not None
    low, high = said.attainment_interval
    assert 0.9 < low < 0.92  # forty good ones of forty say no more than that
    assert high == 1.0
    lost = judged(None, service=1.6, lost=1)
    assert lost.attainment == pytest.approx(39 / 40)
    assert lost.attainment_interval is not None
    assert lost.attainment_interval[0] < lost.attainment < lost.attainment_interval[1]


def test_a_rate_is_held_while_places_and_the_slo_hold() -> None:
    slo = Slo(1.0, 1.0, 0.95)
    for bound, how, held in (
        (None, {"service": 1.6}, True),
        (None, {"service": 2.1}, False),  # it needs more places than there are
        (Slo(100.0, 100.0), {"service": 2.1}, False),  # however lenient the bounds
        # Requests pile up though each is served quickly.
        (None, {"service": 1.6, "wait_growth": 0.9}, False),
        (None, {"service": 1.6, "lost": 1}, False),  # without an SLO every one must end well
        (slo, {"service": 1.6, "late": 2}, True),  # its quantile decides
        (slo, {"service": 1.6, "late": 3}, False),
    ):
        assert judged(bound, **how).held is held


NONE = Latency(0, 0, 0, 0)
CONFIRMED = dataclasses.replace(
    measured_profile(), capacity_req_per_s=9.0, capacity_trials=(trial(9.0, held=True),)
)
FAILED = tuple(trial(rate, held=False) for rate in (8.0, 6.0, 4.0))


def test_a_plan_counts_with_what_was_confirmed() -> None:
    none: dict[str, Any] = {"capacity_req_per_s": None, "capacity_trials": ()}
    for batch, changes, expected in (
        (8, {}, 9.0),
        (16, {}, 8.0),  # what was confirmed at one batch says nothing of another
        (8, none, 8.0),
        (8, none | {"capacity_trials": FAILED}, 3.0),  # they bound it
    ):
        point = OperatingPoint(batch, 100.0, 1.0, 10.0, NONE, NONE, NONE, NONE, 0, Bytes(0))
        found = capacity_req_per_s(dataclasses.replace(CONFIRMED, **changes), point)
        assert found == pytest.approx(expected)
