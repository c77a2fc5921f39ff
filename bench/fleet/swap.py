"""Runs a proxy by `swap_policy`: reads the model of each request, and relays the bytes."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping

from bench.fleet.cases import Model
from bench.fleet.engines import Engine, Garage
from bench.fleet.swap_policy import Load, Serve, SwapPolicy


class SwapProxy:
    """One endpoint for all models of a case.

    Args:
        cores: number of cores of each engine.
    """

    def __init__(
        self, models: Mapping[str, Model], policy: SwapPolicy, garage: Garage, cores: int
    ) -> None:
        self._models = models
        self._policy = policy
        self._garage = garage
        self._cores = cores
        self._engines: dict[str, Engine] = {}
        self._granted: dict[int, asyncio.Event] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen while the block runs, and yield the address."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def load(self, name: str) -> None:
        """Load a model before any request for it."""
        number = next(self._numbers)
        await self._turn(number, name)
        self._act(self._policy.ended(name))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._one(reader, writer)
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request; the connection ends after it."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")[:-2]
        fields = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(b":") for line in lines[1:])
        }
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        name = json.loads(body)["model"]
        number = next(self._numbers)
        gone = asyncio.create_task(reader.read(1))
        turn = asyncio.create_task(self._turn(number, name))
        await asyncio.wait({gone, turn}, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            turn.cancel()
            self._act(self._policy.left(number))
            return
        try:
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            sent = b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body
            await self._pass_on(self._engines[name], sent, writer, gone)
        finally:
            gone.cancel()
            self._act(self._policy.ended(name))

    async def _pass_on(
        self,
        engine: Engine,
        sent: bytes,
        writer: asyncio.StreamWriter,
        gone: "asyncio.Task[bytes]",
    ) -> None:
        """Relay the engine's answer, byte by byte, until either side ends it."""
        upstream, to_engine = await asyncio.open_connection("127.0.0.1", engine.port)
        try:
            to_engine.write(sent)
            while not gone.done():
                data = await upstream.read(1 << 16)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            to_engine.close()

    async def _turn(self, number: int, name: str) -> None:
        self._granted[number] = asyncio.Event()
        try:
            self._act(self._policy.arrived(number, name))
            await self._granted[number].wait()
        finally:
            del self._granted[number]

    def _act(self, actions: list[Serve | Load]) -> None:
        for action in actions:
            if isinstance(action, Serve):
                self._granted[action.request].set()
            else:
                task = asyncio.create_task(self._swap(action))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _swap(self, load: Load) -> None:
        for name in load.unload:
            await self._garage.stop(self._engines.pop(name))
        engine = self._garage.launch(self._models[load.model], self._cores)
        await self._garage.ready(engine)
        self._engines[load.model] = engine
        self._act(self._policy.is_loaded(load.model))
