"""The second start confirms an operating point, and its failure costs only its own part."""

from typing import Any

import pytest

from partitiond.core.model.spec import Slo
from partitiond.core.profile.record import Profile
from partitiond.profiler.runner import Profiler
from partitiond.profiler.sweep.confirm import ConfirmationTarget, ConfirmVerdict, verdict
from tests.profiler.samples import request_of, trial_of

AIM = ConfirmationTarget(8, best_output_tokens_per_s=100.0, req_per_s=10.0, e2el_seconds=1.0)


def test_throughput_must_stay_within_its_interval_and_without_preemptions() -> None:
    for rate, half_width, preemptions, said in (
        (95.0, 0.0, 0, ConfirmVerdict.CONFIRMED),
        (92.5, 3.0, 0, ConfirmVerdict.CONFIRMED),  # within its own interval
        (91.5, 3.0, 0, ConfirmVerdict.SLOWER),
        (88.0, 3.0, 0, ConfirmVerdict.SLOWER),
        (120.0, 3.0, 1, ConfirmVerdict.TOO_SMALL),
    ):
        trial = trial_of(8, rate, half_width=half_width, preemptions=preemptions)
        assert verdict([trial], AIM) is said


async def profiled(engines: Any, **changes: Any) -> Profile:
    profile = await Profiler(engines).run(request_of(**changes), lambda _: None)
    assert engines.running == 0
    return profile


async def test_the_knee_is_confirmed_on_an_engine_as_a_plan_starts_it(engines: Any) -> None:
    profile = await profiled(engines, confirm_memory=True)
    found = profile.frontier_memory
    assert found is not None
    assert found.confirmed
    assert (found.preemptions, found.starts) == (0, 1)
    assert found.output_tokens_per_s is not None
    sweep, second = engines.engines
    assert second.launch.max_num_seqs == found.batch == second.most_running
    assert second.launch.kv_cache_bytes == found.kv_cache_bytes <= sweep.launch.kv_cache_bytes
    assert second.launch.prefix_caching
    point = profile.point(found.batch)
    assert point is not None
    assert point.footprint_bytes == found.footprint_bytes
    at_knee = profile.knee.batch == found.batch
    best = profile.knee.best_output_tokens_per_s if at_knee else point.output_tokens_per_s
    assert found.share_of_best == pytest.approx(found.output_tokens_per_s / best)


async def test_a_cache_that_is_too_small_is_made_larger(engines: Any, traits: Any) -> None:
    traits.base_seconds, traits.slope_seconds = 0.01, 0.1  # flat from the second request on
    asked = {"confirm_memory": True, "max_batch": 16, "time_limit_seconds": 200}
    first = (await profiled(engines, **asked)).frontier_memory
    assert first is not None
    needed = first.kv_cache_bytes
    assert engines.engines[0].launch.kv_cache_bytes > 2 * needed
    traits.preempts_below_kv_bytes = needed + 1
    found = (await profiled(engines, **asked)).frontier_memory
    assert found is not None
    assert (found.confirmed, found.starts) == (True, 2)
    assert found.kv_cache_bytes > needed


async def test_capacity_is_confirmed_in_open_loop(engines: Any) -> None:
    windows = {"min_window_seconds": 3.0, "max_window_seconds": 4.0, "time_limit_seconds": 1000}
    profile = await profiled(engines, confirm_capacity=True, slo=Slo(50.0, 50.0), **windows)
    trials = profile.capacity_trials
    assert 1 <= len(trials) <= 4
    limit = trials[0].batch
    assert engines.engines[-1].most_running <= limit
    point = profile.point(limit)
    assert point is not None
    assert trials[0].req_per_s == pytest.approx(0.8 * point.req_per_s)
    failed = [trial.req_per_s for trial in trials if not trial.held]
    held = [t.req_per_s for t in trials if t.held and all(t.req_per_s < rate for rate in failed)]
    assert profile.capacity_req_per_s == max(held)
    for trial in trials:
        assert trial.arrivals >= 20  # forty on average
        assert trial.utilisation is not None
        assert trial.attainment_interval is not None
    assert profile.frontier_memory is None  # not asked for


async def test_a_trial_that_would_not_end_in_time_is_not_begun_and_named(engines: Any) -> None:
    windows = {"min_window_seconds": 12.0, "max_window_seconds": 12.0}
    profile = await profiled(engines, confirm_memory=True, confirm_capacity=True, **windows)
    assert profile.capacity_trials == ()
    assert profile.capacity_req_per_s is None  # so that 0.8 X / E[O] is planned with
    (note,) = [n for n in profile.provenance.notes if "capacity is not confirmed" in n]
    assert "a limit of" in note
    assert profile.frontier_memory is not None


async def test_where_no_batch_holds_the_slo_there_is_nothing_to_confirm(engines: Any) -> None:
    profile = await profiled(
        engines, confirm_memory=True, confirm_capacity=True, slo=Slo(1e-6, 1e-6)
    )
    assert profile.capacity_trials == ()
    assert profile.frontier_memory is None
    assert profile.points


async def test_the_papers_mode_is_reported_apart(engines: Any) -> None:
    profile = await profiled(engines, paper_requests=12)
    mode = profile.paper_mode
    assert mode is not None
    assert mode.requests == 12
    assert mode.batch == engines.engines[-1].launch.max_num_seqs
    assert mode.output_tokens_per_s == pytest.approx(8 * mode.req_per_s)
    assert mode.mean_e2el_seconds > 0


@pytest.mark.parametrize("refused", [2, 100])
async def test_a_start_that_was_refused_is_repeated_as_it_was(
    engines: Any, traits: Any, refused: int
) -> None:
    """More of the memory that was not there would be refused again. At last it costs its part."""
    stop = engines.stop

    async def stopped(*arguments: Any) -> Any:
        traits.fails_to_start = engines.stops < refused  # the starts after the sweep's
        return await stop(*arguments)

    engines.stop = stopped
    profile = await profiled(engines, confirm_memory=True, confirm_capacity=refused > 2)
    assert profile.points
    failed = [note for note in profile.provenance.notes if "confirming start" in note]
    found = profile.frontier_memory
    if refused > 2:
        assert found is None
        assert failed
        return
    assert found is not None
    assert (found.confirmed, found.starts, len(failed)) == (True, 3, 2)
    assert {e.launch.kv_cache_bytes for e in engines.engines[1:]} == {found.kv_cache_bytes}
