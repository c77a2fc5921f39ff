"""The simulated engine works as a program, on which tests and demonstrations rest."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond import serde
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.process.commands import SIMULATED_KV_BYTES_PER_TOKEN, kv_bytes_per_token
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.catalog import CATALOG
from partitiond.simulated.engine.refusals import RefusedError
from partitiond.simulated.engine.requests import read_generation
from partitiond.simulated.replay.steps import StepModel
from tests.engine_fixtures import short_dir, simulated_launch
from tests.simulated.replay.test_steps import profile_of, throughput

__all__ = ["short_dir"]


@pytest.fixture
async def engine(short_dir: Path) -> AsyncIterator[EngineHandle]:
    runner = ProcessEngineRunner(short_dir, None)
    handle = await runner.start(simulated_launch())
    await runner.wait_ready(handle, 60)
    yield handle
    await runner.stop(handle, 5)


def connect(handle: EngineHandle) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=handle.socket_path)
    return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=300)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": [5] * 64, "max_tokens": 32, "ignore_eos": True, **more}


@pytest.mark.soak
async def test_it_batches_so_that_many_take_little_longer_than_one(engine: EngineHandle) -> None:
    async with connect(engine) as client:

        async def seconds(count: int) -> float:
            began = time.monotonic()
            await asyncio.gather(
                *(client.post("/v1/completions", json=body()) for _ in range(count))
            )
            return time.monotonic() - began

        alone, eight = await seconds(1), await seconds(8)
    assert alone >= 31 * 0.005
    assert eight < 4 * alone


@pytest.mark.soak
async def test_its_speed_is_that_of_a_profile(short_dir: Path) -> None:
    true = StepModel(((1, 0.02), (4, 0.03)), 0.0002)
    model = short_dir / "model"
    model.mkdir()
    (model / "profile.json").write_text(serde.to_json(profile_of(true, (1, 4))))
    launch = dataclasses.replace(simulated_launch(), model_folder=str(model), extra_args=())
    runner = ProcessEngineRunner(short_dir / "run", None)
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, 60)
        async with connect(handle) as client:
            began = time.monotonic()
            for _ in range(2):
                await client.post("/v1/completions", json=body())
            rate = 64 / (time.monotonic() - began)
    finally:
        await runner.stop(handle, 5)
    # A busy machine makes it slower, never faster.
    assert 0.4 * throughput(true, 1) < rate < 1.05 * throughput(true, 1)


async def test_what_it_counts_is_what_it_served_and_a_chat_without_a_limit_ends_by_itself(
    engine: EngineHandle,
) -> None:
    runner = ProcessEngineRunner(Path(engine.run_dir).parent, None)
    before = (await runner.report(engine)).metrics
    async with connect(engine) as client:
        await client.post("/v1/completions", json=body())
    after = (await runner.report(engine)).metrics

    def rise(name: str) -> float:
        return after[name] - before[name]

    assert rise("vllm:generation_tokens_total") == 32
    assert rise("vllm:prompt_tokens_total") == 64
    assert rise("vllm:request_success_total") == 1
    assert rise("vllm:inter_token_latency_seconds_count") == 31
    assert rise("vllm:inter_token_latency_seconds_sum") >= 31 * 0.004
    async with connect(engine) as client:
        question = {"model": "tiny", "messages": [{"role": "user", "content": "Hello?"}]}
        answer = (await client.post("/v1/chat/completions", json=question)).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert 24 <= answer["usage"]["completion_tokens"] <= 63


def test_bad_requests_are_refused_with_400() -> None:
    refused: tuple[dict[str, Any], ...] = (
        {},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1, "a"]},
        {"prompt": 7},
        {"prompt": "a", "n": 0},
        {"prompt": "a", "max_tokens": 0.5},
        {"prompt": "a", "max_tokens": "many"},
        {"prompt": "a", "max_tokens": -1},
    )
    for asked in refused:
        with pytest.raises(RefusedError) as caught:
            read_generation(asked, chat=False, model="tiny", max_model_len=512)
        assert caught.value.status == 400, asked
        assert json.loads(json.dumps(caught.value.body))["error"]["code"] == 400


def test_usage_is_sent_only_when_asked() -> None:
    plain = read_generation(body(stream=True), chat=False, model="tiny", max_model_len=512)
    asked = read_generation(
        body(stream=True, stream_options={"include_usage": True}),
        chat=False,
        model="tiny",
        max_model_len=512,
    )
    assert not plain.include_usage
    assert asked.include_usage


def test_kv_bytes_of_a_token_are_those_that_plans_count_with(tmp_path: Path) -> None:
    assert kv_bytes_per_token(tmp_path) == SIMULATED_KV_BYTES_PER_TOKEN
    for name in ("opt-125m", "smollm2-135m"):
        entry = CATALOG[name]
        (tmp_path / "config.json").write_text(json.dumps(dict(entry.config)))
        assert kv_bytes_per_token(tmp_path) == entry.architecture.kv_bytes_per_token
    assert kv_bytes_per_token(tmp_path) == 2 * 30 * 3 * 64 * 2
    assert kv_bytes_per_token(tmp_path, kv_cache_dtype="fp8") == 30 * 3 * 64 * 2
    assert kv_bytes_per_token(tmp_path, dtype="float32") == 2 * 30 * 3 * 64 * 4
    for text in ("{}", "[]", "no json", '{"model_type": "unheard-of"}'):
        (tmp_path / "config.json").write_text(text)
        assert kv_bytes_per_token(tmp_path) == SIMULATED_KV_BYTES_PER_TOKEN
        half = kv_bytes_per_token(tmp_path, kv_cache_dtype="fp8")
        assert half == SIMULATED_KV_BYTES_PER_TOKEN // 2
