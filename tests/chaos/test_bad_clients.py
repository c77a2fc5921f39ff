"""Clients that are slow, vanish, or send half or too much are bounded, and harm no other client.

The proxy is a process. While each of these clients misbehaves, an ordinary client keeps sending
requests, and each of its requests must be served.
"""

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.echo_engine import EchoEngine, echoing
from tests.chaos.raw_client import (
    COMPLETIONS,
    Answer,
    RawClient,
    ask,
    completion,
    read_head,
    request_bytes,
)
from tests.chaos.rig import (
    MIB,
    Proxies,
    ProxyUnderTest,
    replica,
    short_folder,
    until,
    until_async,
)
from tests.chaos.verdicts import Verdict, check_error, judge
from tests.machine import in_time

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_LIMIT = 1 * MIB
HEAD_LIMIT = 32 * 1024
CLIENT_SECONDS = 1.5
OPTIONS = {
    "max_body_bytes": BODY_LIMIT,
    "max_header_bytes": HEAD_LIMIT,
    "client_timeout_seconds": CLIENT_SECONDS,
    "max_connections": 600,
    "first_token_timeout_seconds": 120.0,
}
PATIENT_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Rig:
    proxy: ProxyUnderTest
    engine: EchoEngine
    folder: Path

    @property
    def port(self) -> int:
        return self.proxy.port


@contextlib.asynccontextmanager
async def rig_of(proxies: Proxies, **options: Any) -> AsyncIterator[Rig]:
    with short_folder() as folder:
        async with echoing(folder / "e.sock") as engine:
            async with proxies(folder, **{**OPTIONS, **options}) as proxy:
                # A replica for each: `m` with room, `one` for a single request at a time.
                await proxy.publish(
                    [
                        replica(engine.path, "m-0", max_sequences=256),
                        replica(engine.path, "one-0", max_sequences=1),
                    ]
                )
                yield Rig(proxy, engine, folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(proxies: Proxies) -> AsyncIterator[Rig]:
    async with rig_of(proxies) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    """After each test everything is back: counts, queues, connections to the engine in use."""
    yield shared
    await shared.proxy.settle()
    await until(lambda: shared.engine.running == 0, "the engine still works for somebody")


@contextlib.asynccontextmanager
async def others_are_served(rig: Rig) -> AsyncIterator[list[float]]:
    """An ordinary client beside it; the seconds each of its requests took."""
    seconds: list[float] = []
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        with RawClient(rig.port) as client:
            while not stop.is_set():
                token, number = f"o{number}", number + 1
                answer = await ask(client, f"token={token}", stream=bool(number & 1))
                assert judge(answer, token, 3, is_chat=False) is Verdict.COMPLETE, answer
                seconds.append(answer.seconds)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.01)

    task = asyncio.create_task(work())
    try:
        yield seconds
    finally:
        stop.set()
        await task
    assert seconds
    # A hang is what this is about, not the speed of a machine that does other things, too.
    assert in_time(max(seconds), 3.0, starts=10), f"others waited up to {max(seconds):.1f} s"


async def ends(client: RawClient, seconds: float = PATIENT_SECONDS) -> bytes:
    """What the proxy sends until it closes the connection."""
    got = b""
    async with asyncio.timeout(seconds):
        while data := await client.read(65536):
            got += data
    return got


# Slow readers


async def test_clients_that_do_not_read_slow_their_engine_and_fill_no_memory(
    proxies: Proxies,
) -> None:
    """Ten streams of 60 MB each that nobody takes."""
    pad, count, readers = 60_000, 1000, 10
    async with rig_of(proxies, client_timeout_seconds=60.0) as rig, others_are_served(rig):
        before, sent = rig.proxy.rss_bytes(), rig.engine.sent_bytes
        clients = [RawClient(rig.port) for _ in range(readers)]
        for number, client in enumerate(clients):
            await client.connect()
            if number:
                _narrow(client)
            prompt = f"token=r{number} count={count} pad={pad}"
            await client.send(request_bytes(COMPLETIONS, completion(prompt, stream=True)))
        await until_async(lambda: _stands_still(rig, sent), "the engine is not slowed")
        grown, written = rig.proxy.rss_bytes() - before, rig.engine.sent_bytes - sent
        print(
            f"\n{readers} streams of {count * pad / MIB:.0f} MiB that nobody reads: the engines "
            f"wrote {written / MIB:.1f} MiB, the proxy's memory grew by {grown / MIB:.1f} MiB"
        )
        # Over a hop also what the hosts' connection held when the owner was asked to pause.
        hops = len(rig.proxy.processes) - 1
        assert grown < readers * (1 + hops) * MIB + hops * 10 * MIB
        # The rest is in the kernel's socket buffers, whose sizes are the machine's.
        assert written < readers * 8 * MIB
        # And who reads at last gets all of it.
        answer = await clients[0].answer()
        assert judge(answer, "r0", count, is_chat=False, pad=pad) is Verdict.COMPLETE
        for client in clients:
            client.close()
        await rig.proxy.settle()
        await until(lambda: rig.engine.running == 0, "the engine still writes for nobody")


def _narrow(client: RawClient) -> None:
    """As little room as the kernel gives for what the client has not read."""
    assert client.writer is not None
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


async def _stands_still(rig: Rig, since: int) -> bool:
    """Whether the engine has written something and writes no more (but for the others)."""
    before = rig.engine.sent_bytes
    await asyncio.sleep(0.3)
    return before > since + MIB // 2 and rig.engine.sent_bytes - before < MIB // 4


async def test_a_client_that_never_reads_is_let_go(rig: Rig) -> None:
    """Else it would hold its place at the engine for ever."""
    with RawClient(rig.port) as client:
        await client.connect()
        _narrow(client)
        prompt = "token=never count=2000 pad=8000"
        payload = completion(prompt, stream=True) | {"model": "one"}
        await client.send(request_bytes(COMPLETIONS, payload))
        await until(lambda: rig.engine.running > 0, "it does not begin")
        await until(lambda: rig.engine.running == 0, "the engine is held", CLIENT_SECONDS + 10)
        with RawClient(rig.port) as other:
            answer = await ask(other, "token=n", model="one")
        assert judge(answer, "n", 3, is_chat=False) is Verdict.COMPLETE


async def test_a_client_that_reads_slowly_but_reads_gets_everything(rig: Rig) -> None:
    with RawClient(rig.port, limit=1024) as client:
        await client.connect()
        _narrow(client)
        prompt = "token=slow count=20 pad=8000"
        await client.send(request_bytes(COMPLETIONS, completion(prompt, stream=True)))
        got = b""
        async with others_are_served(rig):
            deadline = time.monotonic() + CLIENT_SECONDS + 1.5
            while time.monotonic() < deadline:  # longer than the limit for taking nothing
                got += await client.read(4096)
                await asyncio.sleep(0.05)
            while not got.endswith(b"0\r\n\r\n"):
                data = await client.read(65536)
                assert data, "cut off"
                got += data
    assert b"slow-19" in got
    assert b"[DONE]" in got
    assert b'"error"' not in got


# Clients that vanish


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("hold", ["head", "body"])
async def test_a_client_that_leaves_cancels_its_request_at_the_engine(
    rig: Rig, hold: str, stream: bool
) -> None:
    """While it waits for the first token, and while it streams."""
    left = rig.engine.left
    with RawClient(rig.port) as client:
        await client.connect()
        # A whole answer is one piece: held before it, or made long after.
        wish = f"hold={hold}" if stream or hold == "head" else "hold=head"
        payload = completion(f"token=v {wish}", stream=stream)
        await client.send(request_bytes(COMPLETIONS, payload))
        await until(lambda: rig.engine.running == 1, "the request does not reach the engine")
        if stream and hold == "body":
            assert b"v-0" in await _until_content(client)
    await until(lambda: rig.engine.left == left + 1, "not cancelled at the engine")


async def _until_content(client: RawClient) -> bytes:
    got = b""
    while b"v-0" not in got:
        data = await client.read(4096)
        assert data
        got += data
    return got


async def test_a_client_that_leaves_the_queue_never_reaches_the_engine(rig: Rig) -> None:
    with RawClient(rig.port) as holder, RawClient(rig.port) as waiter:
        for client, token in ((holder, "h"), (waiter, "w")):
            await client.connect()
            payload = completion(f"token={token} hold=head", stream=True) | {"model": "one"}
            await client.send(request_bytes(COMPLETIONS, payload))
            await until(lambda: rig.engine.running == 1, "no request runs")
        await until_async(lambda: _queue(rig, 1), "it does not wait")
        waiter.close()
        await until_async(lambda: _queue(rig, 0), "it still waits")
        holder.close()
        await rig.proxy.settle()
    assert "w" not in rig.engine.tokens


async def _queue(rig: Rig, length: int) -> bool:
    return int((await rig.proxy.state())["queues"]["one"]) == length


async def test_a_client_that_leaves_while_the_engine_is_connected_to(rig: Rig) -> None:
    """An engine that accepts nothing: its backlog is full, so connecting waits, or fails."""
    path = rig.folder / "full.sock"
    full = socket.socket(socket.AF_UNIX)
    full.bind(str(path))
    full.listen(0)
    filler = socket.socket(socket.AF_UNIX)
    filler.connect(str(path))
    with full, filler:
        await rig.proxy.publish(
            [replica(rig.engine.path, "m-0"), replica(path, "full-0")], max_wait_seconds=30.0
        )
        before = rig.proxy.descriptors()
        for stream in (True, False):
            with RawClient(rig.port) as client:
                await client.connect()
                payload = completion("token=c", stream=stream) | {"model": "full"}
                await client.send(request_bytes(COMPLETIONS, payload))
                await asyncio.sleep(0.2)
        await rig.proxy.settle()
        await until(lambda: rig.proxy.descriptors() <= before, "a descriptor is left")
    await rig.proxy.publish(
        [
            replica(rig.engine.path, "m-0", max_sequences=256),
            replica(rig.engine.path, "one-0", max_sequences=1),
        ]
    )


# Half a request


HALVES: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "half a request line": b"POST /v1/compl",
    "half a head": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le",
    "no body": request_bytes(COMPLETIONS, completion("x"))[:-40],
    "half a body": request_bytes(COMPLETIONS, completion("x"))[:-5],
    "half a chunk": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json"
    b"\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{",
}


@pytest.mark.parametrize("leaves", [True, False])
async def test_half_a_request_holds_nothing(rig: Rig, leaves: bool) -> None:
    """Whoever leaves is forgotten; whoever stays is let go after the time limit."""
    before, requests = rig.proxy.descriptors(), rig.engine.requests

    async def one(half: str) -> None:
        with RawClient(rig.port) as client:
            await client.connect()
            await client.send(HALVES[half])
            if not leaves:
                told = await ends(client)
                assert told[:13] in {b"", b"HTTP/1.1 408 ", b"HTTP/1.1 400 "}, (half, told[:200])

    await asyncio.gather(*(one(half) for half in HALVES for _ in range(5)))
    await until(lambda: rig.proxy.descriptors() <= before, "a connection is kept")
    assert rig.engine.requests == requests


# Floods and drips


async def _flood_of_small_headers(client: RawClient) -> None:
    await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n")
    for number in range(20_000):
        if client.writer is None or client.writer.is_closing():
            return
        await client.send(b"x-%d: y\r\n" % number * 10)


async def _one_endless_header(client: RawClient) -> None:
    await client.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-a: ")
    for _ in range(500):
        if client.writer is None or client.writer.is_closing():
            return
        await client.send(b"y" * 65536)


async def _endless_request_line(client: RawClient) -> None:
    await client.send(b"POST /")
    for _ in range(500):
        if client.writer is None or client.writer.is_closing():
            return
        await client.send(b"y" * 65536)


async def _endless_trailers(client: RawClient) -> None:
    await client.send(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    for _ in range(3_000):
        if client.writer is None or client.writer.is_closing():
            return
        await client.send(b"x-t: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 100)


async def _endless_chunk_extension(client: RawClient) -> None:
    await client.send(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n2;"
    )
    for _ in range(300):
        if client.writer is None or client.writer.is_closing():
            return
        await client.send(b"y" * 65536)


Flood = Callable[[RawClient], Awaitable[None]]
TOLD = {b"", *(f"HTTP/1.1 {status} ".encode() for status in (400, 408, 413, 431))}


@pytest.mark.parametrize(
    "flood",
    [
        _flood_of_small_headers,
        _one_endless_header,
        _endless_request_line,
        _endless_trailers,
        _endless_chunk_extension,
    ],
)
async def test_a_flood_of_headers_is_cut_off(rig: Rig, flood: Flood) -> None:
    """Twenty clients that send heads (or what is like them) without an end."""
    before = rig.proxy.rss_bytes()
    clients = [RawClient(rig.port) for _ in range(20)]

    async def one(client: RawClient) -> bytes:
        await client.connect()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                await flood(client)
        return await ends(client)

    async with others_are_served(rig):
        told = await asyncio.gather(*map(one, clients))
        for client in clients:
            client.close()
    grown = rig.proxy.rss_bytes() - before
    assert grown < 20 * MIB, f"memory grew by {grown / MIB:.1f} MiB"
    for answer in told:  # a reset may have taken the answer with it
        assert answer[:13] in TOLD, answer[:100]


async def test_a_head_that_is_too_large_is_told_so(rig: Rig) -> None:
    """Sent at once and to its end, as a client with too large a cookie does."""
    filler = f"x-a: {'y' * (HEAD_LIMIT + 100)}"
    with RawClient(rig.port) as client:
        answer = await client.post(COMPLETIONS, completion("x"), filler)
    assert answer.status == 431
    check_error(answer)


@pytest.mark.parametrize("part", ["head", "body"])
async def test_a_request_that_comes_a_byte_at_a_time_has_a_time_limit(rig: Rig, part: str) -> None:
    """Activity does not extend it: 'slowloris' clients send a byte now and then for ever."""
    data = request_bytes(COMPLETIONS, completion("x" * 1000))
    at = 0 if part == "head" else data.index(b"\r\n\r\n") + 4
    started = time.monotonic()
    async with others_are_served(rig):
        clients = [RawClient(rig.port) for _ in range(50)]
        seconds = await asyncio.gather(*(_drip(client, data, at) for client in clients))
    took = time.monotonic() - started
    assert in_time(max(seconds), CLIENT_SECONDS + 5, starts=15), f"one in {max(seconds):.1f} s"
    assert in_time(took, CLIENT_SECONDS + 10, starts=25), f"all in {took:.1f} s"


async def _drip(client: RawClient, data: bytes, at: int) -> float:
    """A byte every 0.1 s from a place on; seconds until the proxy has closed the connection."""
    with client:
        await client.connect()
        await client.send(data[:at])
        started = time.monotonic()
        reading = asyncio.create_task(ends(client))
        for position in range(at, len(data)):
            if reading.done():
                break
            await client.send(data[position : position + 1])
            await asyncio.wait({reading}, timeout=0.1)
        told = await reading
        assert not told or told.startswith(b"HTTP/1.1 408 "), told[:200]
        return time.monotonic() - started


# Too much


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("times", [1.1, 3.0, 20.0])
async def test_a_body_that_is_too_large_gets_413(rig: Rig, times: float, chunked: bool) -> None:
    """Also when all of it is sent without waiting for an answer: no reset takes it away."""
    size = int(BODY_LIMIT * times)
    before = rig.proxy.rss_bytes()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        + ("transfer-encoding: chunked" if chunked else f"content-length: {size}")
        + "\r\n\r\n"
    )
    block = b"x" * 65536
    piece = b"10000\r\n" + block + b"\r\n" if chunked else block
    last = b"0\r\n\r\n" if chunked else b"x" * (size % len(block))
    async with others_are_served(rig):
        data = head.encode() + piece * (size // len(block)) + last
        answer = await asyncio.to_thread(_shout, rig.port, data)
    assert answer.status == 413, answer
    assert answer.code == "request_too_large"
    check_error(answer)
    assert rig.proxy.rss_bytes() - before < 4 * BODY_LIMIT + 4 * MIB


def _shout(port: int, data: bytes) -> Answer:
    """Send all of it whatever is said meanwhile, then listen: one head and one body."""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                got += part
                if got.endswith(b"}"):
                    break
    assert got, "reset before any answer"
    head, _, body = got.partition(b"\r\n\r\n")
    status, headers = read_head(head)
    return Answer(status, headers, body, len(body) == int(headers["content-length"]), 0.0)


NESTED: dict[str, bytes] = {
    "lists": b"[" * 400_000,
    "closed lists": b"[" * 200_000 + b"]" * 200_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "in the prompt": b'{"model":"m","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "in an unknown field": b'{"model":"m","prompt":"x","z":' + b"[" * 999 + b"]" * 999 + b"}",
    "a long number": b'{"model":"m","max_tokens":' + b"9" * 500_000 + b"}",
}


@pytest.mark.parametrize("name", NESTED)
async def test_deeply_nested_json_is_refused(rig: Rig, name: str) -> None:
    computed = rig.proxy.cpu_seconds()
    async with others_are_served(rig):
        with RawClient(rig.port) as client:
            for _ in range(5):
                answer = await client.post(COMPLETIONS, NESTED[name])
                assert answer.status == 400, answer
                check_error(answer)
    assert in_time(rig.proxy.cpu_seconds() - computed, 2.0, starts=8)


# Too many


async def test_connections_beyond_the_limit_are_told_so_and_those_within_are_served(
    proxies: Proxies,
) -> None:
    """Two thousand from one address, where 600 are allowed."""
    async with rig_of(proxies, client_timeout_seconds=60.0) as rig:
        before = rig.proxy.descriptors()
        with RawClient(rig.port) as early:
            await early.connect()
            async with crowd(rig.port, 2000):
                await until(lambda: rig.proxy.descriptors() <= before + 700, "surplus is kept")
                answer = await ask(early, "token=e")
                assert judge(answer, "e", 3, is_chat=False) is Verdict.COMPLETE
                with RawClient(rig.port) as late:
                    answer = await ask(late, "token=l")
                    assert (answer.status, answer.code) == (503, "too_many_connections")
                    check_error(answer)
            await until(lambda: rig.proxy.descriptors() <= before + 2, "connections are left")
            answer = await ask(early, "token=a")
            assert judge(answer, "a", 3, is_chat=False) is Verdict.COMPLETE


async def test_one_address_cannot_take_all_connections(proxies: Proxies) -> None:
    """A thousand from one address, where each may have 50; another address is served."""
    async with rig_of(proxies, client_timeout_seconds=60.0, max_connections_per_address=50) as rig:
        before = rig.proxy.descriptors()
        async with crowd(rig.port, 1000):
            await until(lambda: rig.proxy.descriptors() <= before + 60, "surplus is kept")
            with RawClient(rig.port, source="127.0.0.2") as other:
                answer = await ask(other, "token=o")
                assert judge(answer, "o", 3, is_chat=False) is Verdict.COMPLETE
            with RawClient(rig.port) as late:
                answer = await ask(late, "token=l")
                assert answer.status in {429, 503}, answer
                check_error(answer)
        await until(lambda: rig.proxy.descriptors() <= before + 2, "connections are left")
        with RawClient(rig.port) as again:
            answer = await ask(again, "token=a")
            assert judge(answer, "a", 3, is_chat=False) is Verdict.COMPLETE


@contextlib.asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[None]:
    """So many connections that say nothing."""
    opened = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", port) for _ in range(count))
    )
    try:
        yield
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.sleep(0)
