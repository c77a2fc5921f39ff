"""Large request bodies in memory share one bound, and count as long as they are held."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import Received, Step, answer, completion

LIMIT = 100_000


def body(size: int, **fields: object) -> bytes:
    """So many bytes of JSON."""
    fields = {"model": "m", "prompt": "", **fields}
    empty = json.dumps(fields).encode()
    filled = json.dumps({**fields, "prompt": "x" * (size - len(empty))}).encode()
    assert len(filled) == size
    return filled


def head(*headers: bytes) -> bytes:
    lines = [
        b"POST /v1/completions HTTP/1.1",
        b"host: localhost",
        b"content-type: application/json",
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def request(data: bytes) -> bytes:
    return head(b"content-length: %d" % len(data)) + data


async def post(proxy: Proxy, data: bytes) -> httpx.Response:
    async with proxy.client as client:
        headers = {"content-type": "application/json"}
        return await client.post("/v1/completions", content=data, headers=headers)


def check_full(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "bodies_full"
    assert int(response.headers["retry-after"]) >= 1


def held(go_on: asyncio.Event) -> Callable[[Received], list[Step]]:
    return lambda received: (
        [go_on, *answer(completion())] if received.body.get("held") else answer(completion())
    )


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_that_come_slowly_are_bounded_together(
    make_proxy: MakeProxy, make_engine: MakeEngine, *, chunked: bool
) -> None:
    proxy = await make_proxy(table(replica(await make_engine())), max_bodies_bytes=LIMIT)
    slow = body(60_000)
    begun = slow[:-1]
    if chunked:
        begun = head(b"transfer-encoding: chunked") + b"%x\r\n" % len(slow) + begun
        rest = slow[-1:] + b"\r\n0\r\n\r\n"
    else:
        begun, rest = request(slow)[:-1], slow[-1:]
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(begun)
    await proxy.until(lambda: proxy.state.body_bytes == len(slow) - 1)
    check_full(await post(proxy, body(LIMIT - len(slow) + 2)))
    assert (await post(proxy, body(LIMIT - len(slow) + 1))).status_code == 200, "it just fits"
    assert proxy.state.body_bytes == len(slow) - 1
    writer.write(rest)
    assert b"200" in await reader.readline()
    await proxy.until(lambda: proxy.state.body_bytes == 0)
    assert (await post(proxy, body(LIMIT))).status_code == 200
    writer.transport.abort()


async def test_a_body_counts_until_its_request_has_its_answer_and_small_ones_never(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)), max_bodies_bytes=LIMIT)
    first = asyncio.create_task(post(proxy, body(LIMIT, held=True)))
    await engine.until(lambda: len(engine.received) == 1)
    assert proxy.state.body_bytes == LIMIT
    check_full(await post(proxy, body(16_385)))
    assert (await post(proxy, body(16_384))).status_code == 200
    go_on.set()
    assert (await first).status_code == 200
    assert (await post(proxy, body(LIMIT))).status_code == 200
    assert proxy.state.body_bytes == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (body(50_000)[:-1] + b"]", 400),
        (body(50_000, model="unknown"), 404),
        (body(90_001), 413),
        (body(50_000, fails=True), 502),
    ],
)
async def test_a_refused_or_failed_body_is_held_no_more(
    make_proxy: MakeProxy, make_engine: MakeEngine, data: bytes, status: int
) -> None:
    engine = await make_engine(lambda _: ["reset"])
    proxy = await make_proxy(table(replica(engine)), max_bodies_bytes=LIMIT, max_body_bytes=90_000)
    for send in (data, data):  # the second time its head is known
        assert (await post(proxy, send)).status_code == status
        assert proxy.state.body_bytes == 0


@pytest.mark.parametrize("part", ["half of it", "all of it", "half of it behind another"])
async def test_a_body_is_held_no_more_once_its_client_has_left(
    make_proxy: MakeProxy, make_engine: MakeEngine, part: str
) -> None:
    engine = await make_engine(held(asyncio.Event()))
    proxy = await make_proxy(table(replica(engine)), max_bodies_bytes=LIMIT)
    data = request(body(50_000, held=True))
    if part == "half of it":
        data = data[:-100]
    elif part == "half of it behind another":
        data = (request(body(20_000, held=True)) + data)[:-100]
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(data)
    await proxy.until(lambda: proxy.state.body_bytes > 40_000)
    writer.transport.abort()
    await proxy.until(lambda: not proxy.connections() and proxy.state.body_bytes == 0)


async def test_a_body_behind_the_last_answer_of_a_connection_is_held_no_more(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)), max_bodies_bytes=LIMIT)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(request(body(20_000, held=True)) + request(body(30_000)))
    await proxy.until(lambda: proxy.state.body_bytes == 50_000)
    (connection,) = proxy.lanes()
    connection.shutdown()  # as the server does it: what runs is answered, and nothing after it
    go_on.set()
    async with asyncio.timeout(120):
        assert (await reader.read()).count(b"HTTP/1.1 ") == 1
    assert proxy.state.body_bytes == 0
    assert len(engine.received) == 1
    writer.transport.abort()


async def test_a_body_that_is_only_read_to_be_dropped_is_not_held(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(), max_bodies_bytes=LIMIT, max_body_bytes=50_000)
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(head(b"transfer-encoding: chunked") + b"%x\r\n" % 60_000)
    writer.write(b" " * 50_000)
    await proxy.until(lambda: proxy.state.body_bytes == 50_000)
    writer.write(b" ")
    await proxy.until(lambda: proxy.state.body_bytes == 0)
    assert proxy.state.reading, "the rest of it is awaited"
    writer.transport.abort()
    await proxy.until(lambda: not proxy.state.reading)
    assert proxy.state.body_bytes == 0, "it is let go of once"


async def test_a_body_that_is_not_awaited_any_more_is_not_held(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table(), max_bodies_bytes=LIMIT)
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(request(body(50_000))[:-1])
    await proxy.until(lambda: proxy.state.body_bytes == 49_999)
    proxy.state.stop_admitting()
    assert proxy.state.body_bytes == 0
    writer.transport.abort()
    await proxy.until(lambda: not proxy.state.reading)
    assert proxy.state.body_bytes == 0, "it is let go of once"


async def test_small_bodies_that_wait_behind_another_are_held_too(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """Else each connection could hold as many as one read brings."""
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)), max_body_bytes=LIMIT, max_bodies_bytes=LIMIT)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    small = body(10_000)
    writer.write(request(body(10_000, held=True)))
    await engine.until(lambda: len(engine.received) == 1)
    assert proxy.state.body_bytes == 0
    writer.write(request(small) * 3)
    await proxy.until(lambda: proxy.state.body_bytes == 30_000)
    check_full(await post(proxy, body(80_000)))
    go_on.set()
    for _ in range(4):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}}")
    assert proxy.state.body_bytes == 0
    writer.close()
