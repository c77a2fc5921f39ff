"""The profiler: one engine start, the trials the search asks for, and the profile they make."""

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from partitiond.core.hardware import DeviceKind
from partitiond.core.profile import Profile
from partitiond.ports import Clock, EngineHandle, EngineRunner, ProfileRequest, Progress
from partitiond.profiler.assemble import Measured, build_profile
from partitiond.profiler.launch import plan_launch
from partitiond.profiler.sweep import Sweep

START_DEADLINE_SECONDS: Final = 600.0
STOP_GRACE_SECONDS: Final = 10.0


class SystemClock:
    """The host's clocks."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def utc_iso(self) -> str:
        """Wall-clock time, ISO 8601 UTC."""
        return datetime.now(UTC).isoformat(timespec="seconds")


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
        were measured ends the sweep: the profile says so and reaches as far as it got.

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
        return build_profile(
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
