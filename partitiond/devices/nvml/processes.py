"""Processes on a GPU, and which of them can be recognised."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.device_memory import GpuProcess
from partitiond.devices.nvml.session import NOT_OFFERED

NO_INSTANCE: Final = 0xFFFFFFFF
"""In place of the id of a GPU instance: the process is in none."""

_HOST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The kernel's fixed number of the first namespace (PROC_PID_INIT_INO in proc_ns.h)."""

_LISTS: Final[tuple[tuple[Callable[[Any], Sequence[Any]], ...], ...]] = (
    (
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetComputeRunningProcesses_v2,
    ),
    (
        pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2,
    ),
    (
        pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v2,
    ),
)
"""Each with what older drivers (before 510) have in its place."""


def processes_on(handle: Any) -> tuple[GpuProcess, ...]:
    """Processes with compute, graphics or MPS contexts, by pid; one that is on several lists once.

    Of a MIG GPU those of all instances, where this user may see them.

    Raises:
        NVMLError: the driver refuses for another reason than that it does not offer a list.
    """
    found: dict[tuple[int, int | None], GpuProcess] = {}
    for versions in _LISTS:
        for entry in _listed(handle, versions):
            process = _process(entry)
            key = (process.pid, process.gpu_instance)
            known = found.get(key)
            if known is None or (process.used_bytes or 0) > (known.used_bytes or 0):
                found[key] = process
    return tuple(found[key] for key in sorted(found, key=lambda k: (k[0], k[1] or 0)))


def _listed(handle: Any, versions: tuple[Callable[[Any], Sequence[Any]], ...]) -> Sequence[Any]:
    for call in versions:
        try:
            return _again_if_grown(call, handle)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
                return ()  # a MIG GPU of which this user may only ask the instances
            if error.value not in NOT_OFFERED:
                raise
    return ()


def _again_if_grown(call: Callable[[Any], Sequence[Any]], handle: Any) -> Sequence[Any]:
    """The list may outgrow the binding's room between its two calls."""
    try:
        return call(handle)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            raise
        return call(handle)


def _process(entry: Any) -> GpuProcess:
    used, instance = entry.usedGpuMemory, int(entry.gpuInstanceId)
    return GpuProcess(
        pid=int(entry.pid),
        used_bytes=None if used is None else int(used),
        gpu_instance=None if instance == NO_INSTANCE else instance,
    )


def sees_host_pids(root: Path = Path("/")) -> bool:
    """Whether this process sees the pids that the driver names: not within a container."""
    try:
        return str((root / "proc/self/ns/pid").readlink()) == _HOST_PID_NAMESPACE
    except OSError:
        return True  # not told: then the pids are taken at their word


def is_visible(pid: int) -> bool:
    """Whether a process of that pid can be seen from here."""
    return Path(f"/proc/{pid}").exists()


def name_of(pid: int) -> str:
    """The command's name; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""
