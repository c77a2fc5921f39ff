"""Starts the engine under measurement, watches it during measurements, and stops it."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from partitiond.core.errors import EngineError, ExitedError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.profile.jobs import Progress
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.platform.unix_socket import socket_address
from partitiond.ports import Clock, EngineRunner, TelemetrySource
from partitiond.ports.engine import Discards
from partitiond.profiler.sweep.stall import FIRST_FACTOR

T = TypeVar("T")
Tell = Callable[[Progress], None]

IDLE_DEADLINE_SECONDS: Final = 5.0
"""Between trials the engine drops the last trial's requests; that takes up to half a second."""
DEATH_NOTICE_SECONDS: Final = 5.0
"""Requests fail a moment before the process is seen to be gone."""
STALL_SECONDS: Final = 60.0
"""Least silence after which an engine under load counts as hung. Chosen, not measured."""
RUNNING: Final = "vllm:num_requests_running"


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A started engine.

    Attributes:
        report: the engine's report when it was ready.
        used_before_bytes: device memory in use before the start; 0 if PSS counts instead.
    """

    handle: EngineHandle
    report: EngineReport
    used_before_bytes: int

    @contextlib.contextmanager
    def address(self) -> Iterator[str]:
        """Yield the address at which the engine takes load, within this block.

        Raises:
            EngineError: the engine does not listen.
        """
        with contextlib.ExitStack() as held:
            try:
                address = held.enter_context(socket_address(self.handle.socket_path))
            except OSError as error:
                raise EngineError(
                    f"{self.handle.launch.replica_id} does not listen: {error.strerror}.",
                    hint=f"See the engine's log, {self.handle.log_path}.",
                ) from error
            yield address


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """The means by which every phase of a profile runs engines and observes them.

    Attributes:
        device: the device that is measured.
        telemetry: source of the device's telemetry; None takes none.
        device_used_bytes: memory in use on a device now, by id; None if it is not known.
        stall_seconds: least silence after which an engine under load counts as hung.
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
        """The least silence while the engine's speed is not known."""
        return FIRST_FACTOR * self.stall_seconds

    @contextlib.asynccontextmanager
    async def running(self, launch: EngineLaunch, tell: Tell) -> AsyncIterator[Running]:
        """An engine that is up inside the block, and gone after it, however the block ends.

        If the block ends well, no file of the engine stays on disk; otherwise its run folder stays,
        with the log.

        Raises:
            EngineError: the engine did not start.
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
        """Return the peak memory of the engine so far: rise of device memory, on a CPU its
        processes' PSS.
        """
        # Both wait for the kernel or a driver for a while; requests of others share this loop.
        rise = await asyncio.to_thread(self._used_bytes) - engine.used_before_bytes
        return max(rise, await asyncio.to_thread(self.engines.peak_memory_bytes, engine.handle))

    async def while_alive(self, engine: Running, doing: str, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which is ended at once when the engine's process ends.

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
        """Return the device memory in use; 0 if it is not known, or on a CPU (there PSS counts)."""
        if self.device_used_bytes is None or self.device.kind is DeviceKind.CPU:
            return 0
        return self.device_used_bytes(self.device.id)

    async def _stop(self, handle: EngineHandle) -> None:
        """Stop the engine even if this task is cancelled meanwhile; raise the cancellation then."""
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
    """Cancel the task and wait for its end, however it ends; its result was taken before."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
