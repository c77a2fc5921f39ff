"""Carries bytes between two proxies, and does to them what networks do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.proxy.peers.hosts import Host


class Relay:
    """A cable between an entry and an owner.

    Attributes:
        flows: cleared, no byte passes in either direction, and nobody is told.
    """

    def __init__(self, path: Path, target: str) -> None:
        self.path = path
        self.flows = asyncio.Event()
        self.flows.set()
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """End all connections at both sides."""
        for writer in self._writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Listen."""
        server = await asyncio.start_unix_server(self._serve, str(self.path))
        try:
            yield self
        finally:
            server.close()
            self.reset()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, away}
        for source, sink in ((reader, away), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await self.flows.wait()
                sink.write(data)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()


@contextlib.asynccontextmanager
async def cable(folder: Path, owner: Host) -> AsyncIterator[Relay]:
    """Put a relay before a host: who is told its route from now on comes through it."""
    target = owner.route.address.removeprefix("unix:")
    async with Relay(folder / f"{owner.name}.cable", target).running() as made:
        yield made
