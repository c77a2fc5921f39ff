"""Connections that come and are being opened are bounded, and none of them is lost."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from partitiond.proxy.listening.acceptor import FULL_SECONDS, Accepting
from partitiond.proxy.listening.handshakes import Openings
from tests.proxy.listening.test_acceptor import no_file_left


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


async def test_each_that_is_dropped_is_closed_and_counted_though_all_come_at_once() -> None:
    """A worker tells its parent of each connection that it was handed and that has ended."""
    gone: asyncio.Queue[None] = asyncio.Queue()
    openings = Openings(2, lambda: gone.put_nowait(None))
    pairs = [socket.socketpair() for _ in range(5)]
    begun: asyncio.Queue[int] = asyncio.Queue()

    async def opening(number: int) -> None:
        begun.put_nowait(number)
        await asyncio.Event().wait()

    for number, (accepted, _) in enumerate(pairs):
        openings.begin(accepted, opening(number))
    assert len(openings) == 2
    async with asyncio.timeout(30):
        assert [await begun.get() for _ in range(2)] == [3, 4], "the oldest are dropped"
        for _ in range(3):
            await gone.get()
    assert [accepted.fileno() < 0 for accepted, _ in pairs] == [True] * 3 + [False] * 2
    openings.close()
    for pair in pairs:
        for end in pair:
            end.close()
