"""Both engines keep the contract on which the controller, profiler and proxy rely.

The simulated engine runs everywhere; the real one is marked `engine`.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import BLOCK_TOKENS, kv_tokens
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.engines.process import signals as process
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.signals import ProcessId
from tests.contract.engine_dialects import TestOtherRoutes, TestStreams, events
from tests.engine_fixtures import (
    chat_model_folder,
    engine_environment,
    make_runner,
    short_dir,
    simulated_launch,
    vllm_launch,
)

__all__ = [
    "TestOtherRoutes",
    "TestStreams",
    "chat_model_folder",
    "engine_environment",
    "short_dir",
]


START_SECONDS = 480.0
TOKEN_BYTES = {"vllm": 30 * 2 * 3 * 64 * 2, "simulated": 36_864}
"""Of the KV cache: SmolLM2-135M's layers, keys and values, heads, their size, bfloat16."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One engine kind under test: how to make a runner and a launch of it."""

    runner: Callable[[Path], ProcessEngineRunner]
    launch: EngineLaunch


@dataclasses.dataclass(frozen=True)
class Running:
    runner: ProcessEngineRunner
    handle: EngineHandle
    report: EngineReport
    phases: tuple[str, ...]
    run_dir: Path


REAL = [pytest.mark.engine, pytest.mark.full]
"""One engine for the tests of this file; those that start one of their own are soak tests."""
STARTS = pytest.mark.parametrize(
    "kind",
    ["simulated", pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.soak])],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=["simulated", pytest.param("vllm", marks=REAL)])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "simulated":
        return Kind(lambda run_dir: make_runner(run_dir, None), simulated_launch())
    environment = request.getfixturevalue("engine_environment")
    folder = request.getfixturevalue("chat_model_folder")
    return Kind(lambda run_dir: make_runner(run_dir, environment), vllm_launch(folder))


async def start(kind: Kind, run_dir: Path, launch: EngineLaunch | None = None) -> Running:
    runner = kind.runner(run_dir)
    handle = await runner.start(launch or kind.launch)
    phases: list[str] = []
    try:
        report = await runner.wait_ready(handle, START_SECONDS, phases.append)
    except BaseException:
        await runner.stop(handle, 0.0)
        raise
    return Running(runner, handle, report, tuple(phases), run_dir)


@pytest.fixture(scope="module")
def running(kind: Kind) -> Iterator[Running]:
    """One engine for all the tests that leave it as it was."""
    run_dir = Path(tempfile.mkdtemp(prefix="pd-"))
    engine = asyncio.run(start(kind, run_dir))
    yield engine
    asyncio.run(engine.runner.stop(engine.handle, 5.0))
    shutil.rmtree(run_dir)


@pytest.fixture(scope="module")
def smallest(kind: Kind) -> Iterator[Running]:
    """An engine with the smallest cache that is planned: one request of the longest context, and
    what the engine keeps back for itself. Its last test kills it.
    """
    tokens = kv_tokens(1, Workload(8, 8), kind.launch.max_model_len, BLOCK_TOKENS[DeviceKind.CPU])
    size = tokens * TOKEN_BYTES[kind.launch.engine_kind]
    launch = dataclasses.replace(kind.launch, max_num_seqs=1, kv_cache_bytes=size)
    run_dir = Path(tempfile.mkdtemp(prefix="pd-"))
    engine = asyncio.run(start(kind, run_dir, launch))
    yield engine
    asyncio.run(engine.runner.stop(engine.handle, 5.0))
    shutil.rmtree(run_dir)


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=running.handle.socket_path)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://engine", timeout=300
    ) as client:
        yield client


def identity(handle: EngineHandle) -> ProcessId:
    return ProcessId(handle.pid, handle.start_ticks, handle.boot_id)


def processes(handle: EngineHandle) -> list[int]:
    return process.processes_of(Path(handle.run_dir), identity(handle))


def exists(path: str) -> bool:
    return Path(path).exists()


def main_pid(handle: EngineHandle) -> int:
    record = json.loads((Path(handle.run_dir) / "process.json").read_text())
    return int(record["main_pid"])


async def eventually(check: Callable[[], Any]) -> None:
    """Wait for an asynchronous condition; a late one is a failure."""
    async with asyncio.timeout(60):
        while not await check():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.05)


class TestReady:
    def test_the_report_says_how_many_kv_tokens_it_really_has(self, running: Running) -> None:
        assert 512 <= running.report.kv_cache_tokens <= 20_000

    def test_the_report_names_version_and_vllm_metrics(self, running: Running) -> None:
        assert running.report.version
        for name in (
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
            "vllm:num_preemptions_total",
            "vllm:generation_tokens_total",
            "vllm:time_to_first_token_seconds_count",
            "vllm:inter_token_latency_seconds_sum",
        ):
            assert name in running.report.metrics, name

    def test_progress_was_told_while_it_started(self, running: Running) -> None:
        assert running.phases[0] == "starting the process"
        assert len(running.phases) >= 2

    async def test_probe_answers_and_memory_is_seen(self, running: Running) -> None:
        assert await running.runner.probe(running.handle, 10.0)
        peak = running.runner.peak_memory_bytes(running.handle)
        assert 1_000_000 < peak < running.handle.launch.memory_bytes

    def test_every_process_is_pinned_to_the_given_cores(self, running: Running) -> None:
        allowed = set(running.handle.launch.cores)
        for pid in processes(running.handle):
            assert os.sched_getaffinity(pid) <= allowed

    async def test_a_living_engine_of_the_same_name_is_not_started_again(
        self, running: Running
    ) -> None:
        with pytest.raises(StartFailedError, match="runs already"):
            await running.runner.start(running.handle.launch)
        assert await running.runner.probe(running.handle, 10.0)

    async def test_another_daemon_finds_the_engine_and_can_use_it(
        self, kind: Kind, running: Running
    ) -> None:
        another = kind.runner(running.run_dir)
        assert list(await another.find()) == [running.handle]
        assert await another.probe(running.handle, 10.0)
        assert (await another.report(running.handle)).kv_cache_tokens > 0


HI = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


class TestCompletions:
    async def test_completions_and_chats_count_their_tokens(
        self, client: httpx.AsyncClient
    ) -> None:
        for path, body, kind, choices, reason, usage in (
            ("completions", {"prompt": [5, 6, 7, 8], "max_tokens": 9}, "text_completion", 1,
             "length", (4, 9)),
            ("completions", {"prompt": ["One", "Two"], "n": 2, "max_tokens": 3, "temperature": 1},
             "text_completion", 4, "length", (None, 12)),
            ("chat/completions", HI | {"max_tokens": 5}, "chat.completion", 1, "length", (None, 5)),
        ):  # fmt: skip
            asked = {"model": "tiny", "ignore_eos": True} | body
            answer = (await client.post(f"/v1/{path}", json=asked)).json()
            assert answer["object"] == kind
            assert [one["index"] for one in answer["choices"]] == list(range(choices))
            assert {one["finish_reason"] for one in answer["choices"]} == {reason}
            told = answer["usage"]
            assert usage[0] in {None, told["prompt_tokens"]}
            assert told["completion_tokens"] == usage[1]
        assert answer["choices"][0]["message"]["role"] == "assistant"

    async def test_a_stream_is_one_event_per_token_usage_when_asked_and_done(
        self, client: httpx.AsyncClient
    ) -> None:
        body = {
            "model": "tiny", "prompt": [5] * 8, "max_tokens": 6, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        lines = await events(client, "/v1/completions", body)
        assert lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 6
        assert len([chunk for chunk in chunks if chunk["choices"]]) == 6
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        asked = HI | {"max_tokens": 4, "stream": True}
        lines = await events(client, "/v1/chat/completions", asked)
        assert lines[-1] == "[DONE]"
        first = json.loads(lines[0])
        assert first["object"] == "chat.completion.chunk"
        assert first["choices"][0]["delta"]["role"] == "assistant"

    async def test_requests_at_the_same_time_share_the_engine(
        self, client: httpx.AsyncClient
    ) -> None:
        served = (await client.get("/v1/models")).json()
        assert [card["id"] for card in served["data"]] == ["tiny"]
        body = {"model": "tiny", "prompt": [5] * 8, "max_tokens": 8, "ignore_eos": True}
        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=body) for _ in range(24))
        )
        assert {answer.status_code for answer in answers} == {200}


class TestErrors:
    async def test_refusals_have_the_openai_shape(self, client: httpx.AsyncClient) -> None:
        long = {"model": "tiny", "prompt": [5] * 600}
        for path, body, status in (
            ("completions", {"model": "other", "prompt": "Hi"}, 404),
            ("completions", long, 400),
            ("completions", long | {"stream": True}, 400),
            ("completions", {"model": "tiny", "prompt": "Hi", "max_tokens": 0.5}, 400),
            ("chat/completions", {"model": "other", "messages": []}, 404),
            ("chat/completions", {"model": "tiny", "messages": "Hi"}, 400),
        ):
            answer = await client.post(f"/v1/{path}", json=body)
            assert answer.status_code == status, (path, body)
            assert answer.headers["content-type"] == "application/json"
            error = answer.json()["error"]
            assert error["code"] == status
            assert error["message"]
            assert set(error) >= {"message", "type", "param", "code"}

    async def test_an_unknown_path_has_the_detail_shape_and_a_missing_model_is_accepted(
        self, client: httpx.AsyncClient
    ) -> None:
        answer = await client.get("/v1/nothing")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        answer = await client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
        assert answer.status_code == 200


async def test_a_client_that_leaves_frees_its_place(
    running: Running, client: httpx.AsyncClient
) -> None:
    body = {"model": "tiny", "prompt": [5] * 8, "max_tokens": 480, "ignore_eos": True}

    async def running_requests() -> float:
        metrics = (await running.runner.report(running.handle)).metrics
        return metrics["vllm:num_requests_running"]

    async def some_run() -> bool:
        return await running_requests() >= 2

    async def none_run() -> bool:
        return await running_requests() == 0

    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        whole = asyncio.create_task(client.post("/v1/completions", json=body))
        await eventually(some_run)
        whole.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await whole
    await eventually(none_run)


@STARTS
async def test_the_smallest_cache_that_is_planned_is_enough_to_start(smallest: Running) -> None:
    context = smallest.handle.launch.max_model_len
    assert (await smallest.runner.report(smallest.handle)).kv_cache_tokens >= context
    assert await smallest.runner.probe(smallest.handle, 30.0)


class TestEnd:
    """Each test ends an engine, the last one that needs it, and nothing of it may be left."""

    async def test_stop_leaves_nothing_and_can_be_repeated(
        self, kind: Kind, running: Running
    ) -> None:
        assert await running.runner.probe(running.handle, 10.0)
        watching = asyncio.create_task(kind.runner(running.run_dir).wait_exit(running.handle))
        await asyncio.sleep(0)
        ended = await running.runner.stop(running.handle, 10.0)
        assert "stopped" in ended.diagnosis
        assert processes(running.handle) == []
        assert not exists(running.handle.socket_path)
        await asyncio.wait_for(watching, 60)
        await running.runner.stop(running.handle, 10.0)
        assert not await running.runner.probe(running.handle, 1.0)
        assert list(await running.runner.find()) == []

    @STARTS
    async def test_kill_9_of_the_main_process_leaves_nothing(
        self, kind: Kind, short_dir: Path
    ) -> None:
        engine = await start(kind, short_dir)
        os.kill(main_pid(engine.handle), signal.SIGKILL)
        ended = await asyncio.wait_for(engine.runner.wait_exit(engine.handle), 60)
        assert ended.code == -signal.SIGKILL
        assert processes(engine.handle) == []

    @STARTS
    async def test_kill_9_of_the_supervisor_leaves_nothing(
        self, kind: Kind, smallest: Running
    ) -> None:
        assert await smallest.runner.probe(smallest.handle, 30.0)
        os.kill(smallest.handle.pid, signal.SIGKILL)
        await process.wait_gone(identity(smallest.handle))
        # A daemon that comes back later finds the remains by the run folder alone.
        assert list(await kind.runner(smallest.run_dir).find()) == []
        assert processes(smallest.handle) == []
        assert not exists(smallest.handle.run_dir)


@STARTS
async def test_a_refused_start_says_why(kind: Kind, short_dir: Path) -> None:
    """Real: the longest context does not fit the KV cache. Simulated: it is told to fail."""
    simulated = kind.launch.engine_kind == "simulated"
    launch = (
        simulated_launch("bad-0", "--fail-start", "ValueError: no such architecture")
        if simulated
        else dataclasses.replace(kind.launch, kv_cache_bytes=4 * 1024 * 1024)
    )
    with pytest.raises(StartFailedError) as caught:
        await start(kind, short_dir, launch)
    if simulated:
        assert "no such architecture" in str(caught.value.facts["lines"])
    else:
        assert caught.value.facts["kind"] == "kv-cache-too-small"
        assert caught.value.hint
