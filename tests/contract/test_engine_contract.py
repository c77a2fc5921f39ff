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

from loadgen import Client, Endpoint, Outcome, Record
from loadgen import Workload as Load
from loadgen.load.workload import RequestFactory
from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import BLOCK_TOKENS, kv_tokens
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.engines.process import signals as process
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.process_identity import ProcessId
from tests.controller.samples import placement
from tests.engine_fixtures import (
    chat_model_folder,
    engine_environment,
    make_runner,
    short_dir,
    simulated_launch,
    vllm_launch,
)
from tests.machine import until

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]


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

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.AsyncHTTPTransport(uds=self.handle.socket_path, verify=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=300
        ) as client:
            yield client


FORKED = {"simulated": ("partitiond.simulated.engine.__main__",)}
REAL = [pytest.mark.engine, pytest.mark.full]
"""One engine for the tests of this file; those that start one of their own are soak tests."""
STARTS = pytest.mark.parametrize(
    "kind",
    ["simulated", "forked", pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.soak])],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=["simulated", "forked", pytest.param("vllm", marks=REAL)])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "simulated":
        return Kind(lambda run_dir: make_runner(run_dir, None), simulated_launch())
    if request.param == "forked":
        launch = dataclasses.replace(simulated_launch(), placement=placement("sim-0"))
        return Kind(lambda run_dir: ProcessEngineRunner(run_dir, None, warm=FORKED), launch)
    environment = request.getfixturevalue("engine_environment")
    folder = request.getfixturevalue("chat_model_folder")
    launch = dataclasses.replace(vllm_launch(folder), placement=placement("real-0"))
    return Kind(lambda run_dir: make_runner(run_dir, environment, forks=True), launch)


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


def started(kind: Kind, launch: EngineLaunch) -> Iterator[Running]:
    """An engine for several tests."""
    run_dir = Path(tempfile.mkdtemp(prefix="pd-"))
    engine = asyncio.run(start(kind, run_dir, launch))
    yield engine
    asyncio.run(engine.runner.stop(engine.handle, 5.0))
    shutil.rmtree(run_dir)


@pytest.fixture(scope="module")
def running(kind: Kind) -> Iterator[Running]:
    """One engine for all the tests that leave it as it was."""
    yield from started(kind, kind.launch)


@pytest.fixture(scope="module")
def smallest(kind: Kind) -> Iterator[Running]:
    """An engine with the smallest cache that is planned: one request of the longest context, and
    what the engine keeps back for itself. Its last test kills it.
    """
    tokens = kv_tokens(1, Workload(8, 8), kind.launch.max_model_len, BLOCK_TOKENS[DeviceKind.CPU])
    size = tokens * TOKEN_BYTES[kind.launch.engine_kind]
    yield from started(kind, dataclasses.replace(kind.launch, max_num_seqs=1, kv_cache_bytes=size))


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with running.client() as client:
        yield client


def identity(handle: EngineHandle) -> ProcessId:
    return ProcessId(handle.pid, handle.start_ticks, handle.boot_id)


def processes(handle: EngineHandle) -> list[int]:
    return process.processes_of(Path(handle.run_dir), identity(handle))


async def test_a_ready_engine_says_what_it_has_and_another_daemon_can_use_it(
    kind: Kind, running: Running
) -> None:
    report, handle = running.report, running.handle
    assert 512 <= report.kv_cache_tokens <= 20_000, "how many KV tokens it really has"
    assert report.version
    assert {
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total", "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_sum",
    } <= set(report.metrics)  # fmt: skip
    assert running.phases[0] == "starting the process"
    assert len(running.phases) >= 2
    peak = running.runner.peak_memory_bytes(handle)
    assert 1_000_000 < peak < handle.launch.memory_bytes
    assert 1_000_000 < await running.runner.held_bytes(handle) < handle.launch.memory_bytes
    for pid in processes(handle):
        assert os.sched_getaffinity(pid) <= set(handle.launch.cores)
    with pytest.raises(StartFailedError, match="runs already"):
        await running.runner.start(handle.launch)
    another = kind.runner(running.run_dir)
    assert list(await another.find()) == [handle]
    assert await another.probe(handle, 10.0)
    assert (await another.report(handle)).kv_cache_tokens > 0


CHAT: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
BODY = {"model": "tiny", "prompt": [5] * 8, "ignore_eos": True}


async def events(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[str]:
    async with client.stream("POST", path, json=body | {"stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line[6:] async for line in answer.aiter_lines() if line.startswith("data: ")]


async def test_completions_and_chats_count_their_tokens(client: httpx.AsyncClient) -> None:
    for path, body, kind, choices, usage in (
        ("completions", {"prompt": [5, 6, 7, 8], "max_tokens": 9}, "text_completion", 1, (4, 9)),
        ("completions", {"prompt": ["One", "Two"], "n": 2, "max_tokens": 3, "temperature": 1},
         "text_completion", 4, (None, 12)),
        # Numbers may be in quotes, and an output limit beyond the room is cut.
        ("completions", {"prompt": [5] * 500, "max_tokens": "100"}, "text_completion", 1,
         (500, 12)),
        ("chat/completions", {"messages": CHAT, "max_tokens": 5}, "chat.completion", 1, (None, 5)),
    ):  # fmt: skip
        asked = {"model": "tiny", "ignore_eos": True} | body
        answer = (await client.post(f"/v1/{path}", json=asked)).json()
        assert answer["object"] == kind
        assert [one["index"] for one in answer["choices"]] == list(range(choices))
        assert {one["finish_reason"] for one in answer["choices"]} == {"length"}
        told = answer["usage"]
        assert usage[0] in {None, told["prompt_tokens"]}
        assert told["completion_tokens"] == usage[1]
    assert answer["choices"][0]["message"]["role"] == "assistant"


async def test_responses_messages_and_tokens_are_counted(
    kind: Kind, client: httpx.AsyncClient
) -> None:
    body: dict[str, Any] = {"model": "tiny", "input": CHAT, "max_output_tokens": 3}
    if kind.launch.engine_kind == "vllm":
        answer = (await client.post("/v1/responses", json=body)).json()
        assert answer["output"][0]["content"][0]["type"] == "output_text"
        usage = answer["usage"]
        assert (usage["output_tokens"], usage["total_tokens"]) == (3, usage["input_tokens"] + 3)
    body = {"model": "tiny", "messages": CHAT}
    answer = (await client.post("/v1/messages", json=body | {"max_tokens": 3})).json()
    assert (answer["type"], answer["stop_reason"]) == ("message", "max_tokens")
    count = (await client.post("/v1/messages/count_tokens", json=body)).json()
    assert answer["usage"] == {"input_tokens": count["input_tokens"], "output_tokens": 3}
    for text in ("Hello world", "", "Grüße, 世界 🌍", "a\n  b"):
        made = (await client.post("/tokenize", json={"model": "tiny", "prompt": text})).json()
        assert made["count"] == len(made["tokens"])
        back = {"model": "tiny", "tokens": made["tokens"]}
        assert (await client.post("/detokenize", json=back)).json() == {"prompt": text}
        for prompt in (text, made["tokens"]) if text else ():
            asked = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
            answer = (await client.post("/v1/completions", json=asked)).json()
            assert answer["usage"]["prompt_tokens"] == made["count"]


async def test_a_stream_is_one_event_per_token_and_done_and_tells_usage_where_it_is_asked_to(
    client: httpx.AsyncClient,
) -> None:
    """What the proxy relies on when it asks for usage, and takes it out again."""

    async def streamed(**options: bool) -> list[dict[str, Any]]:
        body = BODY | {"max_tokens": 3, "temperature": 0}
        body |= {"stream_options": options} if options else {}
        *lines, last = await events(client, "/v1/completions", body)
        assert last == "[DONE]"
        return [json.loads(line) for line in lines]

    plain, told = await streamed(), await streamed(include_usage=True)
    assert [len(event["choices"]) for event in told] == [1, 1, 1, 0]
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert told[-1]["usage"]["completion_tokens"] == 3
    # It moves the fingerprint, and changes nothing else.
    assert set(told[-1]) == set(plain[0]) | {"usage", "system_fingerprint"}
    assert plain[-1]["system_fingerprint"] == told[-1]["system_fingerprint"]
    assert [x["choices"] for x in plain] == [x["choices"] for x in told[:-1]]
    for event in (*plain[:-1], *told[:-1]):
        assert set(event) == {"id", "object", "created", "model", "choices"}
    # In every event only where it is asked for at the end, too.
    both = await streamed(include_usage=True, continuous_usage_stats=True)
    assert [event["usage"]["completion_tokens"] for event in both] == [1, 2, 3, 3]
    assert not any("usage" in event for event in await streamed(continuous_usage_stats=True))
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 4}
    lines = await events(client, "/v1/chat/completions", asked)
    assert lines[-1] == "[DONE]"
    first = json.loads(lines[0])
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"


async def test_responses_and_messages_stream_named_events(
    kind: Kind, client: httpx.AsyncClient
) -> None:
    async def named(path: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        asked = {"model": "tiny", "stream": True} | body
        text = (await client.post(path, json=asked)).text
        found = []
        for event in text.removesuffix("\n\n").split("\n\n"):
            name, data = event.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert all(event["type"] == name for name, event in found)
        return found

    if kind.launch.engine_kind == "vllm":
        told = await named("/v1/responses", {"input": "Hi", "max_output_tokens": 2})
        assert [name.removeprefix("response.") for name, _ in told] == [
            "created", "in_progress", "output_item.added", "content_part.added",
            "output_text.delta", "output_text.delta", "output_text.done", "content_part.done",
            "output_item.done", "completed",
        ]  # fmt: skip
        assert [event["sequence_number"] for _, event in told] == list(range(len(told)))
        response = told[-1][1]["response"]
        assert (response["status"], response["usage"]["output_tokens"]) == ("incomplete", 2)
    told = await named("/v1/messages", {"messages": CHAT, "max_tokens": 2})
    assert [name for name, _ in told] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert told[-2][1]["usage"]["output_tokens"] == 2
    assert told[-2][1]["delta"]["stop_reason"] == "max_tokens"


async def test_requests_at_the_same_time_share_the_engine_and_one_id(
    client: httpx.AsyncClient,
) -> None:
    served = (await client.get("/v1/models")).json()
    assert [card["id"] for card in served["data"]] == ["tiny"]
    headers = {"x-request-id": "abc-123"}
    asking = (
        client.post("/v1/completions", json=BODY | {"max_tokens": 8}, headers=headers)
        for _ in range(24)
    )
    assert {one.json()["id"] for one in await asyncio.gather(*asking)} == {"cmpl-abc-123"}


OPENAI, NO_ROUTE = {"message", "type", "param", "code"}, {"detail": "Not Found"}


async def test_refusals_have_the_shape_of_their_api(client: httpx.AsyncClient) -> None:
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
        assert set(error) >= OPENAI
    for changes, shape in (
        ({"temperature": -1}, {"type", "error"}),
        ({"model": "other"}, {"type", "error"}),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, {"type", "error"}),
        ({"max_tokens": 0}, {"error"}),
        ({"messages": "Hi"}, {"error"}),
    ):
        body = {"model": "tiny", "messages": CHAT, "max_tokens": 3} | changes
        answer = await client.post("/v1/messages", json=body)
        assert answer.status_code in {400, 404}
        assert set(answer.json()) == shape, changes
    for path in ("v1/nothing", "v1/embeddings", "score", "rerank", "pooling", "classify"):
        answer = await client.post(f"/{path}", json={"model": "tiny", "input": "Hi"})
        assert (answer.status_code, answer.json()) == (404, NO_ROUTE), path
    answer = await client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
    assert answer.status_code == 200, "a missing model is accepted"


async def test_a_client_that_leaves_frees_its_place(
    running: Running, client: httpx.AsyncClient
) -> None:
    async def running_requests() -> float:
        metrics = (await running.runner.report(running.handle)).metrics
        return metrics["vllm:num_requests_running"]

    async def some_run() -> bool:
        return await running_requests() >= 2

    async def none_run() -> bool:
        return await running_requests() == 0

    body = BODY | {"max_tokens": 480}
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        whole = asyncio.create_task(client.post("/v1/completions", json=body))
        await until(some_run)
        whole.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await whole
    await until(none_run)


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
        assert not await asyncio.to_thread(os.path.exists, running.handle.socket_path)
        await asyncio.wait_for(watching, 60)
        await running.runner.stop(running.handle, 10.0)
        assert not await running.runner.probe(running.handle, 1.0)
        assert list(await running.runner.find()) == []

    @STARTS
    async def test_kill_9_of_the_main_process_leaves_nothing(
        self, kind: Kind, short_dir: Path
    ) -> None:
        engine = await start(kind, short_dir)
        record = json.loads((Path(engine.handle.run_dir) / "process.json").read_text())
        os.kill(int(record["main_pid"]), signal.SIGKILL)
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
        assert not await asyncio.to_thread(os.path.exists, smallest.handle.run_dir)


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


@STARTS
async def test_a_pooling_engine_is_ready_is_probed_and_pools(kind: Kind, short_dir: Path) -> None:
    words = ("--runner", "pooling", "--convert", "embed")
    launch = dataclasses.replace(kind.launch, extra_args=words)
    engine = await start(kind, short_dir, launch)
    try:
        assert await engine.runner.probe(engine.handle, 10.0)
        async with engine.client() as client:
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
        # By this load its profiles are measured.
        extra = {"encoding_format": "base64"}
        load = Load("tiny", 8, 1, last_token_id=200, endpoint=Endpoint.POOLING, extra=extra)
        request = RequestFactory(load).request(0)
        async with Client(engine.handle.socket_path) as loading:
            record = await loading.send(request.body, Record(0), endpoint=request.endpoint)
        assert (record.outcome, record.prompt_tokens) == (Outcome.OK, 8), record.error
        # As when a model made to embed is registered without `--runner pooling`.
        generating = dataclasses.replace(launch, extra_args=())
        mistaken = dataclasses.replace(engine.handle, launch=generating)
        with pytest.raises(StartFailedError, match="--runner pooling"):
            await engine.runner.wait_ready(mistaken, START_SECONDS)
    finally:
        await engine.runner.stop(engine.handle, 5.0)


async def test_a_classifying_engine_becomes_ready_and_is_probed(short_dir: Path) -> None:
    runner = make_runner(short_dir, None)
    handle = await runner.start(simulated_launch("sim-0", "--convert", "classify"))
    try:
        await runner.wait_ready(handle, START_SECONDS)
        assert await runner.probe(handle, 10.0)
    finally:
        await runner.stop(handle, 5.0)
