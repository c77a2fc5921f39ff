"""The profiler reports an engine of known speed correctly, and leaves nothing behind."""

import asyncio
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest

from partitiond.core.errors import EngineError, ExitedError, InputError, StartFailedError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.spec import EngineOptions, Slo
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.points import LimitedBy, Telemetry
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB
from partitiond.devices.telemetry.fake import FakeTelemetry
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from partitiond.serde import from_json, to_json

RequestOf = Callable[..., ProfileRequest]


def ignore(_: Progress) -> None:
    return None


async def test_a_profile_holds_what_each_batch_gave(engines: Any, request_of: RequestOf) -> None:
    profile = await Profiler(engines).run(request_of(), ignore)
    assert {1, 4} <= {p.batch for p in profile.points}
    assert max(p.windows for p in profile.points) >= 2
    assert profile.kind is ProfileKind.MEASURED
    # one request at a time: 4.5 ms a step and what the loop adds
    first = profile.point(1)
    assert first is not None
    assert 60 < first.output_tokens_per_s < 230
    assert first.req_per_s == pytest.approx(first.output_tokens_per_s / 8)
    assert first.tpot.p50 >= 0.0045
    assert first.running_mean <= 1.01
    assert engines.running == 0


async def test_a_profile_says_how_it_came_to_be(engines: Any, request_of: RequestOf) -> None:
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    made = profile.provenance
    assert (made.engine, made.engine_version, made.weights) == ("vllm", "test-1", "dummy")
    assert (made.model_revision, made.driver, made.host_cores) == ("rev", "6.1", (1,))
    assert made.seed == 3
    assert made.duration_seconds > 0
    assert "--max-num-seqs=2" in made.engine_args
    assert "--no-enable-prefix-caching" in made.engine_args
    assert (profile.size.key, profile.hardware, profile.dtype) == (
        "cores-1",
        "cpu-test",
        "bfloat16",
    )
    assert profile.kv_cache_tokens == 4096


async def test_a_profile_survives_json(engines: Any, request_of: RequestOf) -> None:
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    assert from_json(Profile, to_json(profile)) == profile


async def test_growth_that_the_largest_batch_ended_has_no_knee(
    engines: Any, request_of: RequestOf
) -> None:
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    assert profile.knee.batch is None
    assert profile.knee.limited_by is LimitedBy.CAP
    assert profile.knee.largest_batch == 2


async def test_one_engine_start_with_limits_at_the_largest_batch(
    engines: Any, request_of: RequestOf
) -> None:
    await Profiler(engines).run(request_of(max_batch=2), ignore)
    (engine,) = engines.engines
    launch = engine.launch
    assert (launch.max_num_seqs, launch.cores, launch.prefix_caching) == (2, (1,), False)
    assert launch.kv_cache_bytes % (128 * 23040) == 0
    assert engine.most_running == 2
    assert engines.stops == 1


async def test_footprints_grow_with_the_batch_and_hold_its_kv_cache(
    engines: Any, request_of: RequestOf
) -> None:
    profile = await Profiler(engines).run(request_of(), ignore)
    sizes = [p.footprint_bytes for p in profile.points]
    assert sizes == sorted(sizes)
    footprint = profile.footprint
    assert footprint.peak_bytes == 3 * GIB + 4 * 1_000_000
    terms = (
        footprint.weights_bytes
        + footprint.kv_cache_bytes
        + footprint.activation_bytes
        + footprint.graph_bytes
        + footprint.context_bytes
    )
    assert footprint.peak_bytes == terms + footprint.unexplained_bytes


async def test_the_memory_budget_limits_the_batch(engines: Any, request_of: RequestOf) -> None:
    tight = request_of(max_batch=512, memory_bytes=2 * GIB + 900 * 2**20, time_limit_seconds=1)
    profile = await Profiler(engines).run(tight, ignore)
    assert engines.engines[0].launch.max_num_seqs < 512
    assert profile.points


async def test_a_model_that_does_not_fit_is_refused_before_anything_starts(
    engines: Any, request_of: RequestOf
) -> None:
    with pytest.raises(InputError, match="not even one"):
        await Profiler(engines).run(request_of(memory_bytes=GIB), ignore)
    assert engines.engines == []


async def test_progress_names_the_batch_and_the_time_left(
    engines: Any, request_of: RequestOf
) -> None:
    seen: list[Progress] = []
    await Profiler(engines).run(request_of(max_batch=2), seen.append)
    assert seen[0].phase == "starting"
    assert "loading weights" in {p.message for p in seen}
    measuring = [p for p in seen if p.phase == "measuring"]
    assert any(re.match(r"batch 2 \(\w+\), \d+ tokens/s", p.message) for p in measuring)
    assert all(p.seconds_left is not None and 0 <= p.seconds_left <= 20 for p in measuring)
    assert all(p.fraction is not None and 0 <= p.fraction <= 1 for p in measuring)


async def test_a_batch_with_preemptions_cannot_be_the_knee(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.preempts_at_batch = 4
    profile = await Profiler(engines).run(request_of(max_batch=8), ignore)
    limited = [p for p in profile.points if p.kv_limited]
    assert limited
    assert all(p.preemptions > 0 and p.batch >= 4 for p in limited)
    assert profile.knee.largest_batch <= 3
    assert profile.knee.batch is not None or profile.knee.limited_by is LimitedBy.MEMORY


async def test_an_engine_that_does_not_start_is_stopped(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.fails_to_start = True
    with pytest.raises(StartFailedError):
        await Profiler(engines).run(request_of(), ignore)
    assert (engines.running, engines.stops) == (0, 1)


async def test_an_engine_that_dies_at_once_is_a_clear_error(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.dies_at_batch = 1
    with pytest.raises(ExitedError, match="out of memory") as caught:
        await Profiler(engines).run(request_of(), ignore)
    assert caught.value.message.endswith("\n    std::bad_alloc")
    assert caught.value.facts["lines"] == ["std::bad_alloc"]


async def test_an_engine_that_dies_of_a_batch_is_started_again_below_it(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.dies_at_batch = 4
    profile = await Profiler(engines).run(request_of(max_batch=8), ignore)
    assert max(p.batch for p in profile.points) in {2, 3}
    assert len(profile.points) > 1
    assert profile.knee.batch is not None or profile.knee.limited_by is LimitedBy.MEMORY
    notes = " ".join(profile.provenance.notes)
    assert "started again below the batch that ended the engine" in notes
    assert "out of memory" in notes
    assert engines.running == 0
    assert engines.stops == len(engines.engines) > 1


async def test_an_engine_that_dies_on_a_second_visit_is_not_planned_at_that_batch(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.dies_on_visit = (4, 2)
    profile = await Profiler(engines).run(request_of(), ignore)
    four = profile.point(4)
    assert four is not None
    assert four.kv_limited
    assert profile.knee.largest_batch < 4
    assert "later visit of batch 4" in " ".join(profile.provenance.notes)


async def test_an_engine_that_hangs_is_started_again_below_that_batch(
    engines: Any, traits: Any, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.profiler.sweep.bench.DEATH_NOTICE_SECONDS", 0.1)
    traits.hangs_at_batch = 4
    profile = await Profiler(engines, stall_seconds=0.5).run(request_of(), ignore)
    assert 1 < max(p.batch for p in profile.points) < 4
    notes = " ".join(profile.provenance.notes)
    assert "stalled: no token came for" in notes
    assert engines.running == 0
    assert engines.stops == len(engines.engines) > 1


async def test_a_trial_with_a_saturated_instrument_is_made_again_once(
    engines: Any, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([(), ("it was late",)])  # of the warm-up and of the first trial
    monkeypatch.setattr("partitiond.profiler.sweep.trial.saturation", lambda _: next(verdicts, ()))
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    notes = " ".join(profile.provenance.notes)
    assert "was measured again: it was late" in notes
    assert "do not trust" not in notes


async def test_a_host_that_always_saturates_it_is_not_measured_twice(
    engines: Any, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def always(_: object) -> tuple[str, ...]:
        calls.append(1)
        return ("it was late",)

    monkeypatch.setattr("partitiond.profiler.sweep.trial.saturation", always)
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    trials = sum(p.windows for p in profile.points)
    assert len(calls) == trials + 2  # a warm-up, and one trial made again
    assert "do not trust batch 1, 2: it was late" in " ".join(profile.provenance.notes)


async def test_an_engine_that_always_dies_is_given_up(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.dies_at_batch = 1
    with pytest.raises(ExitedError):
        await Profiler(engines).run(request_of(max_batch=512, memory_bytes=12 * GIB), ignore)
    assert engines.running == 0
    assert len(engines.engines) <= 4


async def test_failed_requests_end_the_sweep_with_the_engines_words(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.refuses_at_batch = 1
    with pytest.raises(EngineError, match="oops"):
        await Profiler(engines).run(request_of(), ignore)
    assert engines.running == 0


@pytest.mark.parametrize("phase", ["starting", "measuring"])
async def test_cancelling_leaves_no_engine(engines: Any, request_of: RequestOf, phase: str) -> None:
    reached = asyncio.Event()

    def show(progress: Progress) -> None:
        if progress.phase == phase and engines.engines:
            reached.set()

    task = asyncio.create_task(Profiler(engines).run(request_of(), show))
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # an impatient caller must not leave the engine behind either
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engines.running, engines.stops) == (0, 1)


async def test_on_a_gpu_the_rise_of_device_memory_counts(
    engines: Any, request_of: RequestOf
) -> None:
    asked = request_of(max_batch=2)
    gpu = dataclasses.replace(asked.device, id="GPU-1", kind=DeviceKind.GPU)
    used = iter([1 * GIB, *[6 * GIB] * 100])
    profiler = Profiler(engines, device_used_bytes=lambda _: next(used))
    profile = await profiler.run(dataclasses.replace(asked, device=gpu), ignore)
    assert profile.footprint.peak_bytes == 5 * GIB
    assert profile.size.key == "whole"
    assert engines.engines[0].launch.visible_device == "GPU-1"


async def test_points_say_what_went_in_and_how_full_the_cache_was(
    engines: Any, request_of: RequestOf
) -> None:
    profile = await Profiler(engines).run(request_of(max_batch=2), ignore)
    two = profile.point(2)
    assert two is not None
    # 8 tokens in for 8 tokens out
    assert two.prompt_tokens_per_s == pytest.approx(two.output_tokens_per_s, rel=0.3)
    assert (two.kv_usage_mean, two.kv_usage_max) == (0.5, 0.5)
    assert (two.attainment, two.goodput_req_per_s) == (None, None)
    assert profile.step_time is not None
    assert profile.max_num_batched_tokens == 2048


@pytest.mark.parametrize(("bound", "share"), [(10.0, 1.0), (0.0001, 0.0)])
async def test_goodput_is_counted_against_the_models_slo(
    engines: Any, request_of: RequestOf, bound: float, share: float
) -> None:
    asked = with_spec(request_of(max_batch=2), slo=Slo(bound, bound))
    profile = await Profiler(engines).run(asked, ignore)
    for point in profile.points:
        assert point.attainment == share
        assert point.goodput_req_per_s == pytest.approx(share * point.req_per_s)
    assert profile.slo == Slo(bound, bound)


async def test_every_window_is_listened_to(engines: Any, request_of: RequestOf) -> None:
    says = Telemetry("test", power_watts=50.0, energy_joules=10.0, cores_used=0.25)
    telemetry = FakeTelemetry(says)
    profile = await Profiler(engines, telemetry=telemetry).run(request_of(max_batch=2), ignore)
    for point in profile.points:
        assert point.telemetry is not None
        assert point.telemetry.power_watts == pytest.approx(50.0)
        assert point.telemetry.energy_joules == pytest.approx(10.0 * point.windows)
        assert point.idle_share == pytest.approx(0.75)
        assert point.joules_per_output_token is not None
        assert point.joules_per_output_token > 0


async def test_requests_have_the_lengths_of_the_workload(
    engines: Any, request_of: RequestOf
) -> None:
    asked = with_spec(request_of(max_batch=2), workload=Workload.of_trace(((4, 3), (8, 9))))
    profile = await Profiler(engines).run(asked, ignore)
    assert engines.asked_lengths >= {3, 9}
    assert engines.asked_lengths <= {1, 2, 3, 5, 9}  # first requests are shortened
    two = profile.point(2)
    assert two is not None
    assert two.req_per_s == pytest.approx(two.output_tokens_per_s / 6)


async def test_answers_are_constrained_when_asked(engines: Any, request_of: RequestOf) -> None:
    asked = request_of(max_batch=1, structured_output=True)
    profile = await Profiler(engines).run(asked, ignore)
    assert profile.structured_output
    assert engines.bodies
    for body in engines.bodies:
        assert body["structured_outputs"]["json"]["type"] == "object"


async def test_the_engine_is_started_with_every_axis(engines: Any, request_of: RequestOf) -> None:
    options = EngineOptions(
        max_model_len=256, kv_cache_dtype="fp8", max_num_batched_tokens=64, quantization="fp8"
    )
    profile = await Profiler(engines).run(with_spec(request_of(), engine=options), ignore)
    launch = engines.engines[0].launch
    assert (launch.kv_cache_dtype, launch.quantization) == ("fp8", "fp8")
    assert launch.max_num_batched_tokens == 64
    assert launch.kv_cache_bytes % (128 * 23040 // 2) == 0
    assert (profile.kv_cache_dtype, profile.max_num_batched_tokens) == ("fp8", 64)
    assert "--quantization=fp8" in profile.provenance.engine_args
    assert "--kv-cache-dtype=fp8" in profile.provenance.engine_args


def with_spec(request: ProfileRequest, **changes: Any) -> ProfileRequest:
    spec = dataclasses.replace(request.model.spec, **changes)
    return dataclasses.replace(request, model=dataclasses.replace(request.model, spec=spec))
