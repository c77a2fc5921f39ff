"""Clients that are slow, vanish, or send half or too much are bounded, and harm no other client.

The proxy is a process. While each of these clients misbehaves, an ordinary client keeps sending
requests, and each of its requests must be served. The rules themselves are tested in process
(`tests/proxy`); here real sockets and a real kernel are between the clients and the proxy.
"""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator
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
    proxy_under_test,
    replica,
    short_folder,
    until,
    until_async,
)
from tests.chaos.verdicts import Verdict, check_error, judge

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module")]

BODY_LIMIT = 1 * MIB
CLIENT_SECONDS = 1.5
OPTIONS = {
    "max_body_bytes": BODY_LIMIT,
    "max_header_bytes": 32 * 1024,
    "client_timeout_seconds": CLIENT_SECONDS,
    "max_connections": 150,
    "max_connections_per_address": 100,
    "first_token_timeout_seconds": 600.0,
    "total_timeout_seconds": 600.0,
}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = HEAD + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Rig:
    proxy: ProxyUnderTest
    engine: EchoEngine

    @property
    def port(self) -> int:
        return self.proxy.port


@contextlib.asynccontextmanager
async def rig_of(proxies: Proxies, **options: Any) -> AsyncIterator[Rig]:
    with short_folder() as folder:
        async with (
            echoing(folder / "e.sock") as engine,
            proxies(folder, **{**OPTIONS, **options}) as proxy,
        ):
            # A replica for each: `m` with room, `one` for a single request at a time.
            room = replica(engine.path, "m-0", max_sequences=256)
            await proxy.publish([room, replica(engine.path, "one-0", max_sequences=1)])
            yield Rig(proxy, engine)
            await proxy.settle()
            await until(lambda: engine.running == 0, "the engine still works for somebody")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Rig]:
    async with rig_of(proxy_under_test) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    """After each test everything is back: counts, queues, connections to the engine in use.

    Beside each test an ordinary client of another address asks.
    """
    async with others_are_served(shared):
        yield shared
    await shared.proxy.settle()
    await until(lambda: shared.engine.running == 0, "the engine still works for somebody")


@contextlib.asynccontextmanager
async def others_are_served(rig: Rig) -> AsyncIterator[None]:
    """An ordinary client beside it, of which each request is answered whole."""
    begun, stop = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        served = 0
        with RawClient(rig.port, source="127.0.0.9") as client:
            while not stop.is_set():
                token = f"o{served}"
                answer = await ask(client, f"token={token}", stream=bool(served & 1))
                assert judge(answer, token, 3, is_chat=False) is Verdict.COMPLETE, answer
                served += 1
                if served == 2:  # its connection is open, and the proxy's to the engine
                    begun.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.01)

    task = asyncio.create_task(work())
    await asyncio.wait({task, asyncio.ensure_future(begun.wait())}, return_when="FIRST_COMPLETED")
    try:
        yield
    finally:
        stop.set()
        await task


async def ends(client: RawClient) -> bytes:
    """What the proxy sends until it closes the connection."""
    got = b""
    async with asyncio.timeout(120):
        while data := await client.read(65536):
            got += data
    return got


def narrow(client: RawClient) -> None:
    """As little room as the kernel gives for what the client has not read."""
    assert client.writer is not None
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


async def test_clients_that_do_not_read_slow_their_engine_and_who_reads_at_last_gets_all() -> None:
    """Ten streams of 60 MB each that nobody takes."""
    pad, count, readers = 60_000, 1000, 10
    async with (
        rig_of(proxy_under_test, client_timeout_seconds=600.0) as rig,
        others_are_served(rig),
    ):
        clients = [RawClient(rig.port) for _ in range(readers)]
        for number, client in enumerate(clients):
            await client.connect()
            if number:
                narrow(client)
            prompt = f"token=r{number} count={count} pad={pad}"
            await client.send(request_bytes(COMPLETIONS, completion(prompt, stream=True)))
        await until(lambda: len(rig.engine.paused) == readers, "the engine is not slowed")
        answer = await clients[0].answer()
        assert judge(answer, "r0", count, is_chat=False, pad=pad) is Verdict.COMPLETE
        for client in clients:
            client.close()


async def test_a_client_that_never_reads_is_let_go(rig: Rig) -> None:
    """Else it would hold its place at the engine for ever."""
    with RawClient(rig.port) as client:
        await client.connect()
        narrow(client)
        payload = completion("token=never count=2000 pad=8000", stream=True) | {"model": "one"}
        await client.send(request_bytes(COMPLETIONS, payload))
        await until(lambda: "never" in rig.engine.tokens, "it does not begin")
        with RawClient(rig.port) as other:
            answer = await ask(other, "token=n", model="one", seconds=120)
        assert judge(answer, "n", 3, is_chat=False) is Verdict.COMPLETE


async def test_a_client_that_leaves_frees_its_place_wherever_its_request_is(rig: Rig) -> None:
    """In a stream, in a whole answer, and in the queue."""
    left = rig.engine.left
    clients = [RawClient(rig.port) for _ in range(3)]
    asked = (("s", "body", True, "m"), ("h", "head", False, "one"), ("q", "head", True, "one"))
    for client, (token, hold, stream, model) in zip(clients, asked, strict=True):
        await client.connect()
        payload = completion(f"token={token} hold={hold}", stream=stream) | {"model": model}
        await client.send(request_bytes(COMPLETIONS, payload))
        if token != "q":
            await until(lambda token=token: token in rig.engine.tokens, "it does not begin")  # type: ignore[misc]

    async def one_waits() -> bool:
        return int((await rig.proxy.state())["queues"]["one"]) == 1

    await until_async(one_waits, "it does not wait")
    for client in reversed(clients):
        client.close()
    await until(lambda: rig.engine.left == left + 2, "not cancelled at the engine")
    await rig.proxy.settle()
    assert "q" not in rig.engine.tokens


HALVES: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "half a request line": b"POST /v1/compl",
    "half a head": HEAD + b"content-le",
    "no body": request_bytes(COMPLETIONS, completion("x"))[:-40],
    "half a body": request_bytes(COMPLETIONS, completion("x"))[:-5],
    "half a chunk": CHUNKED + b"20\r\n{",
}


@pytest.mark.parametrize("leaves", [True, False])
async def test_half_a_request_holds_nothing(rig: Rig, leaves: bool) -> None:
    """Whoever leaves is forgotten; whoever stays is let go after the time limit."""
    before = rig.proxy.descriptors()

    async def one(half: str) -> None:
        with RawClient(rig.port) as client:
            await client.connect()
            await client.send(HALVES[half])
            if not leaves:
                told = await ends(client)
                assert told[:13] in {b"", b"HTTP/1.1 408 ", b"HTTP/1.1 400 "}, (half, told[:200])

    await asyncio.gather(*(one(half) for half in HALVES for _ in range(5)))
    await until(lambda: rig.proxy.descriptors() <= before, "a connection is kept")
    assert "none" not in rig.engine.tokens, "the engine got a request without its end"


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "small headers": (HEAD, b"x-1: y\r\n" * 8000),
    "one header": (HEAD + b"x-a: ", b"y" * 65536),
    "the request line": (b"POST /", b"y" * 65536),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-t: yyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2000),
    "a chunk's extension": (CHUNKED + b"2;", b"y" * 65536),
}
TOLD = {b"", *(f"HTTP/1.1 {status} ".encode() for status in (400, 408, 413, 431))}


async def test_what_has_no_end_is_cut_off(rig: Rig) -> None:
    """Four clients each send heads, or what is like them, without an end."""

    async def one(begin: bytes, piece: bytes) -> bytes:
        with RawClient(rig.port) as client:
            await client.connect()
            await client.send(begin)
            with contextlib.suppress(ConnectionError):
                for _ in range(300):
                    if client.writer is None or client.writer.is_closing():
                        break
                    await client.send(piece)
            return await ends(client)

    told = await asyncio.gather(*(one(*flood) for flood in FLOODS.values() for _ in range(4)))
    for answer in told:  # a reset may have taken the answer with it
        assert answer[:13] in TOLD, answer[:100]


async def test_a_request_that_comes_a_byte_at_a_time_has_a_time_limit(rig: Rig) -> None:
    """Activity does not extend it: 'slowloris' clients send a byte now and then for ever."""
    data = request_bytes(COMPLETIONS, completion("x" * 1000))

    async def drip(at: int) -> None:
        with RawClient(rig.port) as client:
            await client.connect()
            await client.send(data[:at])
            reading = asyncio.create_task(ends(client))
            for position in range(at, len(data)):
                if reading.done():
                    break
                await client.send(data[position : position + 1])
                await asyncio.wait({reading}, timeout=0.1)
            told = await reading
            assert not told or told.startswith(b"HTTP/1.1 408 "), told[:200]

    body = data.index(b"\r\n\r\n") + 4
    await asyncio.gather(*(drip(at) for at in (0, body) for _ in range(20)))


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_gets_413(rig: Rig, chunked: bool) -> None:
    """Also when all of it is sent without waiting for an answer: no reset takes it away."""
    block, count = b"x" * 65536, 20 * BODY_LIMIT // 65536
    if chunked:
        data = CHUNKED + (b"10000\r\n" + block + b"\r\n") * count + b"0\r\n\r\n"
    else:
        length = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        data = HEAD + length % (len(block) * count) + block * count
    answer = await asyncio.to_thread(_shout, rig.port, data)
    assert (answer.status, answer.code) == (413, "request_too_large"), answer
    check_error(answer)


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
    return Answer(status, headers, body, len(body) == int(headers["content-length"]))


async def test_connections_beyond_a_limit_are_told_so_and_those_within_are_served() -> None:
    """Of one address 100 are allowed, and 150 in all."""
    async with rig_of(proxy_under_test, client_timeout_seconds=600.0) as rig:
        before = rig.proxy.descriptors()
        with RawClient(rig.port) as early, RawClient(rig.port, source="127.0.0.2") as other:
            await early.connect()
            async with crowd(rig.port, 300, "127.0.0.1"):
                await until_async(
                    lambda: is_refused(rig, "127.0.0.1"), "it has as many as it likes"
                )
                await until(lambda: rig.proxy.descriptors() <= before + 110, "surplus is kept")
                for client in (early, other):
                    answer = await ask(client, "token=e")
                    assert judge(answer, "e", 3, is_chat=False) is Verdict.COMPLETE
                async with crowd(rig.port, 100, "127.0.0.3"):
                    await until_async(lambda: is_refused(rig, "127.0.0.4"), "there is no limit")
            await until(lambda: rig.proxy.descriptors() <= before + 4, "connections are left")
            answer = await ask(early, "token=a")
            assert judge(answer, "a", 3, is_chat=False) is Verdict.COMPLETE


async def is_refused(rig: Rig, source: str) -> bool:
    with RawClient(rig.port, source=source) as late:
        answer = await ask(late, "token=l")
    if answer.status == 200:
        return False
    assert (answer.status, answer.code) == (503, "too_many_connections")
    check_error(answer)
    return True


@contextlib.asynccontextmanager
async def crowd(port: int, count: int, source: str) -> AsyncIterator[None]:
    """So many connections that say nothing."""
    opened = await asyncio.gather(
        *(
            asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            for _ in range(count)
        )
    )  # fmt: skip
    try:
        yield
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.sleep(0)
