"""What the contract suite does not show: refusals, leftovers, late and cancelled starts."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError, StartFailedError, StartTimedOutError
from partitiond.engines import process
from partitiond.engines.environment import EngineEnvironment
from partitiond.engines.journal import LAST_LOGS, RunFolder
from partitiond.engines.runner import ProcessEngineRunner
from partitiond.ports import EngineLaunch
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]


def vllm(launch: EngineLaunch) -> EngineLaunch:
    return dataclasses.replace(launch, engine_kind="vllm", extra_args=())


async def test_a_start_that_takes_too_long_is_told_and_can_be_stopped(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    handle = await runner.start(simulated_launch("slow-0", "--load-seconds", "60"))
    with pytest.raises(StartTimedOutError, match="slow-0 was not ready"):
        await runner.wait_ready(handle, 0.3)
    await runner.stop(handle, 0.0)
    assert list(await runner.find()) == []


async def test_a_crash_is_seen_with_its_signal(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    handle = await runner.start(simulated_launch("sim-0", "--crash-after-requests", "1"))
    await runner.wait_ready(handle, 20)
    assert not await runner.probe(handle, 5)
    ended = await asyncio.wait_for(runner.wait_exit(handle), 20)
    assert ended.code == -9
    assert "signal 9" in ended.diagnosis


async def test_a_failed_start_carries_the_engines_own_words(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    handle = await runner.start(
        simulated_launch("sim-0", "--fail-start", "torch.OutOfMemoryError: CUDA out of memory")
    )
    with pytest.raises(StartFailedError, match="not enough memory") as caught:
        await runner.wait_ready(handle, 20)
    assert caught.value.facts["kind"] == "out-of-memory"
    assert caught.value.facts["code"] == 1
    assert caught.value.hint


async def test_a_stopped_engine_can_be_started_again_under_its_name(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    generations = set()
    for _ in range(2):
        handle = await runner.start(simulated_launch())
        await runner.wait_ready(handle, 20)
        generations.add(handle.generation)
        await runner.stop(handle, 5)
    assert len(generations) == 2
    assert (short_dir / LAST_LOGS / "sim-0.log").exists()


async def test_an_old_handle_does_not_touch_the_newer_engine(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    old = await runner.start(simulated_launch())
    await runner.stop(old, 5)
    new = await runner.start(simulated_launch())
    try:
        await runner.wait_ready(new, 20)
        ended = await runner.stop(old, 5)
        assert "replaced" in ended.diagnosis
        assert await runner.probe(new, 5)
    finally:
        await runner.stop(new, 5)


async def test_long_replica_names_still_get_a_socket(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    launch = simulated_launch("a-model-with-a-name-of-sixty-three-letters-as-long-as-it-gets-0-12")
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, 20)
        assert [found.launch.replica_id for found in await runner.find()] == [launch.replica_id]
    finally:
        await runner.stop(handle, 5)


async def test_a_run_folder_that_is_too_deep_is_refused_with_the_reason(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir / ("x" * 90), None)
    with pytest.raises(StartFailedError, match="socket path") as caught:
        await runner.start(simulated_launch())
    assert "run_dir" in caught.value.hint


async def test_without_an_environment_vllm_is_unavailable_and_simulated_is_not(
    short_dir: Path,
) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    with pytest.raises(EngineUnavailableError, match="no vLLM environment"):
        await runner.start(vllm(simulated_launch()))
    assert list(await runner.find()) == []


async def test_the_environment_is_looked_for_at_each_start(short_dir: Path) -> None:
    asked = 0

    def look() -> EngineEnvironment:
        nonlocal asked
        asked += 1
        return EngineEnvironment(Path("/usr/bin/false"), "0.99.0", "cpu")

    runner = ProcessEngineRunner(short_dir, look)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match=r"0\.99\.0 is not known"):
            await runner.start(vllm(simulated_launch()))
    assert asked == 2


async def test_a_folder_without_a_process_is_cleared(short_dir: Path) -> None:
    """The daemon died between writing the launch and starting it."""
    folder = RunFolder.of(short_dir, "sim-0")
    folder.prepare(simulated_launch(), {"argv": []})
    runner = ProcessEngineRunner(short_dir, None)
    assert list(await runner.find()) == []
    assert not folder.path.is_dir()


async def test_a_cancelled_start_leaves_no_engine(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    starting = asyncio.create_task(runner.start(simulated_launch()))
    while not RunFolder.of(short_dir, "sim-0").path.is_dir():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    folder = RunFolder.of(short_dir, "sim-0")
    assert process.processes_of(folder.path, folder.process()) == []


async def test_finding_does_not_disturb_an_engine_that_is_being_started(short_dir: Path) -> None:
    runner = ProcessEngineRunner(short_dir, None)
    starting = asyncio.create_task(runner.start(simulated_launch()))
    while not starting.done():
        await runner.find()
        await asyncio.sleep(0)
    handle = await starting
    try:
        await runner.wait_ready(handle, 20)
    finally:
        await runner.stop(handle, 5)
