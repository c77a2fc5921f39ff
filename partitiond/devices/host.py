"""The devices of this host: its NVIDIA GPUs, and its CPU."""

from collections.abc import Sequence

from partitiond.core.hardware import Device
from partitiond.devices.cpu import discover_cpu
from partitiond.devices.nvml import discover_gpus


class HostDevices:
    """Finds the devices of this host, afresh with each call.

    Args:
        cpu_cores: cores engines may use; None for all that this process may use.
        cpu_memory_bytes: memory of the CPU device; None for all that there is.
        nvml: look for NVIDIA GPUs.
        cpu: offer the CPU as a device, too.
    """

    def __init__(
        self,
        cpu_cores: Sequence[int] | None = None,
        cpu_memory_bytes: int | None = None,
        nvml: bool = True,
        cpu: bool = True,
    ) -> None:
        self._cpu_cores = tuple(cpu_cores) if cpu_cores is not None else None
        self._cpu_memory_bytes = cpu_memory_bytes
        self._nvml = nvml
        self._cpu = cpu

    def discover(self) -> Sequence[Device]:
        """GPUs in the driver's order, then the CPU.

        Raises:
            DeviceError: the driver or the host refuses, or cores are set that are not there.
        """
        host_cpu = discover_cpu(self._cpu_cores, self._cpu_memory_bytes)
        gpus = discover_gpus(host_cpu.cores) if self._nvml else ()
        return (*gpus, host_cpu) if self._cpu else gpus
