"""Discovers the devices of this host: its NVIDIA GPUs, and its CPU."""

import dataclasses
import platform
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import NotFoundError, SilentError
from partitiond.core.hardware.chosen_gpus import ALL_GPUS, ChosenGpus
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, SharingMode, short_device, silent_device
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.geometry import Place
from partitiond.devices.cpu import CPU_DEVICE_ID, discover_cpu
from partitiond.devices.gpus.details import details_of
from partitiond.devices.gpus.discovery import GpuDiscovery, GpuSnapshot
from partitiond.devices.nvml.events import XidWatch
from partitiond.devices.nvml.library import use_library
from partitiond.platform.deadline_calls import DeadlineCalls

SIMULATED_NVML: Final = Path("lib/libnvidia-ml.so.1")
"""NVML library of a simulated host, relative to the host's folder."""


class HostDevices:
    """Discovers the devices of this host anew with each call. Safe to use from any thread.

    Args:
        cpu_cores: cores engines may use; None for all that this process may use.
        cpu_memory_bytes: memory of the CPU device; None for all that there is.
        nvml: look for NVIDIA GPUs.
        cpu: offer the CPU as a device, too.
        own_pids: processes of our engines and MPS servers; all other processes are foreign.
        mig_changes: which changes of MIG are allowed, as gpu.mig_changes; None offers what the kind
            of GPU offers, regardless of the user's rights.
        mig_helper: socket of the privileged MIG helper.
        simulated_host: folder of a simulated GPU host, whose NVML this process then uses.
        gpu_cores: host cores usable for engines of GPUs; None for those of the CPU device.
        mps_installed: whether MPS's control program is installed; without it no GPU offers MPS.
        mps_silent: returns why GPUs whose MPS control daemons hang are silent, by UUID.
        watch_xids: listen for Xid messages in a thread, until `close`; they count for health.
        own_instances: returns the places of our GPU instances on the GPU with a UUID; instances
            made by others stay where they are.
        chosen: which GPUs may be used; the others are cordoned, and offer nothing.
        looks: makes the NVML calls, each with a deadline; None uses the default deadline.
        cpu_id: id of the CPU device, unique among the devices of all hosts.
        host: name of this host; empty for what the kernel says.

    Attributes:
        host: name of this host.

    Raises:
        DeviceError: the simulated host's NVML library cannot be loaded.
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
        mps_silent: Callable[[], Mapping[str, str]] = dict,
        own_instances: Callable[[str], Collection[Place]] | None = None,
        chosen: ChosenGpus = ALL_GPUS,
        looks: DeadlineCalls | None = None,
        cpu_id: str = CPU_DEVICE_ID,
        host: str = "",
    ) -> None:
        self.looks = looks or DeadlineCalls()
        self._cpu_cores = tuple(cpu_cores) if cpu_cores is not None else None
        self._cpu_memory_bytes = cpu_memory_bytes
        self._gpu_cores = None if gpu_cores is None else tuple(gpu_cores)
        self._mps_installed = mps_installed
        self._mps_silent = mps_silent
        self._chosen = chosen
        self._indexes: dict[int, str] = {}
        self._nvml = nvml
        self._cpu = cpu
        self._cpu_id = cpu_id
        self.host = host or platform.node()
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
            host=self.host,
        )
        self._lock = threading.Lock()

    @property
    def unseen(self) -> str:
        """Why GPUs may be missing from the last discovery; see `GpuDiscovery`."""
        return self._gpus.unseen

    def discover(self) -> Sequence[Device]:
        """Return GPUs in the driver's order, then the CPU. A GPU whose driver hangs is returned as
        last seen, marked as silent.

        Raises:
            DeviceError: the driver or the host refuses, or configured cores do not exist.
        """
        host_cpu = self._host_cpu()
        gpus = tuple(seen.device for seen in self._seen(host_cpu.cores))
        return (*gpus, host_cpu) if self._cpu else gpus

    def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known about one device.

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
        seen = found[device_id]
        xids = self._xids.xids(device_id)
        try:
            return self.looks.ask(device_id, lambda: details_of(seen, xids))
        except SilentError:  # what was read is still worth showing
            return DeviceDetails(seen.device, seen.readings, xids)

    def forgive(self, device_id: str) -> None:
        """Forget the device's Xid messages, after an operator has looked after the device."""
        self._xids.forget(device_id)

    def close(self) -> None:
        """End the thread that listens for Xid messages, if there is one."""
        self._xids.close()

    def _host_cpu(self) -> Device:
        return discover_cpu(
            self._cpu_cores, self._cpu_memory_bytes, device_id=self._cpu_id, host=self.host
        )

    def _seen(self, cores: Sequence[int]) -> tuple[GpuSnapshot, ...]:
        if not self._nvml:
            return ()
        with self._lock:  # held at most for the looks' deadlines
            found = self._gpus.discover(cores if self._gpu_cores is None else self._gpu_cores)
            if found and self._watch_xids:
                self._xids.start()
        silent, installed = self._mps_silent(), self._mps_installed()
        # An index stays that of the first look: the driver's move up when a GPU falls off the bus.
        for index, uuid in self._gpus.uuids.items():
            if uuid not in self._indexes.values():
                self._indexes.setdefault(index, uuid)
        indexed = [self._indexes.get(i, "") for i in range(max(self._indexes, default=-1) + 1)]
        known = [one.device.id for one in found if one.device.id not in indexed]
        left = self._chosen.reasons([*indexed, *known])
        return tuple(
            dataclasses.replace(
                one,
                device=_unless_left(
                    _under_mps(one.device, silent.get(one.device.id, ""), installed),
                    left.get(one.device.id, ""),
                ),
            )
            for one in found
        )


def _unless_left(device: Device, reason: str) -> Device:
    """Return a GPU that is somebody else's, if there is a reason: nothing can be placed there."""
    if not reason:
        return device
    return dataclasses.replace(device, cordoned=True, cordon_reason=reason, modes=())


_STOPPED: Final = ": no engine can start or be ended there. Continue or end that process."


def _under_mps(device: Device, silent: str, installed: bool) -> Device:
    """Return a GPU as it is with its MPS daemon, which may hang, or without any."""
    if silent and device.health is not DeviceHealth.FAILED:
        return silent_device(device, silent, advice=_STOPPED)
    if installed:
        return device
    modes = tuple(mode for mode in device.modes if mode is not SharingMode.MPS)
    return dataclasses.replace(device, modes=modes)
