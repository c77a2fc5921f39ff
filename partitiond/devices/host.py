"""The devices of this host: its NVIDIA GPUs, and its CPU."""

import dataclasses
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import NotFoundError, SilentError
from partitiond.core.hardware import Device, DeviceDetails, SharingMode, short_device
from partitiond.core.mig import Place
from partitiond.devices.cpu import discover_cpu
from partitiond.devices.nvml.details import details_of
from partitiond.devices.nvml.discovery import GpuDiscovery, Seen
from partitiond.devices.nvml.events import XidWatch
from partitiond.devices.nvml.library import use_library
from partitiond.devices.nvml.mig import MigChanges
from partitiond.looks import Looks

SIMULATED_NVML: Final = Path("lib/libnvidia-ml.so.1")
"""The NVML of a simulated host, in its folder."""


class HostDevices:
    """Finds the devices of this host, afresh with each call. Safe to use from any thread.

    Args:
        cpu_cores: cores engines may use; None for all that this process may use.
        cpu_memory_bytes: memory of the CPU device; None for all that there is.
        nvml: look for NVIDIA GPUs.
        cpu: offer the CPU as a device, too.
        own_pids: processes of our engines and MPS servers; everyone else's are foreign.
        mig_changes: what may be changed of MIG, as gpu.mig_changes; None offers what a kind of
            GPU offers, whoever asks.
        mig_helper: socket of the privileged MIG helper.
        simulated_host: folder of a simulated GPU host, whose NVML this process then uses in place
            of the system's.
        gpu_cores: host cores usable for engines of GPUs; None for those of the CPU device.
        mps_installed: whether MPS's control program is there; without it no GPU offers MPS.
        watch_xids: listen for Xid messages in a thread, until `close`; they count for health.
        own_instances: where GPU instances of ours are, by the UUID of their GPU: what others made
            stays where it is.
        looks: makes the calls of NVML, each with a deadline; None has the usual one.

    Raises:
        DeviceError: the simulated host has no library that can be loaded.
    """

    def __init__(
        self,
        cpu_cores: Sequence[int] | None = None,
        cpu_memory_bytes: int | None = None,
        nvml: bool = True,
        cpu: bool = True,
        *,
        own_pids: Callable[[], Collection[int]] = tuple,
        mig_changes: MigChanges | None = None,
        mig_helper: Path | None = None,
        simulated_host: Path | None = None,
        watch_xids: bool = False,
        gpu_cores: Sequence[int] | None = None,
        mps_installed: Callable[[], bool] = lambda: True,
        own_instances: Callable[[str], Collection[Place]] | None = None,
        looks: Looks | None = None,
    ) -> None:
        self.looks = looks or Looks()
        self._cpu_cores = tuple(cpu_cores) if cpu_cores is not None else None
        self._cpu_memory_bytes = cpu_memory_bytes
        self._gpu_cores = None if gpu_cores is None else tuple(gpu_cores)
        self._mps_installed = mps_installed
        self._nvml = nvml
        self._cpu = cpu
        if simulated_host is not None and nvml:
            use_library(simulated_host / SIMULATED_NVML)
        self._xids = XidWatch()
        self._watch_xids = watch_xids and nvml
        self._gpus = GpuDiscovery(
            own_pids=own_pids,
            mig_changes=mig_changes,
            mig_helper=mig_helper,
            host_pids=True if simulated_host is not None else None,
            xids=self._xids.xids,
            own_instances=own_instances,
            looks=self.looks,
        )
        self._lock = threading.Lock()

    @property
    def unseen(self) -> str:
        """Why GPUs may be missing from the last look; see `GpuDiscovery`."""
        return self._gpus.unseen

    def discover(self) -> Sequence[Device]:
        """GPUs in the driver's order, then the CPU. A GPU whose driver hangs comes as it was seen
        last, and silent.

        Raises:
            DeviceError: the driver or the host refuses, or cores are set that are not there.
        """
        host_cpu = self._host_cpu()
        gpus = tuple(seen.device for seen in self._seen(host_cpu.cores))
        return (*gpus, host_cpu) if self._cpu else gpus

    def inspect(self, device_id: str) -> DeviceDetails:
        """Everything that is told of one device.

        Raises:
            DeviceError: the driver or the host refuses.
            NotFoundError: there is no such device.
        """
        host_cpu = self._host_cpu()
        if self._cpu and device_id == host_cpu.id:
            return DeviceDetails(host_cpu)
        found = {seen.device.id: seen for seen in self._seen(host_cpu.cores)}
        if device_id not in found:
            raise NotFoundError(
                f"there is no device {short_device(device_id)}.",
                hint="`partitiond devices` lists them.",
                facts={"device": device_id},
            )
        seen, others = found[device_id], [uuid for uuid in found if uuid != device_id]
        xids = self._xids.xids(device_id)
        try:
            return self.looks.ask(device_id, lambda: details_of(seen, others, xids))
        except SilentError:  # what was seen is still worth showing
            return DeviceDetails(seen.device, seen.readings, xids)

    def forgive(self, device_id: str) -> None:
        """Somebody looked after the device: Xid messages so far count no more against it."""
        self._xids.forget(device_id)

    def close(self) -> None:
        """End the thread that listens for Xid messages, if there is one."""
        self._xids.close()

    def _host_cpu(self) -> Device:
        return discover_cpu(self._cpu_cores, self._cpu_memory_bytes)

    def _seen(self, cores: Sequence[int]) -> tuple[Seen, ...]:
        if not self._nvml:
            return ()
        with self._lock:  # held no longer than the looks' deadlines
            found = self._gpus.discover(cores if self._gpu_cores is None else self._gpu_cores)
            if found and self._watch_xids:
                self._xids.start()
        if self._mps_installed():
            return found
        return tuple(dataclasses.replace(s, device=_without_mps(s.device)) for s in found)


def _without_mps(device: Device) -> Device:
    modes = tuple(mode for mode in device.modes if mode is not SharingMode.MPS)
    return dataclasses.replace(device, modes=modes)
