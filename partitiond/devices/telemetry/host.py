"""Implements `ports.TelemetrySource` for the GPUs and the CPU of this host."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.errors import SilentError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.profile.points import Telemetry
from partitiond.devices.telemetry.cpu_time import cpu_seconds
from partitiond.devices.telemetry.exposure import CPU_FIGURES, FIGURES, ExposedFigures
from partitiond.devices.telemetry.gpu import SAMPLE_SECONDS, GpuFigures, GpuSampler
from partitiond.platform.deadline_calls import DeadlineCalls

log = logging.getLogger(__name__)

NO_ENGINES: Final = "no engine was named"
PROCESSES: Final = "CPU time of the host's processes"
"""Subject of looks at /proc."""


class _CpuTime:
    """Measures the CPU time of sessions."""

    def __init__(self, pids: tuple[int, ...], clock: Callable[[], float]) -> None:
        self._pids = pids
        self._clock = clock
        self._opened = clock()
        self._cpu = cpu_seconds(pids)

    def close(self) -> GpuFigures:
        """Return figures and reasons, in the same form as a GPU's."""
        cpu, closed = cpu_seconds(self._pids), self._clock()
        figures, seconds = GpuFigures(), max(closed - self._opened, 1e-9)
        if self._pids:
            # The CPU time of a process that was never waited for is lost: never go below zero.
            figures.add("procfs", {"cores_used": max(0.0, cpu - self._cpu) / seconds})
        else:
            figures.missing["cores_used"] = NO_ENGINES
        return figures


class HostWindow:
    """A measuring window of `HostTelemetry`."""

    def __init__(self, looks: DeadlineCalls, gpu: GpuSampler | None, cpu: _CpuTime | None) -> None:
        self._looks = looks
        self._gpu = gpu
        self._cpu = cpu

    async def close(self) -> Telemetry | None:
        """End the window; return means over it, or None if nothing is exposed."""
        figures = await self.close_with_reasons()
        if not figures.values:
            return None
        return Telemetry(source="+".join(figures.sources), **figures.values)

    async def close_with_reasons(self) -> GpuFigures:
        """End the window; return its figures, and why some are missing."""
        cpu_task = self._close_cpu()
        if self._gpu is None:
            return await cpu_task
        gpu, cpu = await asyncio.gather(asyncio.to_thread(self._gpu.close), cpu_task)
        for source in cpu.sources:
            gpu.add(source, cpu.values)
        gpu.missing.update({k: v for k, v in cpu.missing.items() if k not in gpu.values})
        return gpu

    async def _close_cpu(self) -> GpuFigures:
        try:
            if self._cpu is not None:
                return await self._looks.look(PROCESSES, self._cpu.close)
        except SilentError as error:
            log.warning("measuring goes on without the host's telemetry: %s", error)
        silence = f"silent for {self._looks.seconds:g} s"
        return GpuFigures(missing=dict.fromkeys(CPU_FIGURES, silence))


class HostTelemetry:
    """Measures this host's devices. Implements `ports.TelemetrySource`.

    Args:
        looks: makes the other looks at this host's GPUs; None uses the default deadline.
        period_seconds: time between samples of a GPU's gauges.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        looks: DeadlineCalls | None = None,
        period_seconds: float = SAMPLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._looks = looks or DeadlineCalls()
        self._period = period_seconds
        self._clock = clock

    async def open(self, device: Device, pids: tuple[int, ...]) -> HostWindow:
        """Begin a window. Never fails because of a source: figures of a source that is missing, or
        does not answer within the deadline of looks, are None.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, device, pids))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread continues despite the cancellation; its window must not sample for ever.
            with contextlib.suppress(asyncio.CancelledError):
                await (await opening).close()
            raise

    def _open(self, device: Device, pids: tuple[int, ...]) -> HostWindow:
        gpu: GpuSampler | None = None
        if device.kind is DeviceKind.GPU:
            gpu = GpuSampler(device.id, self._looks, period_seconds=self._period, clock=self._clock)
            gpu.open()
        cpu: _CpuTime | None = None
        try:
            cpu = self._looks.ask(PROCESSES, lambda: _CpuTime(pids, self._clock))
        except SilentError as error:
            log.warning("measuring goes on without the host's telemetry: %s", error)
        return HostWindow(self._looks, gpu, cpu)

    async def exposure(self, device: Device) -> ExposedFigures:
        """Return what this device exposes, and why not the rest; samples for a moment.

        The CPU time of engines is exposed wherever there is /proc.
        """
        window = await self.open(device, (1,))
        figures = await window.close_with_reasons()
        possible = FIGURES if device.kind is DeviceKind.GPU else CPU_FIGURES
        missing = {
            name: figures.missing.get(name, "it is not told")
            for name in possible
            if name not in figures.values
        }
        return ExposedFigures(
            source="+".join(figures.sources),
            exposes=tuple(name for name in possible if name in figures.values),
            missing=missing,
        )
