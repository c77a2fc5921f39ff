"""The proxy accepts the right input of raw clients; what it refuses is in `tests/security`."""

import asyncio
import json

import pytest

from partitiond.proxy.edge.data_protocol import LINGER_BODIES, LINGER_SECONDS
from partitiond.proxy.edge.state import SWEEP_SECONDS
from tests.proxy.conftest import Make, Proxy, post, table
from tests.proxy.scripted import Gate, answer, completion, plays
from tests.proxy.virtual import RawClient, running_loop, settled

BODY = json.dumps({"model": "m", "prompt": "x"}).encode()
KEPT = post(BODY)
LAST = KEPT.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


async def talk(proxy: Proxy, data: bytes) -> bytes:
    """Send bytes, and read until the proxy closes."""
    client = await RawClient.to(proxy.port)
    client.send(data)
    return await client.rest()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"POST /v1/compl", b"HTTP/1.1 408 "),
        (HEAD + b"x", b"HTTP/1.1 408 "),
        (LAST[:-5], b"HTTP/1.1 408 "),
        (KEPT + b"POST /v1/compl", b"HTTP/1.1 404 "),  # and then the other one
    ],
)
async def test_a_head_that_never_ends_is_cut_off(make: Make, data: bytes, status: bytes) -> None:
    """Who began a request is told why; who began none is not."""
    proxy = await make.proxy(table(models=()), client_timeout_seconds=10)
    answer = await talk(proxy, data)
    assert answer[:13] == status
    if status:
        head, _, body = answer[answer.index(b"HTTP/1.1 408 ") :].partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert json.loads(body)["error"]["code"] == "timeout"


@pytest.mark.parametrize("at", [0, len(HEAD) + 30])
async def test_a_request_that_comes_a_byte_at_a_time_has_a_time_limit(make: Make, at: int) -> None:
    """Activity does not extend it: 'slowloris' clients send a byte now and then for ever."""
    proxy = await make.proxy(table(), client_timeout_seconds=10)
    client = await RawClient.to(proxy.port)
    data = post({"model": "m", "prompt": "x" * 1000})
    client.send(data[:at])
    answering = asyncio.create_task(client.rest())
    rest = iter(data[at:])

    async def poll() -> None:
        while not answering.done():
            client.send(bytes([next(rest)]))
            await asyncio.sleep(1)

    await poll()
    assert answering.result().startswith(b"HTTP/1.1 408 ")
    assert len(data) - at - len([*rest]) in range(9, 13)


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD + b"x: ", b"y" * 10_000),
        (HEAD + b"x", b"y" * 10_000),
        (b"POST /", b"y" * 10_000),
        (CHUNKED + b"0\r\nx: ", b"y" * 10_000),
        (CHUNKED + b"0\r\nx", b"y" * 10_000),
        (CHUNKED + b"0\r\n", b"x: y\r\n" * 1000),
        (CHUNKED + b"1;", b"y" * 10_000),
    ],
)
async def test_an_endless_head_is_cut_off(make: Make, begin: bytes, piece: bytes) -> None:
    """Or trailer, or a line of a chunk: what is kept of it is bounded."""
    proxy = await make.proxy(table())
    client = await RawClient.to(proxy.port)
    client.send(begin)
    answering = asyncio.create_task(client.until(b"\r\n\r\n"))
    sent = 0
    while not answering.done() and sent < 500_000:
        client.send(piece)
        sent += len(piece)
        await asyncio.wait({answering}, timeout=0.01)
    assert (await answering).startswith(b"HTTP/1.1 431 "), sent
    assert b'"headers_too_large"' in await client.until(b"}}")
    client.leave()
    await proxy.until(lambda: not proxy.connections())


async def test_a_body_in_many_small_chunks_is_no_endless_head(make: Make) -> None:
    """The lines and extensions of all chunks together are longer than a head may be."""
    proxy, engine = await make.both()
    body = json.dumps({"model": "m", "prompt": "x" * 2000}).encode()
    chunks = b"".join(b"1;%b\r\n%c\r\n" % (b"e" * 40, byte) for byte in body)
    assert len(chunks) > 2 * proxy.state.options.max_header_bytes
    client = await RawClient.to(proxy.port)
    data = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    for at in range(0, len(data), 4000):
        client.send(data[at : at + 4000])
        for _ in range(3):
            await asyncio.sleep(0)  # the proxy, in the same loop, reads it before the next one
    assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
    assert engine.received[0].body == json.loads(body)


async def test_kept_connections_get_their_answers_in_order(make: Make) -> None:
    proxy, _ = await make.both()
    client = await RawClient.to(proxy.port)
    for data in (KEPT, b"\r\n" + KEPT):
        client.send(data)
        assert (await client.until(b"}}")).startswith(b"HTTP/1.1 200 ")
    client.send(LAST)
    assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 1
    assert proxy.idle()


async def test_an_empty_line_behind_a_request_is_no_further_one(make: Make) -> None:
    """Whether it comes with the request or while that is being answered (RFC 9112, 2.2)."""
    gate = Gate()
    proxy, engine = await make.both(gate)
    client = await RawClient.to(proxy.port)
    for count, (sent, later) in enumerate(((KEPT + b"\r\n", b""), (KEPT, b"\r\n"), (KEPT, b"")), 1):
        client.send(sent)
        await engine.got(count)
        client.send(later)
        await settled()
        gate.open()
        assert b"connection: close" not in await client.until(b"\r\n\r\n")
        await client.until(b"}}")


EARLY = [
    b"junk\r\n\r\n",
    KEPT.replace(b"POST", b"CONNECT", 1),
    CHUNKED[: CHUNKED.index(b"{") + 5] + b"junk" * 99,
    KEPT.replace(b"host", b"x: %b\r\nhost" % (b"y" * 40_000), 1),
    KEPT,
    KEPT * 3,
    KEPT[:20],
]


@pytest.mark.parametrize("data", EARLY)
@pytest.mark.parametrize("apart", [True, False])
async def test_what_comes_before_an_answer_is_not_taken_and_the_answer_is_given(
    make: Make, data: bytes, *, apart: bool
) -> None:
    """Whether it comes with the request or while that is being answered."""
    gate = Gate()
    proxy, engine = await make.both(gate)
    client = await RawClient.to(proxy.port)
    client.send(KEPT if apart else KEPT + data)
    await engine.got(1)
    client.send(data if apart else b"")
    await settled()
    gate.open()
    answers = (await client.rest()).split(b"HTTP/1.1 ")
    assert [answer[:3] for answer in answers] == [b"", b"200"]
    assert b"connection: close" in answers[1]
    await settled()
    assert (proxy.idle(), len(engine.received), proxy.state.reading) == (True, 1, set())
    assert proxy.state.bodies.held == 0


async def test_a_slow_client_has_its_whole_answers_before_the_connection_ends(make: Make) -> None:
    proxy, _ = await make.both(plays(*answer(completion("x" * 1_000_000))))
    client = await RawClient.to(proxy.port, limit=1024)
    client.send(KEPT + b"junk\r\n\r\n")
    later = running_loop().time() + 2 * LINGER_SECONDS
    await proxy.until(lambda: running_loop().time() >= later)
    whole = await client.rest()
    assert (len(whole) > 1_000_000, whole.count(b"HTTP/1.1 ")) == (True, 1)
    (connection,) = proxy.lanes()
    assert not connection.read_paused, "unread bytes would reset the connection"


@pytest.mark.parametrize("data", [b"junk\r\n\r\n", HEAD + b"content-length: 99999999\r\n\r\n"])
async def test_a_client_that_sends_on_after_its_last_answer_is_ended_soon(
    make: Make, data: bytes
) -> None:
    """Its bytes are dropped lest the answer be lost, but neither for long nor without bound."""
    proxy = await make.proxy(table(), max_body_bytes=50_000)
    client = await RawClient.to(proxy.port)
    client.send(data)
    await client.until(b"}}")
    began = running_loop().time()
    (connection,) = proxy.lanes()
    sent = 0
    while not connection.read_paused:
        client.send(b"x" * 10_000)
        sent += 10_000
        await settled()
    assert LINGER_BODIES * 50_000 < sent < LINGER_BODIES * 50_000 + 30_000
    await proxy.until(lambda: not proxy.connections())
    assert running_loop().time() - began == pytest.approx(LINGER_SECONDS, abs=4 * SWEEP_SECONDS)


async def test_many_requests_at_once_are_not_taken_for_one_large_head(make: Make) -> None:
    proxy = await make.proxy(table(models=()))
    count = proxy.state.options.max_header_bytes // len(KEPT) + 10
    data = KEPT * (count - 1) + LAST
    client = await RawClient.to(proxy.port)
    cut = len(data) - len(BODY) - 50  # in the last one's head
    client.send(data[:cut])
    for _ in range(count - 1):
        assert b"HTTP/1.1 404 " in await client.until(b"model_not_found")
    client.send(data[cut:])
    assert (await client.rest()).count(b"HTTP/1.1 404 ") == 1


@pytest.mark.parametrize("begun", [True, False])
async def test_while_shutting_down_nobody_waits_for_half_a_body(make: Make, *, begun: bool) -> None:
    """Whether the request came before the shutdown began or after."""
    proxy = await make.proxy(table())
    if not begun:
        proxy.state.stop_admitting()
    talking = asyncio.create_task(talk(proxy, KEPT[:-5]))
    await proxy.until(lambda: bool(proxy.state.reading))
    proxy.state.stop_admitting()
    answer = await talking
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in answer
    assert b'"shutting_down"' in answer
