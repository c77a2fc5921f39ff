"""A request's record is right for every way in which an answer can go."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Client, Endpoint, Outcome, Record, Workload
from loadgen.http.http1 import AnswerReader, HttpError
from loadgen.http.sse import StreamReader
from loadgen.load.workload import RequestFactory


async def send(server: Any, tokens: int = 5, **options: Any) -> Record:
    body = RequestFactory(Workload("m", 4, tokens)).body(0)
    async with Client(server.socket_path, **options) as client:
        return await client.send(body, Record(0))


@pytest.mark.parametrize(("split_bytes", "line_end"), [(0, b"\n"), (7, b"\r\n")])
async def test_every_token_is_counted_and_latencies_follow_their_definitions(
    server: Any, split_bytes: int, line_end: bytes
) -> None:
    server.behaviour.split_bytes = split_bytes
    server.behaviour.line_end = line_end
    server.behaviour.replica = "m-2"
    record = await send(server, tokens=10)
    assert (record.outcome, record.output_tokens, record.usage_tokens) == (Outcome.OK, 10, 10)
    assert not record.tokens_mismatch
    assert (record.prompt_tokens, sum(record.chunk_tokens)) == (7, 10)
    assert record.replica == "m-2", "a proxy may say which replica answered"
    assert record.ttft is not None
    assert record.e2el is not None
    assert record.tpot == pytest.approx((record.e2el - record.ttft) / 9)
    assert len(record.itl) == 9
    assert record.ttft + sum(record.itl) <= record.e2el


@pytest.mark.parametrize(
    ("does", "tokens", "usage", "mismatch"),
    [
        ({"tokens_per_chunk": 4}, 10, 10, False),
        # Without usage in each chunk a chunk is a token.
        ({"continuous_usage": False}, 10, 10, False),
        ({"continuous_usage": False, "tokens_per_chunk": 2}, 5, 10, True),
        ({"continuous_usage": False, "final_usage": False}, 10, None, False),
    ],
)
async def test_tokens_are_counted_by_what_the_server_tells(
    server: Any, does: dict[str, Any], tokens: int, usage: int | None, mismatch: bool
) -> None:
    server.behaviour = dataclasses.replace(server.behaviour, **does)
    record = await send(server, tokens=10)
    assert (record.output_tokens, record.usage_tokens) == (tokens, usage)
    assert record.tokens_mismatch == mismatch


@pytest.mark.parametrize(
    ("does", "outcome", "error"),
    [
        ({"status": 429}, Outcome.REFUSED, "no room"),
        ({"status": 503}, Outcome.REFUSED, "no room"),
        ({"status": 404}, Outcome.ERROR, "HTTP 404: no room"),
        ({"error_event_after": 2}, Outcome.ERROR, "error event: engine broke"),
        ({"cut_after": 2}, Outcome.ERROR, "cut"),
        ({"done": False}, Outcome.ERROR, "the stream ended without [DONE]"),
        ({"hang": True}, Outcome.TIMEOUT, ""),
    ],
)
async def test_a_request_that_fails_says_how(
    server: Any, does: dict[str, Any], outcome: Outcome, error: str
) -> None:
    """Refusals are apart from errors; an error event is one even with status 200."""
    server.behaviour = dataclasses.replace(server.behaviour, **does)
    record = await send(server, timeout_seconds=0.05 if "hang" in does else 60)
    assert (record.outcome, error in record.error) == (outcome, True)
    assert record.retry_after == ("2" if "status" in does else "")


async def test_a_request_of_nobody_or_cancelled_has_its_outcome(
    tmp_path: Path, server: Any
) -> None:
    async with Client(str(tmp_path / "nobody.sock")) as client:
        record = await client.send(b"{}", Record(0))
    assert record.outcome is Outcome.ERROR
    assert "cannot connect" in record.error
    server.behaviour.step_seconds = 10
    client = Client(server.socket_path)
    record = Record(0)
    task = asyncio.create_task(client.send(RequestFactory(Workload("m")).body(0), record))
    await server.until_in_flight(1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record.outcome is Outcome.CANCELLED


@pytest.mark.parametrize(("closes", "connections"), [(False, 1), (True, 3)])
async def test_connections_are_kept_alive_or_replaced(
    server: Any, closes: bool, connections: int
) -> None:
    server.behaviour.close_after_answer = closes
    async with Client(f"http://127.0.0.1:{server.port}/v1", api_key="secret") as client:
        for index in range(3):
            body = RequestFactory(Workload("m", 4, 2)).body(index)
            assert (await client.send(body, Record(index))).outcome is Outcome.OK
    assert server.connections == connections
    assert server.received[0].path == "/v1/completions"
    assert server.received[0].headers["authorization"] == "bearer secret"


async def test_a_chat_answer_counts_output_and_not_the_opening_role() -> None:
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


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        (Endpoint.EMBEDDINGS, "/v1/embeddings"),
        (Endpoint.POOLING, "/pooling"),
        (Endpoint.CLASSIFY, "/classify"),
    ],
)
async def test_an_answer_in_one_piece_counts_as_all_of_its_output(
    server: Any, endpoint: Endpoint, path: str
) -> None:
    extra = {"encoding_format": "base64"} if endpoint is Endpoint.POOLING else {}
    load = Workload("m", 4, 3, last_token_id=1, endpoint=endpoint, extra=extra)
    request = RequestFactory(load).request(0)
    told: list[int] = []
    async with Client(server.socket_path) as client:
        record = Record(0, wanted_output_tokens=request.output_tokens)
        await client.send(
            request.body, record, lambda _, tokens: told.append(tokens), endpoint=request.endpoint
        )
        # A stream where a document is wanted is none of the measured answers.
        stream = await client.send(
            RequestFactory(Workload("m")).body(0), Record(1), endpoint=endpoint
        )
    assert server.bodies[0] == {"model": "m", "input": [1, 1, 1, 1], **extra}
    assert server.received[0].path == path
    assert (record.outcome, record.output_tokens, told) == (Outcome.OK, 3, [3])
    assert (record.prompt_tokens, record.tokens_mismatch) == (7, False)
    assert stream.outcome is Outcome.ERROR
    assert "no JSON document" in stream.error


@pytest.mark.parametrize(
    ("endpoint", "text", "error"),
    [
        (Endpoint.COMPLETIONS, b"hello", "the answer is no event stream: hello"),
        (Endpoint.POOLING, b"hello", "the answer is no JSON document: hello"),
        (Endpoint.POOLING, b'{"data":[', 'the answer is no JSON document: {"data":['),
    ],
)
async def test_a_page_that_is_no_answer_is_an_error(
    tmp_path: Path, endpoint: Endpoint, text: bytes, error: str
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + text)
        await writer.drain()
        writer.close()

    path = str(tmp_path / "web.sock")
    listening = await asyncio.start_unix_server(greet, path)
    async with Client(path) as client:
        record = await client.send(b"{}", Record(0), endpoint=endpoint)
    listening.close()
    assert (record.outcome, record.error) == (Outcome.ERROR, error)


texts = st.text(alphabet='ab"\\\\[{:,}\n\r\u00e9 choicesompletin_tk', max_size=30)


@given(
    st.lists(st.tuples(texts, st.integers(0, 3), st.booleans()), max_size=12),
    st.lists(st.integers(0, 4000), max_size=6),
)
def test_chunks_taken_whole_count_as_chunks_cut_anywhere(
    steps: list[tuple[str, int, bool]], cuts: list[int]
) -> None:
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


def test_an_event_as_large_as_an_answer_is_read_and_copied_once() -> None:
    """Copying what is held for each of its pieces would take minutes."""
    body = {"choices": [{"text": "x" * 2_000_000}], "usage": {"completion_tokens": 7}}
    event = f"data: {json.dumps(body)}\r\n\r\n".encode()
    record = Record(0)
    reader = StreamReader(record, None)
    for at in range(0, len(event), 8):
        reader.feed(event[at : at + 8], 1.0)
    assert (record.output_tokens, reader.error) == (7, "")


def test_two_events_in_one_chunk_are_left_to_the_thorough_reader() -> None:
    one = b'data: {"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}\n\n'
    reader = StreamReader(Record(0), None)
    assert not reader.chunk(b"%x\r\n%b\r\n" % (2 * len(one), one + one), 1.0)
    assert not reader.chunk(b"%x\r\n%b\r\n" % (len(one) + 1, one), 1.0)
    assert not reader.chunk(b"zz\r\n" + one + b"\r\n", 1.0)
    assert reader.chunk(b"%x\r\n%b\r\n" % (len(one), one), 1.0)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)
PLAIN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-A:  b \r\n\r\noh no"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def read(data: bytes, cuts: list[int]) -> tuple[AnswerReader, bytes]:
    reader, body, before = AnswerReader(), b"", 0
    for cut in [*sorted({min(c, len(data)) for c in cuts}), len(data)]:
        body += b"".join(reader.feed(data[before:cut]))
        before = cut
    return reader, body


@given(st.lists(st.integers(0, 200), max_size=12))
def test_chunks_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    reader, body = read(CHUNKED, cuts)
    assert (reader.status, body, reader.complete, reader.keep_alive) == (
        200, b"hello world", True, True,
    )  # fmt: skip


@pytest.mark.parametrize("data", [PLAIN, INTERIM])
@given(st.lists(st.integers(0, 100), max_size=8))
def test_bodies_of_stated_length(data: bytes, cuts: list[int]) -> None:
    reader, body = read(data, cuts)
    assert (reader.status, body, reader.complete) == (404, b"oh no", True)
    assert reader.headers[b"x-a"] == b"b"


def test_bodies_that_end_with_their_connection_are_those_without_a_length() -> None:
    reader, body = read(b"HTTP/1.1 200 OK\r\n\r\nabc", [])
    assert (body, reader.complete) == (b"abc", False)
    assert reader.end_of_stream()
    assert not reader.keep_alive
    reader, _ = read(CHUNKED[:-10], [])
    assert not reader.end_of_stream()
    for head, keep_alive in (
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", True),
    ):
        reader, _ = read(head + b"Content-Length: 0\r\n\r\n", [])
        assert (reader.keep_alive, reader.complete) == (keep_alive, True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(HttpError):
        AnswerReader().feed(data)
