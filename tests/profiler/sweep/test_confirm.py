"""The second start confirms an operating point, and its failure costs only its own part."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from partitiond.core.model.spec import Slo
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from partitiond.profiler.sweep.confirm import ConfirmationTarget, ConfirmVerdict, verdict
from tests.profiler.samples import trial_of

RequestOf = Callable[..., ProfileRequest]
AIM = ConfirmationTarget(
    batch=8,
    best_output_tokens_per_s=100.0,
    req_per_s=10.0,
    e2el_seconds=1.0,
)


@pytest.mark.parametrize(
    ("rate", "half_width", "preemptions", "said"),
    [
        (95.0, 0.0, 0, ConfirmVerdict.CONFIRMED),
        (92.5, 3.0, 0, ConfirmVerdict.CONFIRMED),  # within its own interval
        (91.5, 3.0, 0, ConfirmVerdict.SLOWER),
        (88.0, 3.0, 0, ConfirmVerdict.SLOWER),
        (120.0, 3.0, 1, ConfirmVerdict.TOO_SMALL),
    ],
)
def test_throughput_must_stay_within_its_interval_and_without_preemptions(
    rate: float, half_width: float, preemptions: int, said: ConfirmVerdict
) -> None:
    trial = trial_of(8, rate, half_width=half_width, preemptions=preemptions)
    assert verdict([trial], AIM) is said


async def profile_of(engines: Any, request: ProfileRequest) -> Profile:
    return await Profiler(engines).run(request, lambda _: None)


async def test_the_knee_is_confirmed_on_an_engine_as_a_plan_starts_it(
    engines: Any, request_of: RequestOf
) -> None:
    profile = await profile_of(engines, request_of(confirm_memory=True))
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
    assert (engines.running, engines.stops) == (0, 2)


async def test_a_cache_that_is_too_small_is_made_larger(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.base_seconds, traits.slope_seconds = 0.001, 0.01  # flat from the second request on
    asked = request_of(confirm_memory=True, max_batch=16, time_limit_seconds=2)
    first = await profile_of(engines, asked)
    assert first.frontier_memory is not None
    needed = first.frontier_memory.kv_cache_bytes
    assert engines.engines[0].launch.kv_cache_bytes > 2 * needed
    traits.preempts_below_kv_bytes = needed + 1
    profile = await profile_of(engines, asked)
    found = profile.frontier_memory
    assert found is not None
    assert found.confirmed
    assert found.starts == 2
    assert found.kv_cache_bytes > needed


async def test_capacity_is_confirmed_in_open_loop(engines: Any, request_of: RequestOf) -> None:
    asked = request_of(
        confirm_capacity=True,
        min_window_seconds=0.3,
        max_window_seconds=0.4,
        time_limit_seconds=10,
    )
    spec = dataclasses.replace(asked.model.spec, slo=Slo(5.0, 5.0))
    model = dataclasses.replace(asked.model, spec=spec)
    profile = await profile_of(engines, dataclasses.replace(asked, model=model))
    assert 1 <= len(profile.capacity_trials) <= 4
    limit = profile.capacity_trials[0].batch
    assert engines.engines[-1].most_running <= limit
    point = profile.point(limit)
    assert point is not None
    assert profile.capacity_trials[0].req_per_s == pytest.approx(0.8 * point.req_per_s)
    assert profile.capacity_req_per_s is not None
    rates = [(trial.req_per_s, trial.held) for trial in profile.capacity_trials]
    failed = min((rate for rate, held in rates if not held), default=math.inf)
    confirmed = [rate for rate, held in rates if held and rate < failed]
    if confirmed:
        assert profile.capacity_req_per_s == max(confirmed)
    else:  # a machine too busy for the first rate: less is said than what was tried
        assert 0 < profile.capacity_req_per_s < failed
    for trial in profile.capacity_trials:
        assert trial.arrivals >= 20  # forty on average
        assert trial.utilisation is not None
        assert trial.attainment_interval is not None
    assert profile.frontier_memory is None  # not asked for


async def test_a_trial_that_would_not_end_in_time_is_not_begun_and_named(
    engines: Any, request_of: RequestOf
) -> None:
    asked = request_of(
        confirm_memory=True, confirm_capacity=True, min_window_seconds=1.2, time_limit_seconds=4
    )
    profile = await profile_of(engines, asked)
    assert profile.capacity_trials == ()
    assert profile.capacity_req_per_s is None  # so that 0.8 X / E[O] is planned with
    (note,) = [n for n in profile.provenance.notes if "capacity is not confirmed" in n]
    assert "a limit of" in note
    assert profile.frontier_memory is not None


async def test_an_slo_nothing_holds_is_seen_in_the_trials(
    engines: Any, request_of: RequestOf
) -> None:
    asked = request_of(confirm_memory=True, confirm_capacity=True)
    spec = dataclasses.replace(asked.model.spec, slo=Slo(1e-6, 1e-6))
    model = dataclasses.replace(asked.model, spec=spec)
    profile = await profile_of(engines, dataclasses.replace(asked, model=model))
    # No batch holds it, so there is no operating point to confirm.
    assert profile.capacity_trials == ()
    assert profile.frontier_memory is None
    assert profile.points


async def test_the_papers_mode_is_reported_apart(engines: Any, request_of: RequestOf) -> None:
    profile = await profile_of(engines, request_of(paper_requests=12))
    mode = profile.paper_mode
    assert mode is not None
    assert mode.requests == 12
    assert mode.batch == engines.engines[-1].launch.max_num_seqs
    assert mode.output_tokens_per_s == pytest.approx(8 * mode.req_per_s)
    assert mode.mean_e2el_seconds > 0


async def test_a_second_start_that_fails_costs_only_its_part(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    def fail_later(progress: Progress) -> None:
        traits.fails_to_start = bool(engines.stops)

    request = request_of(confirm_memory=True, confirm_capacity=True)
    first = engines.stop

    async def stop(*arguments: Any) -> Any:
        traits.fails_to_start = True
        return await first(*arguments)

    engines.stop = stop
    profile = await Profiler(engines).run(request, fail_later)
    assert profile.points
    assert profile.frontier_memory is None
    assert any("confirming start" in note for note in profile.provenance.notes)
    assert engines.running == 0


async def test_a_start_that_was_refused_is_repeated_as_it_was(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    """More of the memory that was not there would be refused again."""
    first = engines.stop

    async def stop(*arguments: Any) -> Any:
        traits.fails_to_start = engines.stops in {0, 1}  # the two starts after the sweep's
        return await first(*arguments)

    engines.stop = stop
    profile = await profile_of(engines, request_of(confirm_memory=True))
    found = profile.frontier_memory
    assert found is not None
    assert found.confirmed
    assert found.starts == 3
    assert {e.launch.kv_cache_bytes for e in engines.engines[1:]} == {found.kv_cache_bytes}
    failed = [note for note in profile.provenance.notes if "confirming start" in note]
    assert len(failed) == 2
