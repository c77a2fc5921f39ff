"""Engines sleep and wake over their own routes: the simulated engine as a process."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from partitiond.core.errors import EngineError
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.vllm.sleeping import NOTE
from partitiond.simulated.engine.sleeping import KV_CACHE, TAGS, WEIGHTS, Sleep
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]


def launch(**changes: object) -> EngineLaunch:
    return dataclasses.replace(simulated_launch(), sleep_mode=True, **changes)  # type: ignore[arg-type]


@pytest.fixture
async def runner(short_dir: Path) -> ProcessEngineRunner:
    return ProcessEngineRunner(short_dir, None)


@pytest.fixture
async def engine(runner: ProcessEngineRunner) -> AsyncIterator[EngineHandle]:
    handle = await runner.start(launch())
    await runner.wait_ready(handle, 60)
    yield handle
    await runner.stop(handle, 5)


async def test_it_sleeps_and_wakes_and_generates_again(
    runner: ProcessEngineRunner, engine: EngineHandle, short_dir: Path
) -> None:
    later = ProcessEngineRunner(short_dir, None)  # of a daemon that did not choose the level
    for level in (1, 2):
        assert await runner.sleep_level(engine, 60) == 0
        await runner.sleep(engine, level)
        assert await runner.sleep_level(engine, 60) == level
        assert not await runner.probe(engine, 0.2)
        (found,) = await later.find()
        assert await later.sleep_level(found, 60) == level
        await later.wake(found)
        assert await runner.probe(engine, 60)
    await runner.sleep(engine, 1)
    async with client_of(engine) as client:
        body = {"model": "tiny", "prompt": [1], "max_tokens": 2}
        waiting = asyncio.create_task(client.post("/v1/completions", json=body))
        await runner.wake(engine)
        assert (await waiting).status_code == 200, "a request is answered once it is awake"


async def test_a_wake_that_was_cut_off_or_a_sleep_without_a_note_gets_its_weights_again(
    runner: ProcessEngineRunner, engine: EngineHandle
) -> None:
    await runner.sleep(engine, 2)
    async with client_of(engine) as client:
        assert (await client.post("/wake_up")).json() == {"status": "awake"}
        assert not await runner.probe(engine, 60)  # its weights are noise
        assert await runner.sleep_level(engine, 60) == 2
        await runner.wake(engine)
        assert await runner.probe(engine, 60)
        assert not (Path(engine.run_dir) / NOTE).exists()
        await client.post("/sleep?level=1")
    assert await runner.sleep_level(engine, 60) == 2
    await runner.wake(engine)
    assert await runner.probe(engine, 60)
    await runner.sleep(engine, 1)
    await runner.stop(engine, 5)
    with pytest.raises(EngineError, match="no process listens"):
        await runner.wake(engine)


async def test_an_engine_without_sleep_mode_says_what_to_do(runner: ProcessEngineRunner) -> None:
    handle = await runner.start(simulated_launch())
    try:
        await runner.wait_ready(handle, 60)
        with pytest.raises(EngineError, match="without sleep mode") as caught:
            await runner.sleep(handle, 1)
        assert "sleep_mode" in caught.value.hint
        with pytest.raises(EngineError, match="HTTP 404"):
            await runner.sleep_level(handle, 60)
    finally:
        await runner.stop(handle, 5)


def client_of(handle: EngineHandle) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=handle.socket_path)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=300)


class Memory:
    """What is held, by tag."""

    def __init__(self) -> None:
        self.held = set(TAGS)

    def release(self, tag: str) -> None:
        self.held.remove(tag)

    def retake(self, tag: str) -> None:
        assert tag not in self.held
        self.held.add(tag)


def test_asleep_it_holds_neither_weights_nor_cache_and_takes_each_back_once() -> None:
    memory = Memory()
    sleep = Sleep(memory)
    sleep.fall_asleep(2)
    sleep.fall_asleep(1)  # again: nothing more to give
    assert memory.held == set()
    assert not sleep.reload_weights()
    sleep.wake(frozenset({WEIGHTS}))
    assert memory.held == {WEIGHTS}
    assert sleep.reload_weights()
    assert not sleep.awake.is_set()
    sleep.wake(frozenset({KV_CACHE}))
    assert (memory.held, sleep.awake.is_set(), sleep.stale) == (set(TAGS), True, False)
