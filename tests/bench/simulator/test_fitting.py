"""Fits of made-up runs find the parameters that the runs were made with."""

import pytest

from bench.simulator.fitting import fit, fit_cpu
from bench.simulator.seen import Observed, Spans, crowded_times, steps_seen
from partitiond.core.errors import InputError
from partitiond.simulated.steps import FittedSteps
from tests.bench.simulator.made_runs import IDLE_SHARE, KAPPA, TRUE, made_run


def test_a_fit_finds_what_the_runs_were_made_with() -> None:
    runs = [made_run(rate, seed, noise=0.002) for seed, rate in enumerate((0.5, 1.0, 1.6))]
    found = fit(runs)
    assert found.kappa == pytest.approx(KAPPA, abs=0.03)
    assert found.cpu_share == pytest.approx(IDLE_SHARE, rel=0.05)
    for model, (steps, costs) in TRUE.items():
        true, ours = FittedSteps(steps, float("inf")), found.costs[model]
        for decoding, prefill, kv in ((1, 0, 100), (8, 0, 2000), (4, 100, 800), (0, 300, 0)):
            seconds = found.steps_of(model).step_seconds(decoding, prefill, kv)
            expected = true.step_seconds(decoding, prefill, kv)
            admitted = bool(prefill)
            assert seconds + ours.admit_seconds * admitted == pytest.approx(
                expected + costs.admit_seconds * admitted, rel=0.02
            )
        assert ours.way_seconds == pytest.approx(costs.way_seconds, abs=0.003)
        assert ours.way(crowded=True) == pytest.approx(costs.way(crowded=True), abs=0.004)
    assert fit_cpu(runs) == pytest.approx((IDLE_SHARE, 4e-4, 3e-3), rel=1e-3)


def test_tokens_that_come_together_are_one_step() -> None:
    first = Observed(0.0, 10, (1.0, 2.0, 3.0, 4.0))
    second = Observed(1.5, 20, (3.01, 4.01))
    later = Observed(8.0, 5, (9.0,))
    seen = steps_seen([first, second, later])
    assert [step.ended for step in seen] == [1.0, 2.0, 3.01, 4.01, 9.0]
    assert [step.began for step in seen] == [None, 1.0, 2.0, 3.01, None]
    assert [step.decoding for step in seen] == [0, 1, 1, 2, 0]
    assert [step.first for step in seen] == [(0,), (), (1,), (), (2,)]
    assert [step.prefill_tokens for step in seen] == [10, 0, 20, 0, 5]
    assert [step.kv_tokens for step in seen] == [0, 11, 12, 34, 0]
    assert [step.seconds for step in seen] == pytest.approx([0.0, 1.0, 1.0, 1.0, 0.0])


def test_a_first_token_is_of_the_nearer_step() -> None:
    going = Observed(0.0, 10, (1.0, 2.0, 3.6, 4.6, 5.6))
    for at, step in ((2.55, 2), (2.7, 2), (2.9, 3), (3.6, 3), (3.7, 3)):
        seen = steps_seen([going, Observed(1.5, 20, (at,))])
        assert [number for number, one in enumerate(seen, start=1) if 1 in one.first] == [step]
        assert len(seen) == 5
    # A sequence that comes again begins a step, however far tokens come apart.
    both = Observed(0.0, 10, (1.0, 2.0, 3.0, 4.0)), Observed(0.0, 10, (1.0, 2.8, 3.8, 4.8))
    seen = steps_seen(both)
    assert [step.decoding + len(step.first) for step in seen] == [2, 2, 2, 2]
    assert [step.seconds for step in seen[1:]] == pytest.approx([1.4, 1.0, 1.0])


def test_a_host_is_crowded_while_engines_have_all_its_cores() -> None:
    engines = [(1, Spans([(0.0, 4.0)])), (2, Spans([(1.0, 2.0), (3.0, 9.0)]))]
    crowded = crowded_times(engines, 3)
    assert list(zip(crowded.begins, crowded.ends, strict=True)) == [(1.0, 2.0), (3.0, 4.0)]
    assert crowded_times(engines, 4).begins == []


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(InputError, match="no runs"):
        fit([])
    with pytest.raises(InputError, match="steps in these runs"):
        fit([made_run(0.5, 1, seconds=2.0)])
