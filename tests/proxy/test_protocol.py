"""What raw clients may and may not send."""

import asyncio
import json

import pytest

from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table

BODY = json.dumps({"model": "m", "prompt": "x"}).encode()


async def talk(proxy: Proxy, data: bytes, *, finish: bool = True) -> bytes:
    """Send bytes and read until the proxy closes (or is silent after a whole answer)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(data)
    if finish:
        writer.write_eof()
    try:
        async with asyncio.timeout(30):
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


async def test_a_head_that_never_ends_is_cut_off(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(), client_timeout_seconds=0.2)
    for data in (
        b"",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx",
        request(b"host: localhost")[:-5],
    ):
        answer = await talk(proxy, data, finish=False)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


async def test_an_endless_head_is_cut_off(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx: ")
    sent = 0
    while not reader.at_eof() and sent < 50 and not writer.is_closing():
        writer.write(b"y" * 10_000)
        sent += 1
        await asyncio.sleep(0.01)
        if b"431" in bytes(reader._buffer):  # type: ignore[attr-defined]
            break
    assert sent < 10
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
    async with asyncio.timeout(30):
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
    async with asyncio.timeout(30):
        answer = await talking
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in answer
    assert b'"shutting_down"' in answer
