"""The profiler against an engine of known speed: what it reports, and what it leaves behind."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from partitiond.core.errors import EngineError, ExitedError, InputError, StartFailedError
from partitiond.core.hardware import DeviceKind
from partitiond.core.profile import LimitedBy, Profile, ProfileKind
from partitiond.core.units import GIB
from partitiond.ports import ProfileRequest, Progress
from partitiond.profiler.runner import Profiler
from partitiond.serde import from_json, to_json

RequestOf = Callable[..., ProfileRequest]


def ignore(_: Progress) -> None:
    return None


async def test_a_profile_holds_each_batch_measured_twice(
    engines: Any, request_of: RequestOf
) -> None:
    profile = await Profiler(engines).run(request_of(), ignore)
    assert {1, 2, 4} <= {p.batch for p in profile.points}
    assert all(p.windows >= 2 for p in profile.points)
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
    assert any(p.message.startswith("batch 2 (up), ") for p in measuring)
    assert all(p.seconds_left is not None and 0 <= p.seconds_left <= 20 for p in measuring)
    assert all(p.fraction is not None and 0 <= p.fraction <= 1 for p in measuring)


async def test_a_batch_with_preemptions_cannot_be_the_knee(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.preempts_at_batch = 4
    profile = await Profiler(engines).run(request_of(max_batch=8), ignore)
    limited = profile.point(4)
    assert limited is not None
    assert limited.kv_limited
    assert limited.preemptions > 0
    assert profile.knee.largest_batch == 2
    assert profile.knee.limited_by is LimitedBy.MEMORY


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


async def test_an_engine_that_dies_later_leaves_a_limited_profile(
    engines: Any, traits: Any, request_of: RequestOf
) -> None:
    traits.dies_at_batch = 4
    profile = await Profiler(engines).run(request_of(max_batch=8), ignore)
    assert [p.batch for p in profile.points] == [1, 2]
    assert profile.knee.limited_by is LimitedBy.MEMORY
    notes = " ".join(profile.provenance.notes)
    assert "ended early at batch 4" in notes
    assert "out of memory" in notes
    assert "measured only once" in notes
    assert engines.running == 0


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
