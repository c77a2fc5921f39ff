"""A request's record is right for every way in which an answer can go."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Client, Outcome, Record, Workload
from loadgen.load.workload import RequestFactory


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


async def test_a_proxy_may_say_which_replica_answered(server: Any) -> None:
    assert (await send(server)).replica == ""
    server.behaviour.replica = "m-2"
    assert (await send(server)).replica == "m-2"


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


async def test_a_chat_answer_counts_output_and_not_the_opening_role() -> None:
    from loadgen.http.sse import StreamReader

    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"reasoning_content": "so"}}]},
        {"choices": [{"index": 0, "delta": {"content": " yes"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    record = Record(0)
    reader = StreamReader(record, None)
    for event in events:
        reader.feed(f"data: {json.dumps(event)}\n\n".encode(), 1.0)
    assert record.output_tokens == 2


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
async def test_the_quick_way_counts_as_the_thorough_one(separators: tuple[str, str]) -> None:
    from loadgen.http.sse import StreamReader

    tricky = 'he said "completion_tokens":99 and "choices":[{ twice'
    events: list[dict[str, object]] = [
        {"choices": [{"text": tricky}], "usage": {"completion_tokens": 1, "prompt_tokens": 3}},
        {"choices": [{"text": "b"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}},
    ]
    record = Record(0)
    reader = StreamReader(record, None)
    data = "".join(f"data: {json.dumps(e, separators=separators)}\n\n" for e in events)
    reader.feed(f": ping\n\n{data}data: [DONE]\n\n".encode(), 1.0)
    assert (record.output_tokens, record.usage_tokens, record.prompt_tokens) == (4, 5, 3)
    assert list(record.chunk_tokens) == [1, 3]
    assert reader.done


async def test_a_page_that_is_no_stream_is_an_error(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello"
        )
        await writer.drain()
        writer.close()

    path = str(tmp_path / "web.sock")
    listening = await asyncio.start_unix_server(greet, path)
    async with Client(path) as client:
        record = await client.send(b"{}", Record(0))
    listening.close()
    assert (record.outcome, record.error) == (
        Outcome.ERROR, "the answer is no event stream: hello",
    )  # fmt: skip


texts = st.text(alphabet='ab"\\\\[{:,}\n\r\u00e9 choicesompletin_tk', max_size=30)


@given(
    st.lists(st.tuples(texts, st.integers(0, 3), st.booleans()), max_size=12),
    st.lists(st.integers(0, 4000), max_size=6),
)
def test_chunks_taken_whole_count_as_chunks_cut_anywhere(
    steps: list[tuple[str, int, bool]], cuts: list[int]
) -> None:
    from loadgen.http.http1 import AnswerReader
    from loadgen.http.sse import StreamReader

    total, chunks = 0, []
    for text, tokens, spaced in steps:
        total += tokens
        body = {"choices": [{"text": text}], "usage": {"completion_tokens": total}}
        separators = (", ", ": ") if spaced else (",", ":")
        event = f"data: {json.dumps(body, separators=separators)}\n\n".encode()
        chunks.append(b"%x\r\n%b\r\n" % (len(event), event))
    quick, thorough = Record(0), Record(0)
    whole, slow = StreamReader(quick, None), StreamReader(thorough, None)
    for chunk in chunks:
        if not whole.chunk(chunk, 1.0):
            whole.feed(chunk[chunk.index(b"\r\n") + 2 : -2], 1.0)
    data, answer = b"".join(chunks), AnswerReader()
    answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    before = 0
    for cut in [*sorted({min(c, len(data)) for c in cuts}), len(data)]:
        for piece in answer.feed(data[before:cut]):
            slow.feed(piece, 1.0)
        before = cut
    assert quick.output_tokens == thorough.output_tokens == total
    assert list(quick.chunk_tokens) == list(thorough.chunk_tokens)


def test_two_events_in_one_chunk_are_left_to_the_thorough_reader() -> None:
    from loadgen.http.sse import StreamReader

    one = b'data: {"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}\n\n'
    reader = StreamReader(Record(0), None)
    assert not reader.chunk(b"%x\r\n%b\r\n" % (2 * len(one), one + one), 1.0)
    assert not reader.chunk(b"%x\r\n%b\r\n" % (len(one) + 1, one), 1.0)
    assert not reader.chunk(b"zz\r\n" + one + b"\r\n", 1.0)
    assert reader.chunk(b"%x\r\n%b\r\n" % (len(one), one), 1.0)
