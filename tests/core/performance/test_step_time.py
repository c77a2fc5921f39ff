"""Step times are recovered from points made with them, and state their uncertainty."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.model.workload import Workload
from partitiond.core.performance import step_time
from partitiond.core.performance.step_time import StepSample, fit, predict_output_tokens_per_s
from partitiond.core.profile.confirmed import StepTime

BATCHES = (1, 2, 4, 8, 16, 32)
CHAT, LONG, SHORT = Workload(512, 256), Workload(1024, 64), Workload(32, 200)
MIXED = Workload.lognormal(256, 128, 0.8, 1.2)


def points(step: StepTime, *workloads: Workload, noise: float = 0.0) -> list[StepSample]:
    chance = random.Random(1)
    return [
        StepSample(
            batch,
            workload,
            predict_output_tokens_per_s(step, workload, batch) * (1 + noise * chance.gauss(0, 1)),
        )
        for workload in workloads
        for batch in BATCHES
    ]


def test_the_work_of_a_round_is_that_of_the_definitions() -> None:
    work = step_time.round_work(CHAT, 16)
    assert work.steps == 1
    assert work.tokens == pytest.approx(16 * (512 + 255) / 256)
    assert work.kv_tokens == pytest.approx(16 * 640)


coefficients = st.tuples(
    st.floats(1e-3, 0.1), st.floats(1e-6, 1e-3), st.floats(1e-6, 1e-3), st.floats(1e-9, 1e-6)
)


@settings(max_examples=50)
@given(coefficients)
def test_four_workloads_tell_all_coefficients(terms: tuple[float, float, float, float]) -> None:
    truth = StepTime(*terms, residual_share=0, points=0)
    found = fit(points(truth, CHAT, LONG, SHORT, MIXED))
    assert found is not None
    assert found.residual_share < 1e-5
    assert found.workloads == 4
    for workload in (CHAT, LONG, SHORT, MIXED, Workload(300, 300)):
        assert step_time.round_seconds(found, workload, 20) == pytest.approx(
            step_time.round_seconds(truth, workload, 20), rel=1e-3
        )


def test_one_workload_keeps_the_sum_in_the_sequences() -> None:
    truth = StepTime(0.01, 1e-4, 2e-4, 1e-7, 0, 0)
    found = fit(points(truth, CHAT))
    assert found is not None
    assert found.per_token_seconds == found.per_kv_token_seconds == 0
    assert found.base_seconds == pytest.approx(0.01)
    assert not step_time.tells_lengths(found)
    for batch in (3, 100):
        assert predict_output_tokens_per_s(found, CHAT, batch) == pytest.approx(
            predict_output_tokens_per_s(truth, CHAT, batch), rel=1e-6
        )


def test_two_workloads_predict_a_third_better_than_one_does() -> None:
    truth = StepTime(0.01, 3e-4, 1e-4, 0, 0, 0)
    two, one = fit(points(truth, CHAT, LONG, noise=0.02)), fit(points(truth, CHAT, noise=0.02))
    assert two is not None
    assert one is not None
    wanted = predict_output_tokens_per_s(truth, SHORT, 16)
    assert predict_output_tokens_per_s(two, SHORT, 16) == pytest.approx(wanted, rel=0.1)
    assert predict_output_tokens_per_s(one, SHORT, 16) != pytest.approx(wanted, rel=0.1)


def test_rescaling_keeps_what_the_fit_misses_and_too_little_tells_nothing() -> None:
    step = StepTime(0.01, 3e-4, 1e-4, 0, 0, 0, workloads=2)
    fitted = predict_output_tokens_per_s(step, CHAT, 8)
    moved = step_time.rescaled(step, 1.1 * fitted, CHAT, LONG, 8)
    assert moved == pytest.approx(1.1 * predict_output_tokens_per_s(step, LONG, 8))
    assert step_time.rescaled(step, 100.0, CHAT, CHAT, 8) == pytest.approx(100.0)
    assert fit([]) is None
    assert fit([(4, CHAT, 100.0), (4, LONG, 90.0)]) is None
    assert fit([(4, CHAT, 100.0), (8, CHAT, 0.0)]) is None


@given(st.lists(st.tuples(st.sampled_from(BATCHES), st.floats(1, 1e5)), min_size=2, max_size=12))
def test_any_points_give_steps_that_take_time(found: list[tuple[int, float]]) -> None:
    step = fit([(batch, CHAT, rate) for batch, rate in found])
    if step is None:
        assert len({batch for batch, _ in found}) < 2
        return
    terms = (step.base_seconds, step.per_token_seconds, step.per_sequence_seconds)
    assert min(terms) >= 0
    assert step_time.round_seconds(step, CHAT, 1) > 0
    missed = step_time.errors(step, [(batch, CHAT, rate) for batch, rate in found])
    assert step.residual_share == pytest.approx((sum(e * e for e in missed) / len(missed)) ** 0.5)


def test_a_glance_weighs_less_than_a_minute() -> None:
    truth = StepTime(0.01, 0, 2e-4, 0, 0, 0)
    exact = [s._replace(half_width=0.01 * s.output_tokens_per_s) for s in points(truth, CHAT)]
    off = exact[2]._replace(output_tokens_per_s=1.3 * exact[2].output_tokens_per_s)
    glance = off._replace(half_width=0.3 * off.output_tokens_per_s)

    def base_error(sample: StepSample) -> float:
        found = fit([*exact[:2], sample, *exact[3:]])
        assert found is not None
        return abs(found.base_seconds / truth.base_seconds - 1)

    assert base_error(glance) < 0.02
    assert base_error(off._replace(half_width=exact[2].half_width)) > 0.05
    # Unknown intervals, and infinite ones, are no obstacle.
    assert fit([s._replace(half_width=0.0) for s in exact]) is not None
    assert fit([s._replace(half_width=float("inf")) for s in exact]) is not None
