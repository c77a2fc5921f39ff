"""One request: what its record says of every way an answer can go."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from loadgen import Client, Outcome, Record, Workload
from loadgen.workload import RequestFactory


async def send(server: Any, tokens: int = 5, **options: Any) -> Record:
    body = RequestFactory(Workload("m", 4, tokens)).body(0)
    async with Client(server.socket_path, **options) as client:
        return await client.send(body, Record(0))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("split_bytes", [0, 1, 7])
async def test_every_token_is_counted_however_the_bytes_are_cut(
    server: Any, split_bytes: int, line_end: bytes
) -> None:
    server.behaviour.split_bytes = split_bytes
    server.behaviour.line_end = line_end
    record = await send(server)
    assert (record.outcome, record.output_tokens, record.usage_tokens) == (Outcome.OK, 5, 5)
    assert not record.tokens_mismatch
    assert record.prompt_tokens == 7
    assert sum(record.chunk_tokens) == 5


async def test_latencies_follow_their_definitions(server: Any) -> None:
    record = await send(server, tokens=10)
    assert record.ttft is not None
    assert record.e2el is not None
    assert record.tpot == pytest.approx((record.e2el - record.ttft) / 9)
    assert len(record.itl) == 9
    assert record.ttft + sum(record.itl) <= record.e2el


async def test_several_tokens_in_one_chunk_are_all_counted(server: Any) -> None:
    server.behaviour.tokens_per_chunk = 4
    record = await send(server, tokens=10)
    assert list(record.chunk_tokens) == [4, 4, 2]
    assert (record.output_tokens, record.tokens_mismatch) == (10, False)


async def test_without_usage_in_each_chunk_a_chunk_is_a_token(server: Any) -> None:
    server.behaviour.continuous_usage = False
    assert (await send(server)).output_tokens == 5


async def test_a_count_the_final_usage_contradicts_is_reported(server: Any) -> None:
    server.behaviour.continuous_usage = False
    server.behaviour.tokens_per_chunk = 2
    record = await send(server, tokens=6)
    assert (record.output_tokens, record.usage_tokens, record.tokens_mismatch) == (3, 6, True)


async def test_a_server_without_usage_is_no_mismatch(server: Any) -> None:
    server.behaviour.final_usage = False
    server.behaviour.continuous_usage = False
    record = await send(server)
    assert (record.output_tokens, record.usage_tokens) == (5, None)
    assert not record.tokens_mismatch


@pytest.mark.parametrize("status", [429, 503])
async def test_refusals_are_apart_from_errors(server: Any, status: int) -> None:
    server.behaviour.status = status
    record = await send(server)
    assert (record.outcome, record.status) == (Outcome.REFUSED, status)
    assert (record.error, record.retry_after) == ("no room", "2")


async def test_any_other_status_is_an_error_with_its_message(server: Any) -> None:
    server.behaviour.status = 404
    record = await send(server)
    assert (record.outcome, record.error) == (Outcome.ERROR, "HTTP 404: no room")


async def test_an_error_event_is_an_error_even_with_status_200(server: Any) -> None:
    server.behaviour.error_event_after = 2
    record = await send(server)
    assert (record.outcome, record.error) == (Outcome.ERROR, "error event: engine broke")
    assert record.output_tokens == 2


async def test_a_stream_cut_off_is_an_error(server: Any) -> None:
    server.behaviour.cut_after = 2
    record = await send(server)
    assert record.outcome is Outcome.ERROR
    assert "cut" in record.error


async def test_a_stream_without_done_is_an_error(server: Any) -> None:
    server.behaviour.done = False
    record = await send(server)
    assert (record.outcome, record.error) == (Outcome.ERROR, "the stream ended without [DONE]")


async def test_nobody_listening_is_an_error_not_an_exception(tmp_path: Path) -> None:
    async with Client(str(tmp_path / "nobody.sock")) as client:
        record = await client.send(b"{}", Record(0))
    assert record.outcome is Outcome.ERROR
    assert "cannot connect" in record.error


async def test_a_request_that_never_ends_times_out(server: Any) -> None:
    server.behaviour.hang = True
    record = await send(server, timeout_seconds=0.05)
    assert record.outcome is Outcome.TIMEOUT


async def test_cancelling_drops_the_connection(server: Any) -> None:
    server.behaviour.step_seconds = 10
    client = Client(server.socket_path)
    record = Record(0)
    task = asyncio.create_task(client.send(RequestFactory(Workload("m")).body(0), record))
    await server.until_in_flight(1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record.outcome is Outcome.CANCELLED


async def test_connections_are_kept_alive(server: Any) -> None:
    async with Client(server.socket_path) as client:
        for index in range(5):
            await client.send(RequestFactory(Workload("m", 4, 2)).body(index), Record(index))
    assert server.connections == 1


async def test_a_connection_the_server_closed_is_replaced(server: Any) -> None:
    server.behaviour.close_after_answer = True
    async with Client(server.socket_path) as client:
        records = [
            await client.send(RequestFactory(Workload("m", 4, 2)).body(i), Record(i))
            for i in range(3)
        ]
    assert [r.outcome for r in records] == [Outcome.OK] * 3
    assert server.connections == 3


async def test_url_targets_and_the_bearer_key(server: Any) -> None:
    async with Client(f"http://127.0.0.1:{server.port}/v1", api_key="secret") as client:
        record = await client.send(RequestFactory(Workload("m", 4, 2)).body(0), Record(0))
    assert record.outcome is Outcome.OK
    assert b"POST /v1/completions HTTP/1.1\r\n" in server.headers[0]
    assert b"Authorization: Bearer secret\r\n" in server.headers[0]
