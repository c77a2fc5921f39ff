"""Connections that are being opened are bounded, and none of them is lost."""

import asyncio
import socket

from partitiond.proxy.listening.handshakes import Openings


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
