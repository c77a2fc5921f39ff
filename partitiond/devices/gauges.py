"""Reads the gauges of this host's devices: memory, power, load and temperature at one moment."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psutil
import pynvml

from partitiond.core.errors import SilentError
from partitiond.core.hardware.details import DeviceReading
from partitiond.devices.cpu import CPU_DEVICE_ID
from partitiond.devices.nvml.memory import memory_of
from partitiond.devices.nvml.session import or_none, session
from partitiond.platform.deadline_calls import DeadlineCalls

GPU_SECONDS: Final = 2.0
"""Deadline for reading all GPUs: a user waits for the page, which can do without gauges."""

LEAST_SECONDS: Final = 0.2
"""The CPU's load is a mean since the last reading; over less time it only flickers."""


class HostGauges:
    """Implements `ports.DeviceGauges` by NVML and /proc. Safe to use from any thread.

    Args:
        nvml: read NVIDIA GPUs.
        cpu: read the CPU.
        cpu_id: id of the CPU device.
        clock: monotonic time in seconds.
        gpu_seconds: deadline for reading all GPUs.
    """

    def __init__(
        self,
        *,
        nvml: bool = True,
        cpu: bool = True,
        cpu_id: str = CPU_DEVICE_ID,
        clock: Callable[[], float] = time.monotonic,
        gpu_seconds: float = GPU_SECONDS,
    ) -> None:
        self._looks = DeadlineCalls(gpu_seconds)
        self._nvml = nvml
        self._clock = clock
        self._cpu_id = cpu_id
        self._lock = threading.Lock()
        self._cpu = _CpuGauge(clock) if cpu else None

    def read(self) -> Mapping[str, DeviceReading]:
        """Return readings by device id; a device that does not answer is left out."""
        with self._lock:
            found = self._gpus() if self._nvml else {}
            if self._cpu is not None:
                found[self._cpu_id] = self._cpu.read()
            return found

    def _gpus(self) -> dict[str, DeviceReading]:
        try:
            return self._looks.ask("the gauges of GPUs", _gpus)
        except SilentError:  # device discovery tells which GPUs are silent
            return {}


def _gpus() -> dict[str, DeviceReading]:
    found: dict[str, DeviceReading] = {}
    try:
        with session():
            for index in range(or_none(pynvml.nvmlDeviceGetCount) or 0):
                handle = or_none(pynvml.nvmlDeviceGetHandleByIndex, index)
                uuid = None if handle is None else or_none(pynvml.nvmlDeviceGetUUID, handle)
                if uuid is not None:
                    found[uuid] = _gpu(handle)
    except pynvml.NVMLError:  # without a driver there are no GPUs to read
        return found
    return found


def _gpu(handle: Any) -> DeviceReading:
    memory = or_none(memory_of, handle, "")
    milliwatts = or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
    rates = or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)  # not available in MIG mode
    celsius = or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return DeviceReading(
        used_bytes=None if memory is None else memory.used_bytes,
        watts=None if milliwatts is None else milliwatts / 1000,
        busy_share=None if rates is None else rates.gpu / 100,
        celsius=None if celsius is None else float(celsius),
    )


class _CpuGauge:
    """Measures the load of the CPU since the last reading."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._told = DeviceReading()
        psutil.cpu_percent(None)

    def read(self) -> DeviceReading:
        now = self._clock()
        if now - self._at < LEAST_SECONDS:
            return self._told
        memory = psutil.virtual_memory()
        self._told = DeviceReading(
            used_bytes=int(memory.total - memory.available),
            busy_share=min(1.0, psutil.cpu_percent(None) / 100),
        )
        self._at = now
        return self._told
