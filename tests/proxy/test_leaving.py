"""The proxy sees a client's disconnect in every phase of its requests, by reset and by close.

A reset is sent with `SO_LINGER` 0: a killed process with unread bytes sends the same.
"""

import asyncio
import dataclasses
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    completion,
    stream,
    text_event,
)

both_ways = pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])


def request(prompt: str, *, streamed: bool = False) -> bytes:
    body = json.dumps({"model": "m", "prompt": prompt, "stream": streamed}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n"
    )
    return head % len(body) + body


class Leaver:
    """A raw client on a real socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._connection, data)

    async def until(self, marker: bytes) -> bytes:
        """What comes up to the marker, and perhaps behind it."""
        got = b""
        async with asyncio.timeout(120):
            while marker not in got:
                data = await self._loop.sock_recv(self._connection, 65_536)
                assert data, got
                got += data
        return got

    def leave(self, *, reset: bool) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._connection.close()


@asynccontextmanager
async def leaver(proxy: Proxy, *, receive_bytes: int = 0) -> AsyncIterator[Leaver]:
    with socket.socket() as connection:
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", proxy.port))
        yield Leaver(connection)


def waiting_line(proxy: Proxy) -> int:
    """Requests that wait behind another of their connection."""
    return sum(len(connection._line) for connection in proxy.lanes())


async def nobody_is_left(proxy: Proxy) -> None:
    await proxy.until(lambda: not proxy.connections())
    await proxy.until(proxy.idle)
    assert not proxy.state.reading


def held(go_on: asyncio.Event) -> Callable[[Received], list[Step]]:
    """A script: prompts "held" are answered when told, all others at once."""

    def script(received: Received) -> list[Step]:
        if received.body["prompt"] != "held":
            return answer(completion())
        if received.body["stream"]:
            return [STREAM_HEAD, chunk(text_event("hel")), go_on, *stream(DONE)[1:]]
        return [go_on, *answer(completion())]

    return script


def prompts(engine: ScriptedEngine) -> list[str]:
    return [received.body["prompt"] for received in engine.received]


@both_ways
async def test_while_its_body_comes(make_proxy: MakeProxy, *, reset: bool) -> None:
    proxy = await make_proxy(table())
    async with leaver(proxy) as client:
        await client.send(request("x")[:-5])
        await proxy.until(lambda: bool(proxy.state.reading))
        client.leave(reset=reset)
        await nobody_is_left(proxy)


@both_ways
async def test_while_it_waits_in_the_queue(
    make_proxy: MakeProxy, make_engine: MakeEngine, *, reset: bool
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine, max_sequences=1)))
    async with leaver(proxy) as first, leaver(proxy) as second:
        await first.send(request("held"))
        await engine.until(lambda: len(engine.received) == 1)
        await second.send(request("queued"))
        await proxy.until(lambda: proxy.state.queues() == {"m": 1})
        second.leave(reset=reset)
        await proxy.until(lambda: proxy.state.queues() == {"m": 0})
        await proxy.until(lambda: proxy.connections() == 1)
        go_on.set()
        await first.until(b"hello")
    assert prompts(engine) == ["held"]


@both_ways
async def test_while_it_is_sent_to_the_engine(
    make_proxy: MakeProxy, make_engine: MakeEngine, *, reset: bool
) -> None:
    """An engine that takes nothing: most of the body is still in the proxy."""
    engine = await make_engine()
    deaf = engine.path.with_name("deaf.sock")
    accepted: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(deaf))
        listener.listen()
        listener.setblocking(False)
        proxy = await make_proxy(table(replica(deaf)))
        async with leaver(proxy) as client:
            await client.send(request("x" * 4_000_000))
            accepted.append((await asyncio.get_running_loop().sock_accept(listener))[0])
            await proxy.until(lambda: len(proxy.state.flights) == 1)
            client.leave(reset=reset)
            await nobody_is_left(proxy)
    for connection in accepted:
        connection.close()


@both_ways
@pytest.mark.parametrize("streamed", [True, False])
async def test_while_it_is_answered(
    make_proxy: MakeProxy, make_engine: MakeEngine, *, streamed: bool, reset: bool
) -> None:
    steps: list[Step] = [STREAM_HEAD, chunk(text_event("hel")), "hold"] if streamed else ["hold"]
    engine = await make_engine(lambda _: steps)
    proxy = await make_proxy(table(replica(engine)))
    async with leaver(proxy) as client:
        await client.send(request("x", streamed=streamed))
        await engine.until(lambda: len(engine.received) == 1)
        if streamed:
            await client.until(b"hel")
        client.leave(reset=reset)
        await engine.until(lambda: engine.left == 1)
        await nobody_is_left(proxy)


BEHIND = {
    "a whole request": request("never"),
    "two requests": request("never") * 2,
    "half a body": request("never")[:-5],
    "half a head": request("never")[:40],
    "more than one read holds": request("never" + "x" * 2_000_000),
    "a request of the application": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
}
WAYS = [
    (behind, reset)
    for behind in BEHIND
    for reset in (True, False)
    # The end of what the kernels cannot hold comes behind it: it is seen once that is read.
    if reset or behind != "more than one read holds"
]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("behind", "reset"), WAYS)
async def test_while_another_request_waits_behind_the_one_that_runs(
    make_proxy: MakeProxy, make_engine: MakeEngine, behind: str, *, streamed: bool, reset: bool
) -> None:
    """Nothing is read then, so nothing tells of it: neither runs on, and the second never runs."""
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine, max_sequences=1)))
    async with leaver(proxy) as client:
        await client.send(request("held", streamed=streamed))
        await engine.until(lambda: len(engine.received) == 1)
        sending = asyncio.create_task(client.send(BEHIND[behind]))
        if behind != "half a head":
            await proxy.until(lambda: waiting_line(proxy) > 0)
        sending.cancel()  # what the kernel did not take
        await asyncio.gather(sending, return_exceptions=True)
        client.leave(reset=reset)
        await nobody_is_left(proxy)
        go_on.set()
    outcomes = [json.loads(line)["outcome"] for line in proxy.log_lines]
    assert outcomes == ["client_gone"]
    assert prompts(engine) == ["held"]


@both_ways
async def test_between_two_looks_at_its_connection(
    make_proxy: MakeProxy, make_engine: MakeEngine, *, reset: bool
) -> None:
    """The first request ends before anybody has looked: the second does not run all the same."""
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)))
    async with leaver(proxy) as client:
        await client.send(request("held") + request("never"))
        await proxy.until(lambda: waiting_line(proxy) == 1)
        await engine.until(lambda: len(engine.received) == 1)
        timer = proxy.state._sweep_timer
        assert timer is not None
        timer.cancel()  # nobody looks any more
        client.leave(reset=reset)
        go_on.set()
        await nobody_is_left(proxy)
    assert prompts(engine) == ["held"]


async def test_a_client_that_stays_gets_all_its_answers(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """Many looks at a connection that is not read take it for none that was left."""
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)))
    large = "x" * 1_000_000
    async with leaver(proxy) as client:
        await client.send(request("held"))
        await engine.until(lambda: len(engine.received) == 1)
        sending = asyncio.create_task(client.send(request(large) + request("last")))
        await proxy.until(lambda: waiting_line(proxy) == 1)
        for connection in list(proxy.state.connections):
            for _ in range(10):
                connection.sweep(0.0)
        go_on.set()
        got = b""
        while got.count(b"HTTP/1.1 200 ") < 3:
            got += await client.until(b"HTTP/1.1 200 ")
        await sending
    assert prompts(engine) == ["held", large, "last"]


async def test_the_time_for_a_body_runs_only_while_it_is_read(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)))
    patient = proxy.state.options
    second = request("second")
    async with leaver(proxy) as client:
        await client.send(request("held"))
        await engine.until(lambda: len(engine.received) == 1)
        proxy.state.options = dataclasses.replace(patient, client_timeout_seconds=0.01)
        await client.send(second[:-5])
        await proxy.until(lambda: waiting_line(proxy) == 1)
        await asyncio.sleep(0.1)  # longer than a body may take, if its time ran
        proxy.state.options = patient
        go_on.set()
        await client.until(b"hello")
        (being_read,) = proxy.state.reading
        being_read.sweep(time.monotonic())
        await client.send(second[-5:])
        assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    assert prompts(engine) == ["held", "second"]


async def test_a_body_behind_another_request_has_its_time_once_it_is_read(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(held(go_on))
    proxy = await make_proxy(table(replica(engine)), client_timeout_seconds=0.3)
    async with leaver(proxy) as client:
        await client.send(request("held"))
        await engine.until(lambda: len(engine.received) == 1)
        await client.send(request("second")[:-5])
        await proxy.until(lambda: waiting_line(proxy) == 1)
        go_on.set()
        await client.until(b"HTTP/1.1 408 ")
        await proxy.until(proxy.idle)
    assert prompts(engine) == ["held"]


async def test_behind_a_client_that_takes_nothing_no_further_request_begins(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    piece = text_event("x" * 60_000)

    def script(received: Received) -> list[Step]:
        if received.body["stream"]:
            return [STREAM_HEAD, *[chunk(piece)] * 500, "hold"]
        return [go_on, *answer(completion())]

    engine = await make_engine(script)
    proxy = await make_proxy(table(replica(engine)), client_timeout_seconds=0.3)
    async with leaver(proxy) as one, leaver(proxy) as other:
        for client in (one, other):
            await client.send(request("before"))
        await engine.until(lambda: len(engine.received) == 2)
        go_on.set()  # two connections to the engine are open now: a further request is sent at once
        for client in (one, other):
            await client.until(b"hello")
    async with leaver(proxy, receive_bytes=4096) as client:
        await client.send(request("large", streamed=True) + request("never"))
        await proxy.until(lambda: waiting_line(proxy) == 1)
        await nobody_is_left(proxy)
    assert "client_stalled" in proxy.log_lines[-1]
    assert prompts(engine) == ["before", "before", "large"]
