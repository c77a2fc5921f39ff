"""The simulated engine works as a program, on which tests and demonstrations rest."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from partitiond import serde
from partitiond.core.model.engine_task import EngineTask
from partitiond.core.replica.engine import EngineLaunch, EngineReport
from partitiond.engines.process.commands import (
    SIMULATED_KV_BYTES_PER_TOKEN,
    kv_bytes_per_token,
    simulated_command,
)
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.catalog import CATALOG
from partitiond.simulated.engine.__main__ import parse, step_model
from partitiond.simulated.steps import StepModel
from tests.engine_fixtures import short_dir, simulated_launch
from tests.simulated.test_steps import profile_of, throughput

__all__ = ["short_dir"]


BODY = {"model": "tiny", "prompt": [5] * 64, "max_tokens": 32, "ignore_eos": True}


@contextlib.asynccontextmanager
async def engine(
    short_dir: Path, launch: EngineLaunch
) -> AsyncIterator[tuple[httpx.AsyncClient, Callable[[], Awaitable[EngineReport]]]]:
    """A client of an engine, and what asks for its report."""
    runner = ProcessEngineRunner(short_dir / "run", None)
    handle = await runner.start(launch)
    try:
        await runner.wait_ready(handle, 60)
        transport = httpx.AsyncHTTPTransport(uds=handle.socket_path, verify=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=300
        ) as client:
            yield client, lambda: runner.report(handle)
    finally:
        await runner.stop(handle, 5)


@pytest.mark.parametrize(
    ("words", "task"),
    [
        ("", EngineTask.GENERATE),
        ("--runner=pooling --convert embed", EngineTask.POOL),
        ("--runner pooling --convert=classify", EngineTask.CLASSIFY),
        ("--runner generate", EngineTask.GENERATE),
    ],
)
def test_its_task_is_asked_for_as_vllms_is(words: str, task: EngineTask) -> None:
    assert parse(["--uds", "s", "--model", "m", *words.split()]).task is task


async def complete(client: httpx.AsyncClient) -> None:
    await client.post("/v1/completions", json=BODY)


def test_its_speed_is_that_of_a_profile_in_its_models_folder(tmp_path: Path) -> None:
    true = StepModel(((1, 0.02), (4, 0.03)), 0.0002)
    (tmp_path / "profile.json").write_text(serde.to_json(profile_of(true, (1, 4))))
    launch = dataclasses.replace(simulated_launch(), model_folder=str(tmp_path), extra_args=())
    argv = simulated_command(launch, RunFolder.of(tmp_path, "sim-0"))["argv"]
    steps = step_model(parse(argv[argv.index("partitiond.simulated.engine") + 1 :]), None)
    assert isinstance(steps, StepModel)
    assert throughput(steps, 1) == pytest.approx(throughput(true, 1), rel=0.05)


async def test_what_it_counts_is_what_it_served_and_a_chat_without_a_limit_ends_by_itself(
    short_dir: Path,
) -> None:
    async with engine(short_dir, simulated_launch()) as (client, report):
        before = (await report()).metrics
        await complete(client)
        after = (await report()).metrics
        question = {"model": "tiny", "messages": [{"role": "user", "content": "Hello?"}]}
        answer = (await client.post("/v1/chat/completions", json=question)).json()
    rise = {name.removeprefix("vllm:"): after[name] - before.get(name, 0) for name in after}
    assert rise["generation_tokens_total"] == 32
    assert rise["prompt_tokens_total"] == 64
    assert rise["request_success_total"] == 1
    assert rise["inter_token_latency_seconds_count"] == 31
    assert rise["inter_token_latency_seconds_sum"] >= 31 * 0.004
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert 24 <= answer["usage"]["completion_tokens"] <= 63


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
    bounded = {**CATALOG["smollm2-135m"].config, "model_type": "unheard-of"}
    (tmp_path / "config.json").write_text(json.dumps(bounded))
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    assert kv_bytes_per_token(tmp_path) == 2 * 30 * 3 * 64 * 2
