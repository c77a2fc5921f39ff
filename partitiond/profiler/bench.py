"""The engine under measurement: started, watched while something is measured, and stopped."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from partitiond.core.errors import EngineError, ExitedError
from partitiond.core.hardware import Device, DeviceKind
from partitiond.ports import (
    Clock,
    EngineHandle,
    EngineLaunch,
    EngineReport,
    EngineRunner,
    Progress,
    TelemetrySource,
)
from partitiond.profiler.stall import FIRST_FACTOR

T = TypeVar("T")
Tell = Callable[[Progress], None]

IDLE_DEADLINE_SECONDS: Final = 5.0
"""Between trials the engine drops the requests of the last one; it takes up to half a second."""
DEATH_NOTICE_SECONDS: Final = 5.0
"""Requests fail a moment before the process is seen to be gone."""
STALL_SECONDS: Final = 60.0
"""Least silence of an engine under load from which it is taken as hung."""
RUNNING: Final = "vllm:num_requests_running"


@runtime_checkable
class Discards(Protocol):
    """An engine runner that keeps something of engines that are gone, and can let go of it."""

    async def discard(self, handle: EngineHandle) -> None:
        """Remove what is left on disk of an engine that was stopped."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A started engine.

    Attributes:
        report: what it said when it was ready.
        used_before_bytes: device memory in use before it was started; 0 where PSS counts.
    """

    handle: EngineHandle
    report: EngineReport
    used_before_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """What every phase of a profile needs to run engines and to look at them.

    Attributes:
        device: what is measured.
        telemetry: what the device says during a window; None takes none.
        device_used_bytes: memory in use on a device now, by id; None where it is not told.
        stall_seconds: least silence of an engine under load from which it is taken as hung.
    """

    engines: EngineRunner
    clock: Clock
    device: Device
    telemetry: TelemetrySource | None
    start_deadline_seconds: float
    stop_grace_seconds: float
    device_used_bytes: Callable[[str], int] | None
    stall_seconds: float = STALL_SECONDS

    @property
    def first_stall_seconds(self) -> float:
        """The same while nothing is known of the engine's speed."""
        return FIRST_FACTOR * self.stall_seconds

    @contextlib.asynccontextmanager
    async def running(self, launch: EngineLaunch, tell: Tell) -> AsyncIterator[Running]:
        """An engine that is up inside the block, and gone after it, however the block ends.

        Nothing of it is left on disk when the block ends well; else its run folder is, with the
        log.

        Raises:
            EngineError: it did not start.
        """
        used_before = await asyncio.to_thread(self._used_bytes)
        handle = await self.engines.start(launch)
        try:
            report = await self.engines.wait_ready(
                handle,
                self.start_deadline_seconds,
                lambda line: tell(Progress("starting", line)),
            )
            yield Running(handle, report, used_before)
        finally:
            await self._stop(handle)
        if isinstance(self.engines, Discards):
            # Only the log of an engine that failed is worth its place on the disk.
            await self.engines.discard(handle)

    async def peak_bytes(self, engine: Running) -> int:
        """Peak memory of the engine so far: rise of device memory, on a CPU its processes' PSS."""
        # Both ask the kernel or a driver for a while; requests of others share this loop.
        rise = await asyncio.to_thread(self._used_bytes) - engine.used_before_bytes
        return max(rise, await asyncio.to_thread(self.engines.peak_memory_bytes, engine.handle))

    async def while_alive(self, engine: Running, doing: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which ends at once when the engine's process does.

        Raises:
            ExitedError: the engine ended; the message says during what, with its diagnosis.
        """
        task = asyncio.ensure_future(work)
        exited = asyncio.ensure_future(self.engines.wait_exit(engine.handle))
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception() is not None:
                await asyncio.wait({exited}, timeout=DEATH_NOTICE_SECONDS)
            if exited.done():
                raise _exited_error(engine.handle, doing, exited.result().diagnosis)
            return task.result()
        finally:
            await _cancelled(task)
            await _cancelled(exited)

    async def until_idle(self, engine: Running) -> None:
        """Wait until the engine has dropped the last trial's requests."""
        deadline = self.clock.monotonic() + IDLE_DEADLINE_SECONDS
        while self.clock.monotonic() < deadline:
            with contextlib.suppress(EngineError):  # the next trial finds out what is wrong
                metrics = (await self.engines.report(engine.handle)).metrics
                if metrics.get(RUNNING, 0.0) < 1:
                    return
            await asyncio.sleep(0.1)

    def _used_bytes(self) -> int:
        """Device memory in use; 0 where it is not told, or on a CPU (there PSS counts)."""
        if self.device_used_bytes is None or self.device.kind is DeviceKind.CPU:
            return 0
        return self.device_used_bytes(self.device.id)

    async def _stop(self, handle: EngineHandle) -> None:
        """Stop the engine even while this task is being cancelled, then pass that on."""
        stopping = asyncio.ensure_future(self.engines.stop(handle, self.stop_grace_seconds))
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                cancelled = True
        stopping.result()
        if cancelled:
            raise asyncio.CancelledError


def _exited_error(handle: EngineHandle, doing: str, diagnosis: str) -> ExitedError:
    # The diagnosis ends with the lines of the log that matter, so they end the message.
    said = f": {diagnosis}" if diagnosis else "."
    return ExitedError(
        f"the engine ended during {doing}{said}",
        hint=f"See its log, {handle.log_path}; a smaller max batch or more memory may help.",
        facts={
            "log_path": handle.log_path,
            "lines": [line.strip() for line in diagnosis.splitlines()[1:]],
        },
    )


async def _cancelled(task: "asyncio.Future[Any]") -> None:
    """Cancel and wait for the end, whatever it is; results were taken before."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
