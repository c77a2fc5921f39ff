"""Connections that come and are being opened are bounded, and none of them is lost."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop

from partitiond.proxy.edge.answer import ClientSide
from partitiond.proxy.listening.acceptor import FULL_SECONDS, Accepting
from partitiond.proxy.listening.handshakes import Opener
from tests.machine import WAIT_SECONDS
from tests.proxy.certificates import Authority
from tests.proxy.listening.test_acceptor import no_file_left
from tests.proxy.virtual import settled


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


async def test_a_connection_that_comes_while_the_listener_is_closed_is_no_bug_of_ours(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    accepted: list[socket.socket] = []
    accepting = Accepting(listener, accepted.append)
    with socket.create_connection(listener.getsockname()):
        # The event loop sees the connection in the turn in which the listener is closed.
        asyncio.get_running_loop().call_soon(accepting.close)
        for _ in range(3):
            await asyncio.sleep(0)
    assert not accepted
    assert not caplog.text


async def test_a_listener_that_waits_for_a_file_is_closed_all_the_same(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = Accepting(listener, lambda _: None)
    with socket.create_connection(listener.getsockname()), no_file_left():
        async with asyncio.timeout(30):
            while not caplog.records:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0)
        accepting.close()
        await asyncio.sleep(2 * FULL_SECONDS)
    assert listener.fileno() < 0
    assert len(caplog.records) == 1


class Client(ClientSide):
    """The protocol of a connection that is never opened."""

    was_opened = False


async def test_each_that_is_dropped_is_closed_and_counted_though_all_come_at_once() -> None:
    """A worker tells its parent of each connection that it was handed and that has ended."""
    gone: asyncio.Queue[None] = asyncio.Queue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    begun: list[Client] = []
    failed: list[int] = []

    def make() -> Client:
        begun.append(Client())
        return begun[-1]

    opener = Opener(
        make, lambda: context, limit=2, seconds=60.0,
        failed=lambda: failed.append(1), gone=lambda: gone.put_nowait(None),
    )  # fmt: skip
    pairs = [socket.socketpair() for _ in range(5)]
    for accepted, _ in pairs:
        opener.open(accepted)
    assert len(opener) == 2
    async with asyncio.timeout(30):
        for _ in range(3):
            await gone.get()
        assert [accepted.fileno() < 0 for accepted, _ in pairs] == [True] * 3 + [False] * 2
        assert (len(begun), len(failed)) == (2, 3), "the oldest are dropped"
        opener.close()
        for _ in range(2):
            await gone.get()
    for pair in pairs:
        for end in pair:
            end.close()


async def test_a_connection_that_cannot_be_set_up_is_closed_and_counted() -> None:
    """Certificates are read and protocols made at that time."""

    def broken() -> ssl.SSLContext:
        raise OSError("no certificate")

    told: list[str] = []
    opener = Opener(
        Client, broken, limit=1, seconds=60.0,
        failed=lambda: told.append("failed"), gone=lambda: told.append("gone"),
    )  # fmt: skip
    (accepted, client), (later, another) = socket.socketpair(), socket.socketpair()
    with client, another:
        opener.open(accepted)
        asyncio.get_running_loop().call_soon(opener.open, later)  # as the first has just ended
        await settled()
    assert told == ["failed", "gone"] * 2
    assert (accepted.fileno(), later.fileno()) == (-1, -1)


class Silent(asyncio.Protocol):
    """A client that reads nothing, so that it says no goodbye."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sending = cast("asyncio.Transport", transport)
        sending.pause_reading()
        sending.write(b"x")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_that_is_dropped_as_it_opens_is_counted_once_and_at_once(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], *, tls: bool
) -> None:
    told: list[str] = []
    ended = asyncio.Event()

    class Dropped(Client, asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            self.was_opened = True
            opener.close()

        def connection_lost(self, _: Exception | None) -> None:
            told.append("lost")
            ended.set()

    authority, context = Authority(tmp_path), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority.issue("a")
    context.load_cert_chain(files.certificate, files.key)
    opener = Opener(
        Dropped, (lambda: context) if tls else None, limit=2, seconds=3600.0,
        failed=lambda: told.append("failed"), gone=lambda: told.append("gone"),
    )  # fmt: skip

    async def dropped() -> None:
        accepted, client = socket.socketpair()
        opener.open(accepted)
        made, _ = await asyncio.get_running_loop().create_connection(
            Silent, sock=client, ssl=authority.trust() if tls else None,
            server_hostname="127.0.0.1" if tls else None,
        )  # fmt: skip
        try:
            await asyncio.wait_for(ended.wait(), WAIT_SECONDS)
            for _ in range(10):
                await settled()
            assert (told, len(opener)) == (["lost"], 0)
        finally:
            made.abort()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(dropped())
