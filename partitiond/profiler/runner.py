"""The profiler: one engine start, the trials the search asks for, and the profile they make."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from partitiond.clock import SystemClock
from partitiond.core.hardware import DeviceKind
from partitiond.core.profile import Profile
from partitiond.ports import Clock, EngineHandle, EngineRunner, ProfileRequest, Progress
from partitiond.profiler.assemble import Measured, build_profile
from partitiond.profiler.launch import plan_launch
from partitiond.profiler.sweep import Sweep

START_DEADLINE_SECONDS: Final = 600.0
STOP_GRACE_SECONDS: Final = 10.0


@runtime_checkable
class Discards(Protocol):
    """An engine runner that keeps something of engines that are gone, and can let go of it."""

    async def discard(self, handle: EngineHandle) -> None:
        """Remove what is left on disk of an engine that was stopped."""
        ...


class Profiler:
    """Measures profiles. Implements `ports.ProfileRunner`.

    Args:
        engines: starts and stops the engine.
        clock: time.
        start_deadline_seconds: for the engine to become ready.
        stop_grace_seconds: between asking the engine to end and ending it.
        device_used_bytes: memory in use on a device now, by id; with it the footprint on a GPU
            is the rise of the device's used memory, without it the peak memory of the engine's
            processes is all that is known.
    """

    def __init__(
        self,
        engines: EngineRunner,
        *,
        clock: Clock | None = None,
        start_deadline_seconds: float = START_DEADLINE_SECONDS,
        stop_grace_seconds: float = STOP_GRACE_SECONDS,
        device_used_bytes: Callable[[str], int] | None = None,
    ) -> None:
        self._engines = engines
        self._clock = clock or SystemClock()
        self._start_deadline = start_deadline_seconds
        self._stop_grace = stop_grace_seconds
        self._device_used_bytes = device_used_bytes

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine, sweep, stop it.

        Cancelling the task leaves no engine running. An engine that dies after some batches
        were measured ends the sweep: the profile says so and reaches as far as it got. After a
        whole sweep nothing of the engine is left on disk; after another its run folder is, with
        the log.

        Raises:
            InputError: the model does not fit in the memory budget.
            EngineError: the engine did not start, or died before anything was measured.
        """
        began, started_at = self._clock.monotonic(), self._clock.utc_iso()
        planned = plan_launch(request, f"profile-{secrets.token_hex(4)}")
        used_before = self._used_bytes(request)
        progress(Progress("starting", f"starting an engine for {request.model.spec.name}"))
        handle = await self._engines.start(planned.launch)
        try:
            report = await self._engines.wait_ready(
                handle,
                self._start_deadline,
                lambda line: progress(Progress("starting", line)),
            )
            sweep = Sweep(
                self._engines,
                handle,
                request,
                planned=planned,
                clock=self._clock,
                progress=progress,
            )
            await sweep.run(lambda: self._used_bytes(request) - used_before)
        finally:
            await self._stop(handle)
        profile = build_profile(
            Measured(
                request=request,
                planned=planned,
                report=report,
                trials=tuple(sweep.trials),
                done=sweep.done,
                peak_bytes=sweep.peak_bytes,
                notes=tuple(sweep.notes),
                started_at=started_at,
                duration_seconds=self._clock.monotonic() - began,
            )
        )
        if sweep.done is not None and isinstance(self._engines, Discards):
            # Only the log of an engine that failed is worth its place on the disk.
            await self._engines.discard(handle)
        return profile

    def _used_bytes(self, request: ProfileRequest) -> int:
        """Device memory in use; 0 where it is not told, or on a CPU (there PSS counts)."""
        if self._device_used_bytes is None or request.device.kind is DeviceKind.CPU:
            return 0
        return self._device_used_bytes(request.device.id)

    async def _stop(self, handle: EngineHandle) -> None:
        """Stop the engine even while this task is being cancelled, then pass that on."""
        stopping = asyncio.ensure_future(self._engines.stop(handle, self._stop_grace))
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                cancelled = True
        stopping.result()
        if cancelled:
            raise asyncio.CancelledError
