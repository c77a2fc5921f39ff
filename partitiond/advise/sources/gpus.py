"""Reads this host's GPUs, how busy they are, and the processes on them. NVML queries only."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import psutil

from partitiond.advise.today import Deployment, foreign_note, without_engines
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.core.hardware.kinds import Device
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.nvml import gpu, processes
from partitiond.devices.telemetry.gpu import GpuSampler
from partitiond.platform.deadline_calls import DeadlineCalls

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})  # noqa: S104


class GpuWatch:
    """Watches this host's GPUs from `open` to `close`.

    Args:
        cores: host cores usable for engines.
        parents: returns a process's pid and its ancestors' pids; for tests.
        listeners: returns the pid that listens on each local TCP port; for tests.
    """

    def __init__(
        self,
        cores: Sequence[int],
        parents: Callable[[int], Sequence[int]] | None = None,
        listeners: Callable[[], Mapping[int, int]] | None = None,
    ) -> None:
        self._cores = cores
        self._parents = parents or _parents
        self._listeners = listeners or _listeners
        self._looks = DeadlineCalls()
        self._devices: tuple[Device, ...] = ()
        self._samplers: dict[str, GpuSampler] = {}

    def open(self) -> tuple[Device, ...]:
        """Begin, and return the GPUs; none without NVIDIA's driver. Raises DeviceError."""
        self._devices = discover_gpus(self._cores)
        for device in self._devices:
            sampler = GpuSampler(device.id, self._looks)
            sampler.open()
            self._samplers[device.id] = sampler
        return self._devices

    def close(self, addresses: Iterable[str]) -> Deployment:
        """End, and return the result; processes of engines at these addresses are not foreign."""
        busy = {}
        for device, sampler in self._samplers.items():
            figures = sampler.close().values
            share = figures.get("gpu_util", figures.get("sm_activity"))
            if share is not None:
                busy[device] = share
        self._samplers.clear()
        on_gpu = {device.id: processes_on(device.id, self._looks) for device in self._devices}
        on, foreign = gpus_of(on_gpu, tuple(addresses), self._listeners(), self._parents)
        devices = without_engines(self._devices, foreign)
        return Deployment(devices, on, busy, foreign_note(foreign))


def processes_on(uuid: str, looks: DeadlineCalls) -> tuple[GpuProcess, ...]:
    """Return processes with a context on a GPU; empty if the driver does not tell."""

    def listed() -> tuple[GpuProcess, ...]:
        with gpu(uuid, f"list the processes on {uuid}") as handle:
            return processes.processes_on(handle)

    with contextlib.suppress(DeviceError):
        return looks.ask(uuid, listed)
    return ()


def gpus_of(
    on_gpu: Mapping[str, Sequence[GpuProcess]],
    addresses: Sequence[str],
    listeners: Mapping[int, int],
    parents: Callable[[int], Sequence[int]],
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Return the GPUs of each address, and what foreign processes hold.

    The process that holds a GPU is the process that listens, or a child of it (vLLM's engine core).
    Engines of other hosts, or behind a container's port, are not found.

    Args:
        on_gpu: processes by GPU.
        addresses: addresses of the engines.
        listeners: pid of the listening process, by TCP port.
        parents: returns a process's pid and its ancestors' pids.

    Returns:
        GPUs by address; bytes of processes that belong to none of the addresses, by GPU. The latter
        is empty unless every address was found: else the processes may be an engine's.
    """
    ports = {port: a for a in addresses if (port := _local_port(a)) is not None}
    owner = {listeners[port]: address for port, address in ports.items() if port in listeners}
    on: dict[str, list[str]] = {}
    foreign: dict[str, int] = {}
    for uuid, listed in on_gpu.items():
        for process in listed:
            address = next((owner[p] for p in parents(process.pid) if p in owner), None)
            if address is None:
                foreign[uuid] = foreign.get(uuid, 0) + (process.used_bytes or 0)
            elif uuid not in on.setdefault(address, []):
                on[address].append(uuid)
    found_all = all(address in on for address in addresses)
    return {a: tuple(gpus) for a, gpus in on.items()}, foreign if found_all else {}


def _local_port(address: str) -> int | None:
    parts = urlsplit(address)
    if parts.hostname not in LOCAL_HOSTS:
        return None
    return parts.port or (443 if parts.scheme == "https" else 80)


def _parents(pid: int) -> Sequence[int]:
    try:
        return [pid, *(p.pid for p in psutil.Process(pid).parents())]
    except psutil.Error:
        return [pid]


def _listeners() -> dict[int, int]:
    """Return listening pids by TCP port, of processes that this user may inspect."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return {}
    return {
        c.laddr.port: c.pid
        for c in connections
        if c.laddr and c.status == psutil.CONN_LISTEN and c.pid is not None
    }
