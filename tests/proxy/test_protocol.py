"""The proxy accepts the right input of raw clients, and refuses the rest."""

import asyncio
import json

import pytest

from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.virtual import real_time

BODY = json.dumps({"model": "m", "prompt": "x"}).encode()


async def talk(proxy: Proxy, data: bytes, *, finish: bool = True) -> bytes:
    """Send bytes and read until the proxy closes (or is silent after a whole answer)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(data)
    if finish:
        writer.write_eof()
    try:
        async with asyncio.timeout(120):
            return await reader.read()
    finally:
        writer.transport.abort()


def request(*headers: bytes, line: bytes = b"POST /v1/completions HTTP/1.1") -> bytes:
    return b"\r\n".join(
        [
            line,
            *headers,
            b"content-type: application/json",
            b"connection: close",
            b"content-length: %d" % len(BODY),
            b"",
            BODY,
        ]
    )


@real_time  # a client that sends on after the answer is reset in another way by a pair of sockets
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(), 400),
        (request(b"host: localhost", b"host: b"), 400),
        (request(b"host: localhost", line=b"POST /v1/completions HTTP/9.9"), 400),
        (b"GET /v1/models\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (request(b"host: localhost", b"transfer-encoding: chunked"), 400),
        (request(b"host: localhost", b"content-length: 5"), 400),
        (request(b"host: localhost", b"bad header"), 400),
        (request(b"host: localhost", b"x: " + b"y" * 40_000), 431),
        (request(b"host: localhost", *[b"x%d: y" % i for i in range(9000)]), 431),
        (request(b"host: localhost", line=b"POST /" + b"x" * 40_000 + b" HTTP/1.1"), 431),
        (request(b"host: localhost", line=b"GET /v1/x/../completions HTTP/1.1"), 404),
        (request(b"host: localhost", line=b"POST /v1/./completions HTTP/1.1"), 404),
        (request(b"host: localhost", line=b"POST http://other/v1/completion HTTP/1.1"), 404),
        (request(b"host: localhost", line="POST /v1/é HTTP/1.1".encode()), 400),
        (request(b"host: localhost", b"content-length: 99999999999999999999999"), 400),
    ],
)
async def test_what_cannot_be_read_is_refused_in_openais_shape(
    make_proxy: MakeProxy, make_engine: MakeEngine, data: bytes, status: int
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    answer = await talk(proxy, data, finish=False)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    assert b"x-request-id: req-" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert not engine.received


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"POST /v1/compl", b"HTTP/1.1 408 "),
        (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx", b"HTTP/1.1 408 "),
        (request(b"host: localhost")[:-5], b"HTTP/1.1 408 "),
    ],
)
async def test_a_head_that_never_ends_is_cut_off(
    make_proxy: MakeProxy, data: bytes, status: bytes
) -> None:
    """Who began a request is told why; who began none is not."""
    proxy = await make_proxy(table(), client_timeout_seconds=0.2)
    answer = await talk(proxy, data, finish=False)
    assert answer[:13] == status
    if status:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert json.loads(body)["error"]["code"] == "timeout"


async def test_half_a_head_behind_an_answer_is_told_so_too(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(models=()), client_timeout_seconds=0.2)
    kept = request(b"host: localhost").replace(b"connection: close\r\n", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(kept)
    assert b"404" in await reader.readline()
    writer.write(b"POST /v1/compl")
    async with asyncio.timeout(120):
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1 408 ") == 1
    writer.transport.abort()


CHUNKED = b"\r\n".join(
    [
        b"POST /v1/completions HTTP/1.1",
        b"host: localhost",
        b"content-type: application/json",
        b"transfer-encoding: chunked",
        b"",
        b"%x" % len(BODY),
        BODY,
        b"",
    ]
)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx: ", b"y" * 10_000),
        (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx", b"y" * 10_000),
        (b"POST /", b"y" * 10_000),
        (CHUNKED + b"0\r\nx: ", b"y" * 10_000),
        (CHUNKED + b"0\r\nx", b"y" * 10_000),
        (CHUNKED + b"0\r\n", b"x: y\r\n" * 1000),
        (CHUNKED + b"1;", b"y" * 10_000),
    ],
)
async def test_an_endless_head_is_cut_off(
    make_proxy: MakeProxy, begin: bytes, piece: bytes
) -> None:
    """Or trailer, or a line of a chunk: what is kept of it is bounded."""
    proxy = await make_proxy(table())
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(begin)
    answering = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    sent = 0
    async with asyncio.timeout(120):
        while not answering.done() and sent < 500_000:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            await asyncio.wait({answering}, timeout=0.01)
        assert (await answering).startswith(b"HTTP/1.1 431 "), sent
        assert b'"headers_too_large"' in await reader.readuntil(b"}}")
    writer.transport.abort()
    await proxy.until(lambda: not proxy.connections())


async def test_a_body_in_many_small_chunks_is_no_endless_head(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """The lines and extensions of all chunks together are longer than a head may be."""
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    body = json.dumps({"model": "m", "prompt": "x" * 2000}).encode()
    chunks = b"".join(b"1;%b\r\n%c\r\n" % (b"e" * 40, byte) for byte in body)
    assert len(chunks) > 2 * proxy.state.options.max_header_bytes
    head = CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\nconnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    data = head + chunks + b"0\r\n\r\n"
    for at in range(0, len(data), 4000):
        writer.write(data[at : at + 4000])
        await writer.drain()
        for _ in range(3):
            await asyncio.sleep(0)  # the proxy, in the same loop, reads it before the next one
    async with asyncio.timeout(120):
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    assert engine.received[0].body == json.loads(body)
    writer.transport.abort()


async def test_pipelined_and_kept_connections_get_their_answers_in_order(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy = await make_proxy(table(replica(await make_engine())))
    kept = request(b"host: localhost").replace(b"connection: close\r\n", b"")
    answer = await talk(proxy, kept + kept + request(b"host: localhost"), finish=False)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert proxy.idle()


async def test_many_requests_at_once_are_not_taken_for_one_large_head(
    make_proxy: MakeProxy,
) -> None:
    proxy = await make_proxy(table(models=()))
    kept = request(b"host: localhost").replace(b"connection: close\r\n", b"")
    count = proxy.state.options.max_header_bytes // len(kept) + 10
    data = kept * (count - 1) + request(b"host: localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    cut = len(data) - len(BODY) - 50  # in the last one's head
    writer.write(data[:cut])
    async with asyncio.timeout(120):
        answers = b""
        while answers.count(b"model_not_found") < count - 1:
            piece = await reader.read(65_536)
            assert piece, "closed"
            answers += piece
        writer.write(data[cut:])
        answers += await reader.read()
    assert answers.count(b"HTTP/1.1 404 ") == count
    writer.transport.abort()


@pytest.mark.parametrize("path", [b"/healthz", b"/health"])
async def test_health_needs_no_key(make_proxy: MakeProxy, path: bytes) -> None:
    proxy = await make_proxy(table(keys_required=True))
    for method in (b"GET", b"HEAD"):
        line = method + b" " + path + b" HTTP/1.1"
        answer = await talk(proxy, line + b"\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"\r\n\r\n") == (method == b"HEAD")


@pytest.mark.parametrize("begun", [True, False])
async def test_while_shutting_down_nobody_waits_for_half_a_body(
    make_proxy: MakeProxy, *, begun: bool
) -> None:
    """Whether the request came before the shutdown began or after."""
    proxy = await make_proxy(table())
    half = request(b"host: localhost")[:-5]
    if not begun:
        proxy.state.stop_admitting()
    talking = asyncio.create_task(talk(proxy, half, finish=False))
    await proxy.until(lambda: bool(proxy.state.reading))
    proxy.state.stop_admitting()
    async with asyncio.timeout(120):
        answer = await talking
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in answer
    assert b'"shutting_down"' in answer
