"""The profiler reports an engine of known speed correctly, and leaves nothing behind."""

import asyncio
import dataclasses
import re
from typing import Any

import pytest

from partitiond.core.errors import EngineError, ExitedError, InputError, StartFailedError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.spec import EngineOptions, Slo
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.points import LimitedBy
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB
from partitiond.profiler.runner import Profiler
from partitiond.serde import from_json, to_json
from tests.profiler.samples import TOLD, FakeTelemetry, request_of


async def profiled(engines: Any, **changes: Any) -> Profile:
    """A profile of batches up to two, unless the request is for others."""
    asked = request_of(**{"max_batch": 2, **changes})
    profile = await Profiler(engines).run(asked, lambda _: None)
    assert engines.running == 0
    assert engines.stops == len(engines.engines)
    return profile


def notes(profile: Profile) -> str:
    return " ".join(profile.provenance.notes)


async def test_a_profile_holds_what_each_batch_gave(engines: Any) -> None:
    profile = await profiled(engines, max_batch=4)
    assert {1, 4} <= {p.batch for p in profile.points}
    assert max(p.windows for p in profile.points) >= 2
    assert profile.kind is ProfileKind.MEASURED
    for point in profile.points:
        step_seconds = 0.04 + 0.005 * point.batch
        # A request that follows another one misses a part of a step.
        assert point.output_tokens_per_s == pytest.approx(point.batch / step_seconds, rel=0.15)
        assert point.req_per_s == pytest.approx(point.output_tokens_per_s / 8)
        # 8 tokens in for 8 tokens out
        assert point.prompt_tokens_per_s == pytest.approx(point.output_tokens_per_s, rel=0.3)
        assert point.tpot.p50 == pytest.approx(step_seconds, rel=0.15)
        assert point.running_mean <= point.batch
        assert (point.kv_usage_mean, point.kv_usage_max) == (0.5, 0.5)
        assert (point.attainment, point.goodput_req_per_s) == (None, None)
    sizes = [p.footprint_bytes for p in profile.points]
    assert sizes == sorted(sizes)
    assert profile.footprint.peak_bytes == 3 * GIB + 4 * 1_000_000


async def test_a_profile_says_how_it_came_to_be(engines: Any) -> None:
    profile = await profiled(engines)
    made = profile.provenance
    assert (made.engine, made.engine_version, made.weights) == ("vllm", "test-1", "dummy")
    assert (made.model_revision, made.driver, made.host_cores) == ("rev", "6.1", (1,))
    assert made.seed == 3
    assert made.duration_seconds > 0
    assert {"--max-num-seqs=2", "--no-enable-prefix-caching"} <= set(made.engine_args)
    assert (profile.size.key, profile.hardware) == ("cores-1", "cpu-test")
    assert (profile.dtype, profile.kv_cache_tokens) == ("bfloat16", 4096)
    assert profile.max_num_batched_tokens == 2048
    assert from_json(Profile, to_json(profile)) == profile
    (engine,) = engines.engines
    launch = engine.launch
    assert (launch.max_num_seqs, launch.cores, launch.prefix_caching) == (2, (1,), False)
    assert launch.kv_cache_bytes % (128 * 23040) == 0
    assert engine.most_running == 2


async def test_the_memory_budget_limits_the_batch(engines: Any) -> None:
    with pytest.raises(InputError, match="not even one"):
        await profiled(engines, memory_bytes=GIB)
    assert engines.engines == []
    tight = 2 * GIB + 900 * 2**20
    profile = await profiled(engines, max_batch=512, memory_bytes=tight, time_limit_seconds=10)
    assert engines.engines[0].launch.max_num_seqs < 512
    assert profile.points


async def test_progress_names_the_batch_and_the_time_left(engines: Any) -> None:
    seen: list[Progress] = []
    await Profiler(engines).run(request_of(max_batch=2), seen.append)
    assert seen[0].phase == "starting"
    assert "loading weights" in {p.message for p in seen}
    measuring = [p for p in seen if p.phase == "measuring"]
    assert any(re.match(r"batch 2 \(\w+\), \d+ tokens/s", p.message) for p in measuring)
    assert all(p.seconds_left is not None and 0 <= p.seconds_left <= 200 for p in measuring)
    assert all(p.fraction is not None and 0 <= p.fraction <= 1 for p in measuring)


@pytest.mark.parametrize(
    ("trait", "error", "said"),
    [
        ({"fails_to_start": True}, StartFailedError, "it cannot start"),
        ({"dies_at_batch": 1}, ExitedError, "out of memory\n    std::bad_alloc"),
        ({"refuses_every": 1}, EngineError, "oops"),
    ],
)
async def test_an_engine_that_cannot_be_measured_is_stopped_and_says_why(
    engines: Any, traits: Any, trait: dict[str, Any], error: type[EngineError], said: str
) -> None:
    vars(traits).update(trait)
    with pytest.raises(error, match=said) as caught:
        await profiled(engines, max_batch=512, memory_bytes=12 * GIB)
    if error is ExitedError:
        assert caught.value.facts["lines"] == ["std::bad_alloc"]
    assert engines.running == 0
    assert engines.stops == len(engines.engines) <= 4  # one that always dies is given up


@pytest.mark.parametrize(
    ("trait", "said"),
    [({"dies_at_batch": 4}, "out of memory"), ({"hangs_at_batch": 4}, "stalled: no token came")],
)
async def test_an_engine_that_ends_at_a_batch_is_started_again_below_it(
    engines: Any, traits: Any, trait: dict[str, Any], said: str
) -> None:
    vars(traits).update(trait)
    asked = request_of(max_batch=8)
    profile = await Profiler(engines, stall_seconds=2.0).run(asked, lambda _: None)
    assert 1 < max(p.batch for p in profile.points) < 4
    assert profile.knee.limited_by is LimitedBy.MEMORY
    assert "started again below the batch that ended the engine" in notes(profile)
    assert said in notes(profile)
    assert engines.running == 0
    assert engines.stops == len(engines.engines) > 1


@pytest.mark.parametrize("late", ["once", "always"])
async def test_a_trial_with_a_saturated_instrument_is_made_again_once(
    engines: Any, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    trials = []

    def saturation(_: object) -> tuple[str, ...]:
        trials.append(1)  # the first one is of the warm-up
        return ("it was late",) if late == "always" or len(trials) == 2 else ()

    monkeypatch.setattr("partitiond.profiler.sweep.trial.saturation", saturation)
    profile = await profiled(engines)
    assert ("was measured again: it was late" in notes(profile)) == (late == "once")
    assert len(trials) == sum(p.windows for p in profile.points) + 2
    assert ("do not trust batch 1, 2: it was late" in notes(profile)) == (late == "always")
    assert ("do not trust" in notes(profile)) == (late == "always")


@pytest.mark.parametrize("phase", ["starting", "measuring"])
async def test_cancelling_leaves_no_engine(engines: Any, phase: str) -> None:
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


async def test_on_a_gpu_the_rise_of_device_memory_counts(engines: Any) -> None:
    asked = request_of(max_batch=2)
    gpu = dataclasses.replace(asked.device, id="GPU-1", kind=DeviceKind.GPU)
    used = iter([1 * GIB, *[6 * GIB] * 100])
    profiler = Profiler(engines, device_used_bytes=lambda _: next(used))
    profile = await profiler.run(dataclasses.replace(asked, device=gpu), lambda _: None)
    assert profile.footprint.peak_bytes == 5 * GIB
    assert profile.size.key == "whole"
    assert engines.engines[0].launch.visible_device == "GPU-1"


@pytest.mark.parametrize(("bound", "share"), [(100.0, 1.0), (0.0001, 0.0)])
async def test_goodput_is_counted_against_the_models_slo(
    engines: Any, bound: float, share: float
) -> None:
    profile = await profiled(engines, slo=Slo(bound, bound))
    for point in profile.points:
        assert point.attainment == share
        assert point.goodput_req_per_s == pytest.approx(share * point.req_per_s)
    assert profile.slo == Slo(bound, bound)


async def test_every_window_is_listened_to(engines: Any) -> None:
    profiler = Profiler(engines, telemetry=FakeTelemetry(TOLD))
    profile = await profiler.run(request_of(max_batch=2), lambda _: None)
    for point in profile.points:
        assert point.telemetry is not None
        assert point.telemetry.power_watts == pytest.approx(50.0)
        assert point.telemetry.energy_joules == pytest.approx(10.0 * point.windows)
        assert point.idle_share == pytest.approx(0.75)
        assert point.joules_per_output_token is not None
        assert point.joules_per_output_token > 0


async def test_requests_have_the_lengths_of_the_workload(engines: Any) -> None:
    profile = await profiled(engines, workload=Workload.of_trace(((4, 3), (8, 9))))
    asked = {body["max_tokens"] for body in engines.bodies}
    assert {3, 9} <= asked <= {1, 2, 3, 5, 9}  # first requests are shortened
    two = profile.point(2)
    assert two is not None
    assert two.req_per_s == pytest.approx(two.output_tokens_per_s / 6)


async def test_the_engine_is_started_with_every_axis(engines: Any) -> None:
    options = EngineOptions(
        max_model_len=256, kv_cache_dtype="fp8", max_num_batched_tokens=64, quantization="fp8"
    )
    profile = await profiled(engines, engine=options)
    launch = engines.engines[0].launch
    assert (launch.kv_cache_dtype, launch.quantization) == ("fp8", "fp8")
    assert launch.max_num_batched_tokens == 64
    assert launch.kv_cache_bytes % (128 * 23040 // 2) == 0
    assert (profile.kv_cache_dtype, profile.max_num_batched_tokens) == ("fp8", 64)
    assert {"--quantization=fp8", "--kv-cache-dtype=fp8"} <= set(profile.provenance.engine_args)
