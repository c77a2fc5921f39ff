"""Autoscaling does not flap on noise, follows a step with bounded lag, and keeps its bounds."""

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.demand import planned_rate as rule
from partitiond.core.demand.planned_rate import MeasuredDemand, is_short, within_freedom
from tests.core.scaling_samples import diff_of, plan_giving

POLICY = rule.ScalingPolicy()
STEP = POLICY.forecast.step_seconds


def decisions(
    rates: list[float], policy: rule.ScalingPolicy = POLICY, *, planned: float | None = None
) -> list[rule.Decision]:
    state = rule.begun_at(planned)
    found = []
    for index, rate in enumerate(rates):
        decision = rule.scale(state, MeasuredDemand(at=index * STEP, req_per_s=rate), policy)
        found.append(decision)
        state = decision.state
    return found


def poisson_rates(seed: int, mean: float, steps: int) -> list[float]:
    draw = random.Random(seed)
    rates = []
    for _ in range(steps):
        count, at = 0, draw.expovariate(1.0)
        while at < mean * STEP:
            count += 1
            at += draw.expovariate(1.0)
        rates.append(count / STEP)
    return rates


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), mean=st.floats(0.05, 10.0))
def test_noise_around_a_steady_demand_does_not_make_it_flap(seed: int, mean: float) -> None:
    found = decisions(poisson_rates(seed, mean, 720))[60:]  # two hours, after ten minutes
    changes = [d for d in found if d.changed]
    # A window of five minutes holds one change at most, and few of them hold any.
    assert len(changes) <= 22
    lowest = min(d.req_per_s for d in found)
    assert max(d.req_per_s for d in found) <= max(4.0 * lowest, 10 * POLICY.floor_req_per_s + 0.5)


@settings(max_examples=40)
@given(low=st.floats(0.5, 20.0), factor=st.floats(1.5, 20.0), seed=st.integers(0, 1000))
def test_a_step_up_is_planned_for_within_a_bounded_time(
    low: float, factor: float, seed: int
) -> None:
    rates = [low] * 120 + [low * factor] * 60
    found = decisions(rates)
    reached = next(i for i, d in enumerate(found[120:]) if d.req_per_s >= low * factor)
    # A weight of 0.3 needs some steps for nine tenths of the way; margin and headroom do the rest.
    assert reached * STEP <= 120
    assert found[-1].req_per_s <= 2.5 * low * factor


@settings(max_examples=40)
@given(high=st.floats(1.0, 50.0), factor=st.floats(2.0, 20.0))
def test_a_step_down_is_followed_after_the_window_and_not_before(
    high: float, factor: float
) -> None:
    found = decisions([high] * 120 + [high / factor] * 120)
    after = found[120:]
    window = int(POLICY.down_window_seconds / STEP)
    assert all(d.req_per_s >= high for d in after[: window - 1])
    assert after[-1].req_per_s <= 1.9 * high / factor + POLICY.floor_req_per_s * 2


@settings(max_examples=40)
@given(rates=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200))
def test_raises_and_lowerings_keep_their_pauses(rates: list[float]) -> None:
    found = decisions(rates, planned=1.0)
    raised_at, changed_at, before = -1e9, -1e9, 1.0
    for index, decision in enumerate(found):
        now = index * STEP
        if decision.req_per_s > before:
            assert now - raised_at >= POLICY.up_cooldown_seconds
            raised_at = changed_at = now
        elif decision.req_per_s < before:
            assert now - changed_at >= POLICY.down_window_seconds
            changed_at = now
        assert decision.changed == (decision.req_per_s != before)
        assert bool(decision.reason) == decision.changed
        before = decision.req_per_s
        assert decision.req_per_s >= POLICY.floor_req_per_s
        # What is remembered is bounded.
        assert len(decision.state.uppers) <= POLICY.down_window_seconds / STEP + 1
        values = [value for _, value in decision.state.uppers]
        assert values == sorted(values, reverse=True)


def test_what_was_planned_before_stays_until_something_speaks_against_it() -> None:
    found = decisions([2.0] * 20, planned=3.0)
    assert not any(d.changed for d in found)


def test_requests_that_queue_although_the_plan_should_do_raise_it() -> None:
    state = rule.begun_at(5.0)
    reached = 5.0
    for index in range(60):
        step = MeasuredDemand(at=index * STEP, req_per_s=4.0, queue_seconds=3.0)
        decision = rule.scale(state, step, POLICY)
        state, reached = decision.state, decision.req_per_s
    assert reached > 6.0
    limit = POLICY.pressure_limit * 4.0 * (1 + POLICY.headroom)
    assert reached <= limit * 1.2  # the first steps' upper ends are above the demand


def test_longer_requests_count_for_more_within_bounds() -> None:
    def planned(work: float) -> float:
        state = rule.NEW
        for index in range(30):
            state = rule.scale(state, MeasuredDemand(index * STEP, 2.0, work=work), POLICY).state
        return state.planned_req_per_s or 0.0

    assert planned(2.0) == pytest.approx(2 * planned(1.0), rel=0.2)
    at = (0.1, 0.01)
    assert rule.work_factor(*at, (100, 11), (100, 11)) == pytest.approx(1.0)
    assert rule.work_factor(*at, (100, 11), (None, None)) == pytest.approx(1.0)
    assert rule.work_factor(*at, (100, 11), (200, 11)) == pytest.approx(1.5)
    assert rule.work_factor(*at, (100, 11), (100, 21)) == pytest.approx(1.5)
    assert rule.work_factor(*at, (100, 11), (100, 100_000)) == 4.0
    assert rule.work_factor(0.0, 0.0, (100, 11), (100, 22)) == 1.0


def test_a_plan_is_within_its_freedom_that_moves_only_what_scales_by_itself() -> None:
    mine = {"mine"}
    assert within_freedom(diff_of(start=("other",)), (), (), short=False)
    assert within_freedom(diff_of(stop=("mine",), move=("mine",)), mine, mine, short=True)
    assert not within_freedom(diff_of(stop=("other",)), mine, {"other"}, short=True)
    assert not within_freedom(
        diff_of(stop=("mine",), move=("other",)), mine, {"mine", "other"}, short=True
    )
    assert not within_freedom(diff_of(stop=("mine",)), {"mine"}, (), short=True)
    assert not within_freedom(diff_of(move=("mine",)), {"mine"}, {"mine"}, short=False)
    assert within_freedom(diff_of(stop=("mine",)), {"mine"}, {"mine"}, short=False)


def test_a_plan_is_short_where_a_model_gets_less_than_it_needs_and_could_get_more() -> None:
    applied = plan_giving({"a": 2.0, "b": 1.0})
    coming = plan_giving({"a": 4.0, "b": 1.0, "new": 1.0})
    assert not is_short(applied, coming, {"a": 2.0, "b": 0.5})
    assert is_short(applied, coming, {"a": 2.1})
    assert is_short(applied, coming, {"new": 0.01})
    assert is_short(None, coming, {"a": 0.01})
    assert not is_short(None, coming, {})
    applied = plan_giving({"capped": 2.0, "b": 1.0})
    assert not is_short(applied, plan_giving({"capped": 2.0, "b": 1.0}), {"capped": 50.0})
    assert is_short(applied, plan_giving({"capped": 2.5, "b": 1.0}), {"capped": 50.0})


def test_a_plan_is_overtaken_where_it_takes_what_is_needed_by_now() -> None:
    made_for = plan_giving({"a": 2.0, "b": 1.0}, demand_req_per_s=1.0)
    assert not rule.overtaken(diff_of(stop=("a",)), made_for, {"a": 1.0, "b": 9.0})
    assert rule.overtaken(diff_of(stop=("a",)), made_for, {"a": 1.1})
    assert rule.overtaken(diff_of(move=("a",)), made_for, {"a": 1.1})
    assert not rule.overtaken(diff_of(start=("a",)), made_for, {"a": 9.0})


def test_a_longer_pause_between_raises_is_kept() -> None:
    policy = dataclasses.replace(POLICY, up_cooldown_seconds=100.0)
    found = decisions([float(2 ** min(i, 12)) for i in range(40)], policy, planned=1.0)
    raised = [i * STEP for i, d in enumerate(found) if d.changed]
    assert all(b - a >= 100.0 for a, b in itertools.pairwise(raised))
