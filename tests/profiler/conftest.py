"""Provides an engine runner whose engine is in the test's own loop, with a known step time.

Tests run on virtual time (`tests.proxy.virtual`): a window of minutes takes none, and what an
engine of a known speed gives is exact.
"""

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadgen.http import client, connection
from loadgen.loops import closed, instrument, opened
from partitiond.core.errors import EngineError, StartFailedError
from partitiond.core.replica.engine import EngineExit, EngineHandle, EngineLaunch, EngineReport
from partitiond.core.units import GIB
from tests.proxy.virtual import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the load generator read the loop's clock, by which it takes no time itself."""

    def now() -> float:
        return time.monotonic()

    for module in (client, closed, connection, instrument, opened):
        monkeypatch.setattr(module, "now", now)
    monkeypatch.setattr(time, "perf_counter", now)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)


@dataclasses.dataclass
class EngineTraits:
    """What the engine is like: t(running) = base + slope running, in seconds per step."""

    base_seconds: float = 0.04
    slope_seconds: float = 0.005
    fails_to_start: bool = False
    dies_at_batch: int | None = None
    hangs_at_batch: int | None = None
    refuses_every: int | None = None
    preempts_below_kv_bytes: int = 0


@dataclasses.dataclass(eq=False)
class Running:
    """One request."""

    wanted: int
    writer: asyncio.StreamWriter
    finished: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    sent: int = 0


class SteppingEngine:
    """Gives every running request one token per step, over a Unix socket."""

    def __init__(self, traits: EngineTraits, launch: EngineLaunch, socket_path: str) -> None:
        self.traits = traits
        self.launch = launch
        self.socket_path = socket_path
        self.exited: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()
        self.waiting: list[Running] = []
        self.most_running = 0
        self.preemptions = 0
        self.bodies: list[dict[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._handle, self.socket_path)
        self._tasks.append(asyncio.create_task(self._step()))

    def end(self, code: int, diagnosis: str) -> None:
        if self.exited.done():
            return
        self.exited.set_result(EngineExit(code, diagnosis))
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for request in self.waiting:
            request.writer.transport.abort()
            request.finished.set()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
                every = self.traits.refuses_every
                if every and len(self.bodies) % every == 0:
                    writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops")
                    continue
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n"
                )
                request = Running(self.bodies[-1]["max_tokens"], writer)
                self.waiting.append(request)
                self._work.set()
                await request.finished.wait()
        writer.close()

    async def _step(self) -> None:
        traits = self.traits
        while True:
            for request in [r for r in self.waiting if r.writer.is_closing()]:
                self.waiting.remove(request)
                request.finished.set()
            if not self.waiting:
                self._work.clear()
                await self._work.wait()
            running = list(self.waiting)
            count = len(running)
            self.most_running = max(self.most_running, count)
            too_small = self.launch.kv_cache_bytes < traits.preempts_below_kv_bytes
            self.preemptions += count > 1 and too_small
            if traits.hangs_at_batch and count >= traits.hangs_at_batch:
                await asyncio.Event().wait()
            if traits.dies_at_batch and count >= traits.dies_at_batch:
                self.end(-9, "out of memory\n    std::bad_alloc")
                return
            await asyncio.sleep(traits.base_seconds + traits.slope_seconds * count)
            for request in running:
                self._token(request)

    def _token(self, request: Running) -> None:
        request.sent += 1
        usage = {"prompt_tokens": 8, "completion_tokens": request.sent}
        self._write(request.writer, {"choices": [{"text": "w"}], "usage": usage})
        if request.sent == request.wanted:
            self._write(request.writer, {"choices": [], "usage": usage})
            request.writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            self.waiting.remove(request)
            request.finished.set()

    @staticmethod
    def _write(writer: asyncio.StreamWriter, payload: dict[str, object]) -> None:
        event = b"data: " + json.dumps(payload).encode() + b"\n\n"
        writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")


class SteppingEngines:
    """`ports.EngineRunner` over engines of this loop.

    Attributes:
        traits: of all engines, but for models that have their own.
    """

    def __init__(self, folder: Path, traits: EngineTraits) -> None:
        self.folder = folder
        self.traits = traits
        self.traits_of: dict[str, EngineTraits] = {}
        self.engines: list[SteppingEngine] = []
        self.events: list[str] = []

    @property
    def stops(self) -> int:
        return self.events.count("stop")

    @property
    def running(self) -> int:
        return sum(not engine.exited.done() for engine in self.engines)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for engine in self.engines for body in engine.bodies]

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        path = str(self.folder / f"{len(self.engines)}.sock")
        traits = self.traits_of.get(launch.model_name, self.traits)
        engine = SteppingEngine(traits, launch, path)
        self.engines.append(engine)
        await engine.start()
        return EngineHandle(launch, len(self.engines), 0, "boot", path, "engine.log", "")

    def _of(self, handle: EngineHandle) -> SteppingEngine:
        return self.engines[handle.pid - 1]

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        if self.traits.fails_to_start:
            raise StartFailedError("it cannot start")
        if progress is not None:
            progress("loading weights")
        return await self.report(handle)

    async def report(self, handle: EngineHandle) -> EngineReport:
        engine = self._of(handle)
        if engine.exited.done():
            raise EngineError("it is gone")
        metrics = {
            "vllm:num_requests_running": float(len(engine.waiting)),
            "vllm:num_requests_waiting": 0.0,
            "vllm:num_preemptions_total": float(engine.preemptions),
            "vllm:kv_cache_usage_perc": 0.5,
        }
        return EngineReport(4096, "test-1", metrics)

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        return await asyncio.shield(self._of(handle).exited)

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        self.events.append("stop")
        await asyncio.sleep(0)
        self._of(handle).end(0, "")
        return await self.wait_exit(handle)

    async def find(self) -> Sequence[EngineHandle]:
        return ()

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        assert threading.current_thread() is not threading.main_thread(), "it blocks the loop"
        return 3 * GIB + self._of(handle).most_running * 1_000_000

    async def held_bytes(self, handle: EngineHandle) -> int:
        return 3 * GIB


@pytest.fixture
def traits() -> EngineTraits:
    return EngineTraits()


@pytest.fixture
def engines(tmp_path: Path, traits: EngineTraits) -> SteppingEngines:
    return SteppingEngines(tmp_path, traits)
