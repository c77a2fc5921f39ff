"""Pooling engines of both kinds become ready, are probed, and embed through their socket."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.process.runner import ProcessEngineRunner
from tests.engine_fixtures import (
    chat_model_folder,
    engine_environment,
    make_runner,
    short_dir,
    simulated_launch,
    vllm_launch,
)

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]

START_SECONDS = 480.0


@pytest.fixture(
    params=["simulated", pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.full])]
)
def kind(
    request: pytest.FixtureRequest, short_dir: Path
) -> tuple[ProcessEngineRunner, EngineLaunch]:
    if request.param == "simulated":
        return make_runner(short_dir, None), simulated_launch("sim-0", "--task=pooling")
    runner = make_runner(short_dir, request.getfixturevalue("engine_environment"))
    return runner, pooling(vllm_launch(request.getfixturevalue("chat_model_folder")))


@pytest.fixture
async def started(
    kind: tuple[ProcessEngineRunner, EngineLaunch],
) -> AsyncIterator[tuple[ProcessEngineRunner, EngineHandle]]:
    """An engine that was started as the daemon starts one, and is ready."""
    runner, launch = kind
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, START_SECONDS)
        yield runner, handle
    finally:
        await runner.stop(handle, 5.0)


def pooling(launch: EngineLaunch) -> EngineLaunch:
    words = ("--runner", "pooling", "--convert", "embed")
    return dataclasses.replace(launch, extra_args=words)


async def test_a_pooling_engine_is_ready_is_probed_and_pools(
    started: tuple[ProcessEngineRunner, EngineHandle],
) -> None:
    runner, handle = started
    assert await runner.probe(handle, 10.0)
    transport = httpx.AsyncHTTPTransport(uds=handle.socket_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        body = {"model": "tiny", "input": ["Hello", "Hello", "Another text"]}
        answer = (await client.post("/v1/embeddings", json=body)).json()
        first, second, third = (one["embedding"] for one in answer["data"])
        assert first == pytest.approx(second, abs=1e-2)
        assert first != pytest.approx(third, abs=1e-2)
        pair = {"model": "tiny", "text_1": "Hello", "text_2": "Hello"}
        score = (await client.post("/v1/score", json=pair)).json()["data"][0]["score"]
        assert score == pytest.approx(1.0, abs=1e-2)
        refused = await client.post("/v1/completions", json={"model": "tiny", "prompt": "Hi"})
        assert refused.status_code == 404


async def test_a_classifying_engine_becomes_ready(short_dir: Path) -> None:
    runner = make_runner(short_dir, None)
    handle = await runner.start(simulated_launch("sim-0", "--task", "classify"))
    try:
        await runner.wait_ready(handle, START_SECONDS)
        assert await runner.probe(handle, 10.0)
    finally:
        await runner.stop(handle, 5.0)


async def test_an_engine_that_is_not_what_it_was_started_for_is_refused(short_dir: Path) -> None:
    """As when a model made to embed is registered without `--runner pooling`."""
    runner = make_runner(short_dir, None)
    launch = simulated_launch("sim-0", "--task", "pooling")
    handle = await runner.start(launch)
    mistaken = dataclasses.replace(handle, launch=dataclasses.replace(launch, extra_args=()))
    try:
        with pytest.raises(StartFailedError, match="--runner pooling"):
            await runner.wait_ready(mistaken, START_SECONDS)
    finally:
        await runner.stop(handle, 5.0)
