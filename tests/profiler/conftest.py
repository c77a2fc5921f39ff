"""Provides an engine runner whose engine is in the test's own loop, with a known step time."""

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import EngineError, StartFailedError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.replica.engine import (
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.core.units import GIB, Bytes
from partitiond.ports import ProfileRequest

ARCHITECTURE = Architecture(
    family="llama",
    parameters=135_000_000,
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    max_position=2048,
)


@dataclasses.dataclass
class EngineTraits:
    """What the engine is like: t(running) = base + slope running, in seconds per step."""

    base_seconds: float = 0.004
    slope_seconds: float = 0.0005
    fails_to_start: bool = False
    dies_at_batch: int | None = None
    dies_on_visit: tuple[int, int] | None = None  # batch and which of its trials
    hangs_at_batch: int | None = None
    refuses_at_batch: int | None = None
    refuses_every: int | None = None
    preempts_at_batch: int | None = None
    preempts_below_kv_bytes: int = 0
    kv_bytes_per_request: int = 1_000_000


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
        self.asked = 0
        self.bodies: list[dict[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()
        self.visits: list[int] = []  # most requests at once, by trial

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
                body = json.loads(await reader.readexactly(length))
                self.asked += 1
                falters = self.traits.refuses_every and self.asked % self.traits.refuses_every == 0
                if falters or len(self.waiting) + 1 == self.traits.refuses_at_batch:
                    writer.write(b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops")
                    continue
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n"
                )
                self.bodies.append(body)
                request = Running(body["max_tokens"], writer)
                self.waiting.append(request)
                self._work.set()
                await request.finished.wait()
        writer.close()

    async def _step(self) -> None:
        while True:
            self._drop_departed()
            if not self.waiting:
                self._work.clear()
                self.visits.append(0)
                await self._work.wait()
            running = list(self.waiting)
            self.most_running = max(self.most_running, len(running))
            if self.traits.preempts_at_batch and len(running) >= self.traits.preempts_at_batch:
                self.preemptions += 1
            if len(running) > 1 and self.launch.kv_cache_bytes < (
                self.traits.preempts_below_kv_bytes
            ):
                self.preemptions += 1
            self.visits[-1] = max(self.visits[-1], len(running))
            if self.traits.dies_on_visit is not None:
                batch, visit = self.traits.dies_on_visit
                if self.visits[-1] == batch == len(running) and (self.visits.count(batch) >= visit):
                    self.end(-9, "out of memory")
                    return
            if self.traits.hangs_at_batch and len(running) >= self.traits.hangs_at_batch:
                await asyncio.Event().wait()
            if self.traits.dies_at_batch and len(running) >= self.traits.dies_at_batch:
                self.end(-9, "out of memory\n    std::bad_alloc")
                return
            await asyncio.sleep(self.traits.base_seconds + self.traits.slope_seconds * len(running))
            for request in running:
                self._token(request)

    def _drop_departed(self) -> None:
        for request in [r for r in self.waiting if r.writer.is_closing()]:
            self.waiting.remove(request)
            request.finished.set()

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
    """`ports.EngineRunner` over engines of this loop."""

    def __init__(self, folder: Path, traits: EngineTraits) -> None:
        self.folder = folder
        self.traits = traits
        self.engines: list[SteppingEngine] = []
        self.stops = 0

    @property
    def running(self) -> int:
        return sum(not engine.exited.done() for engine in self.engines)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for engine in self.engines for body in engine.bodies]

    @property
    def asked_lengths(self) -> set[int]:
        return {body["max_tokens"] for body in self.bodies}

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        path = str(self.folder / f"{len(self.engines)}.sock")
        engine = SteppingEngine(self.traits, launch, path)
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

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        return not self._of(handle).exited.done()

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
        self.stops += 1
        await asyncio.sleep(0.01)
        self._of(handle).end(0, "")
        return await self.wait_exit(handle)

    async def find(self) -> Sequence[EngineHandle]:
        return ()

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        assert threading.current_thread() is not threading.main_thread(), "it blocks the loop"
        engine = self._of(handle)
        return 3 * GIB + engine.most_running * self.traits.kv_bytes_per_request


@pytest.fixture
def traits() -> EngineTraits:
    return EngineTraits()


@pytest.fixture
def engines(tmp_path: Path, traits: EngineTraits) -> SteppingEngines:
    return SteppingEngines(tmp_path, traits)


@pytest.fixture
def request_of() -> Callable[..., ProfileRequest]:
    """Makes profile requests on a one-core CPU partition."""

    def make(**changes: object) -> ProfileRequest:
        spec = ModelSpec(
            name="tiny",
            source=ModelSource(SourceKind.FOLDER, "/models/tiny"),
            workload=Workload(8, 8),
            engine=EngineOptions(max_model_len=256),
        )
        device = Device(
            id="cpu",
            kind=DeviceKind.CPU,
            hardware="cpu-test",
            name="Test CPU",
            host="here",
            memory_bytes=Bytes(16 * GIB),
            free_bytes=Bytes(16 * GIB),
            cores=(0, 1),
            modes=(SharingMode.CORES,),
            driver="6.1",
        )
        model = ResolvedModel(spec, Path("/models/tiny"), "rev", ARCHITECTURE, dummy_weights=True)
        asked = ProfileRequest(
            model=model,
            device=device,
            cores=(1,),
            memory_bytes=8 * GIB,
            max_batch=4,
            time_limit_seconds=4,
            min_window_seconds=0.1,
            max_window_seconds=0.2,
            seed=3,
            confirm_memory=False,
            confirm_capacity=False,
        )
        return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]

    return make
