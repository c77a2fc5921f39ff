"""Engines sleep and wake over their own routes: the simulated engine as a process."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from partitiond.core.errors import EngineError
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.vllm.sleeping import NOTE, UNKNOWN_LEVEL
from partitiond.simulated.engine.sleeping import KV_CACHE, TAGS, WEIGHTS, Sleep
from tests.engine_fixtures import short_dir, simulated_launch
from tests.full_disk import FullDisk

__all__ = ["short_dir"]


@pytest.fixture
async def runner(short_dir: Path) -> ProcessEngineRunner:
    return ProcessEngineRunner(short_dir, None)


@contextlib.asynccontextmanager
async def engine(
    runner: ProcessEngineRunner, *, sleeps: bool = True
) -> AsyncIterator[EngineHandle]:
    handle = await runner.start(dataclasses.replace(simulated_launch(), sleep_mode=sleeps))
    await runner.wait_ready(handle, 60)
    yield handle
    await runner.stop(handle, 5)


async def test_it_sleeps_and_wakes_and_generates_again(
    runner: ProcessEngineRunner, short_dir: Path
) -> None:
    later = ProcessEngineRunner(short_dir, None)  # of a daemon that did not choose the level
    async with engine(runner) as handle, client_of(handle) as client:
        for level in (1, 2):
            assert await runner.sleep_level(handle, 60) == 0
            await runner.sleep(handle, level)
            assert await runner.sleep_level(handle, 60) == level
            assert not await runner.probe(handle, 0.2)
            (found,) = await later.find()
            assert await later.sleep_level(found, 60) == level
            await later.wake(found)
            assert await runner.probe(handle, 60)
        await runner.sleep(handle, 1)
        body = {"model": "tiny", "prompt": [1], "max_tokens": 2}
        waiting = asyncio.create_task(client.post("/v1/completions", json=body))
        await runner.wake(handle)
        assert (await waiting).status_code == 200, "a request is answered once it is awake"
        # A wake that was cut off, or a sleep without a note, gets its weights again.
        await runner.sleep(handle, 2)
        assert (await client.post("/wake_up")).json() == {"status": "awake"}
        assert not await runner.probe(handle, 60)  # its weights are noise
        assert await runner.sleep_level(handle, 60) == 2
        await runner.wake(handle)
        assert await runner.probe(handle, 60)
        assert not await asyncio.to_thread((Path(handle.run_dir) / NOTE).exists)
        await client.post("/sleep?level=1")
        assert await runner.sleep_level(handle, 60) == 2
        await runner.wake(handle)
        assert await runner.probe(handle, 60)
        await runner.sleep(handle, 1)
    with pytest.raises(EngineError, match="no process listens"):
        await runner.wake(handle)
    async with engine(runner, sleeps=False) as handle:
        with pytest.raises(EngineError, match="without sleep mode") as caught:
            await runner.sleep(handle, 1)
        assert "sleep_mode" in caught.value.hint
        with pytest.raises(EngineError, match="HTTP 404"):
            await runner.sleep_level(handle, 60)


async def test_on_a_full_disk_it_sleeps_and_wakes_all_the_same(
    runner: ProcessEngineRunner, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(short_dir, monkeypatch)
    async with engine(runner) as handle:
        disk.left = 0
        for level in (1, 2):
            await runner.sleep(handle, level)
            assert await runner.sleep_level(handle, 60) == UNKNOWN_LEVEL
            await runner.wake(handle)
            assert await runner.probe(handle, 60)
        assert disk.refused == 2
        await runner.sleep(handle, 1)
        launch = dataclasses.replace(handle.launch, engine_kind="vllm", dummy_weights=True)
        random = dataclasses.replace(handle, launch=launch)
        assert await runner.sleep_level(random, 60) == 1, "there are no weights to read again"
        disk.has_room()


def client_of(handle: EngineHandle) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=handle.socket_path, verify=False)
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
