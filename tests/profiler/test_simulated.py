"""The profiler works through the real runner, with the shipped simulated engine."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.model.spec import EngineOptions, Slo
from partitiond.core.profile.jobs import Progress
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.process_identity import ProcessId, is_alive
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from tests.profiler.samples import request_of, with_spec
from tests.proxy.virtual import real_time

pytestmark = real_time


class Remembering(ProcessEngineRunner):
    """Knows the processes of its engines."""

    handles: tuple[EngineHandle, ...] = ()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        handle = await super().start(launch)
        self.handles += (handle,)
        return handle


@pytest.fixture
def runner(tmp_path: Path) -> Remembering:
    return Remembering(tmp_path / "run", None)


def simulated(folder: Path, **changes: Any) -> ProfileRequest:
    given: dict[str, Any] = {"cores": (0,), "min_window_seconds": 0.1, "max_window_seconds": 0.3}
    given |= {"time_limit_seconds": 30, "engine_kind": "simulated", **changes}
    asked = request_of(engine=EngineOptions(max_model_len=256), **given)
    return dataclasses.replace(asked, model=dataclasses.replace(asked.model, folder=folder))


async def test_a_profile_is_whole_or_ended_at_once_and_leaves_no_engine(
    runner: Remembering, tmp_path: Path
) -> None:
    asked = simulated(tmp_path, confirm_memory=True)
    measuring = asyncio.Event()

    def show(now: Progress) -> None:
        if now.phase == "measuring":
            measuring.set()

    task = asyncio.create_task(Profiler(runner).run(asked, show))
    await measuring.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (handle,) = runner.handles
    assert not is_alive(ProcessId(handle.pid, handle.start_ticks, handle.boot_id))
    profile = await Profiler(runner).run(asked, lambda _: None)
    assert not any("disagree on tokens" in note for note in profile.provenance.notes)
    assert {1, 4} <= {p.batch for p in profile.points}
    assert profile.provenance.engine == "simulated"
    assert profile.frontier_memory is not None
    assert profile.footprint.peak_bytes > 0
    assert list(await runner.find()) == []
    assert list((tmp_path / "run").glob("profile-*")) == []


@pytest.mark.parametrize("flag", ["--runner=pooling", "--convert=classify"])
async def test_an_engine_that_pools_is_measured_by_its_answers(
    runner: Remembering, tmp_path: Path, flag: str
) -> None:
    engine = EngineOptions(max_model_len=256, extra_args=(flag,))
    asked = dataclasses.replace(simulated(tmp_path, confirm_capacity=True), max_batch=2)
    asked = with_spec(asked, engine=engine, slo=Slo(ttft_seconds=60.0, tpot_seconds=60.0))
    profile = await Profiler(runner).run(asked, lambda _: None)
    rates = {point.batch: point.req_per_s for point in profile.points}
    assert rates.keys() == {1, 2}
    assert min(rates.values()) > 0
    assert all(0 < p.ttft.mean <= p.e2el.mean for p in profile.points)
    assert profile.capacity_trials
