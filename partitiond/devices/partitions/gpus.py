"""Reads through NVML what partitions need to know of a GPU, and finds failed GPUs."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import pynvml

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.health import DeviceFault, DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition_checks import GpuUse
from partitiond.devices.gpus.mig import mig_mode
from partitiond.devices.nvml.memory import memory_of
from partitiond.devices.nvml.processes import processes_on, sees_host_pids
from partitiond.devices.nvml.session import gpu, or_none
from partitiond.platform.deadline_calls import DeadlineCalls

HEALTH_SECONDS: Final = 2.0
"""Time between two health checks of all GPUs; one check is some hundred driver calls."""


class FailedGpus:
    """Finds GPUs whose health is failed: what runs there is wrong, broken or about to be.

    Args:
        discover: all devices, with their health.
        every_seconds: shortest time between two health checks.
    """

    def __init__(
        self, discover: Callable[[], Sequence[Device]], every_seconds: float = HEALTH_SECONDS
    ) -> None:
        self._discover = discover
        self._every_seconds = every_seconds
        self._looked_at = float("-inf")
        self._found: tuple[DeviceFault, ...] = ()

    def __call__(self) -> Sequence[DeviceFault]:
        """Return failed GPUs as last seen; unchanged if the driver refuses altogether."""
        now = time.monotonic()
        if now - self._looked_at >= self._every_seconds:
            self._looked_at = now
            try:
                devices = self._discover()
            except DeviceError:
                return self._found  # the loop shows why devices cannot be seen
            self._found = tuple(
                DeviceFault(device.id, device.health_reason)
                for device in devices
                if device.health is DeviceHealth.FAILED
            )
        return self._found


class NvmlGpus:
    """Reads the state of this host's GPUs through NVML.

    Args:
        faults: GPUs that failed.
        host_pids: whether the driver's pids are those of this PID namespace; None detects it.
        looks: makes the calls, each with a deadline; None uses the default deadline.
    """

    def __init__(
        self,
        faults: Callable[[], Sequence[DeviceFault]] = tuple,
        *,
        host_pids: bool | None = None,
        looks: DeadlineCalls | None = None,
    ) -> None:
        self._faults = faults
        self._looks = looks or DeadlineCalls()
        self._host_pids = sees_host_pids() if host_pids is None else host_pids

    def use(self, device_id: str) -> GpuUse:
        """Return the GPU's memory use now, and its processes if their pids are meaningful here.

        Raises:
            DeviceError: the driver refuses, or there is no such GPU.
        """
        return self._looks.ask(device_id, lambda: self._use(device_id))

    def _use(self, device_id: str) -> GpuUse:
        with gpu(device_id, f"tell the memory of {device_id}") as handle:
            memory = memory_of(handle, "")
            processes = processes_on(handle) if self._host_pids else ()
        return GpuUse(
            total_bytes=memory.total_bytes,
            reserved_bytes=memory.reserved_bytes,
            free_bytes=memory.total_bytes - memory.reserved_bytes - memory.used_bytes,
            processes=processes,
            all_told=self._host_pids,
        )

    def mig_is_on(self, device_id: str) -> bool:
        """Whether MIG is on now. Raises DeviceError."""

        def mode() -> bool:
            with gpu(device_id, f"tell the MIG mode of {device_id}") as handle:
                return (mig_mode(handle) or (False, False))[0]

        return self._looks.ask(device_id, mode)

    def compute_mode(self, device_id: str) -> int:
        """Return NVML's compute mode; the default if the driver tells none. Raises DeviceError."""

        def told_mode() -> int | None:
            with gpu(device_id, f"tell the compute mode of {device_id}") as handle:
                return or_none(pynvml.nvmlDeviceGetComputeMode, handle)

        mode = self._looks.ask(device_id, told_mode)
        return pynvml.NVML_COMPUTEMODE_DEFAULT if mode is None else int(mode)

    def faults(self) -> Sequence[DeviceFault]:
        """Return GPUs on which nothing can run any more."""
        return self._faults()
