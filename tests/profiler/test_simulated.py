"""The profiler works through the real runner, with the shipped simulated engine."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.signals import ProcessId, is_alive
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler

RequestOf = Callable[..., ProfileRequest]


class Remembering(ProcessEngineRunner):
    """Knows the processes of its engines."""

    pids: tuple[int, ...] = ()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        handle = await super().start(launch)
        self.pids += (handle.pid,)
        return handle


@pytest.fixture
def simulated_request(request_of: RequestOf, tmp_path: Path) -> ProfileRequest:
    asked = request_of(max_batch=4, cores=(0,), time_limit_seconds=30, max_window_seconds=0.5)
    model = dataclasses.replace(
        asked.model,
        folder=tmp_path,
        spec=dataclasses.replace(asked.model.spec, engine_kind="simulated"),
    )
    return dataclasses.replace(asked, model=model)


async def test_a_simulated_engine_is_profiled_and_gone_afterwards(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    runner = ProcessEngineRunner(tmp_path / "run", None)
    seen: list[Progress] = []
    profile: Profile = await Profiler(runner).run(simulated_request, seen.append)
    assert {1, 4} <= {p.batch for p in profile.points}
    assert profile.provenance.engine == "simulated"
    one, four = profile.point(1), profile.point(4)
    assert one is not None
    assert four is not None
    # 7 decode steps of 10 ms and half a step of prefill; other work on the machine slows it
    assert 25 < one.output_tokens_per_s <= 1.02 * 8 / 0.075
    assert four.output_tokens_per_s > 1.5 * one.output_tokens_per_s
    assert one.tpot.p50 >= 0.009
    assert 0 < four.running_mean <= 4
    assert not any("disagree on tokens" in note for note in profile.provenance.notes)
    assert profile.footprint.peak_bytes > 0
    assert list(await runner.find()) == []
    assert list((tmp_path / "run").glob("profile-*")) == []


async def test_cancelling_ends_the_engines_process_at_once(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    runner = ProcessEngineRunner(tmp_path / "run", None)
    measuring = asyncio.Event()

    def show(progress: Progress) -> None:
        if progress.phase == "measuring":
            measuring.set()

    task = asyncio.create_task(Profiler(runner).run(simulated_request, show))
    await measuring.wait()
    (handle,) = await runner.find()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(ProcessId(handle.pid, handle.start_ticks, handle.boot_id))
    assert list(await runner.find()) == []


async def test_an_engine_that_crashes_at_a_batch_is_profiled_below_it(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    crashing = with_args(simulated_request, "--crash-at-running", "4")
    runner = ProcessEngineRunner(tmp_path / "run", None)
    profile = await Profiler(runner).run(crashing, lambda _: None)
    assert max(p.batch for p in profile.points) < 4
    notes = " ".join(profile.provenance.notes)
    assert "ended by signal 9" in notes
    assert list(await runner.find()) == []


@pytest.mark.full
async def test_an_engine_that_hangs_is_ended_and_profiled_below_that_batch(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    runner = Remembering(tmp_path / "run", None)
    stopped: list[int] = []

    def show(progress: Progress) -> None:
        if progress.message.startswith("batch 4 ") and not stopped:
            stopped.append(runner.pids[-1])
            os.killpg(stopped[0], signal.SIGSTOP)

    profiler = Profiler(runner, stall_seconds=1.0, stop_grace_seconds=0.5)
    asked = dataclasses.replace(  # windows long enough to hang in the first one of batch 4
        simulated_request, min_window_seconds=1.0, max_window_seconds=1.0, time_limit_seconds=12
    )
    profile = await profiler.run(asked, show)
    assert stopped
    assert max(p.batch for p in profile.points) < 4
    assert "stalled: no token came for" in " ".join(profile.provenance.notes)
    assert list(await runner.find()) == []


async def test_an_interrupted_profile_goes_on_with_the_trials_it_has(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / "one.jsonl"
    asked = dataclasses.replace(simulated_request, checkpoint=path, confirm_memory=True)
    runner = ProcessEngineRunner(tmp_path / "run", None)
    kept = asyncio.Event()

    def show(_: Progress) -> None:
        if path.exists() and path.read_bytes().count(b"\n") >= 3:
            kept.set()

    task = asyncio.create_task(Profiler(runner).run(asked, show))
    await kept.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    trials = path.read_bytes().count(b"\n") - 1
    profile = await Profiler(runner).run(asked, lambda _: None)
    assert f"resumed after an interruption, with {trials} finished trials" in (
        profile.provenance.notes
    )
    assert profile.frontier_memory is not None
    assert path.exists()  # until somebody has kept the profile
    asked.forget()
    assert not path.exists()


async def test_a_failed_profile_keeps_its_log_and_its_error_quotes_it(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    failing = with_args(simulated_request, "--fail-start", "ValueError: no such layer")
    with pytest.raises(StartFailedError) as caught:
        await Profiler(ProcessEngineRunner(tmp_path / "run", None)).run(failing, lambda _: None)
    assert "no such layer" in caught.value.message.splitlines()[-1]
    assert "no such layer" in str(caught.value.facts["lines"])
    (folder,) = (tmp_path / "run").glob("profile-*")
    assert "no such layer" in (folder / "engine.log").read_text()


def with_args(request: ProfileRequest, *args: str) -> ProfileRequest:
    spec = request.model.spec
    engine = dataclasses.replace(spec.engine, extra_args=args)
    model = dataclasses.replace(request.model, spec=dataclasses.replace(spec, engine=engine))
    return dataclasses.replace(request, model=model)
